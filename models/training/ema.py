"""A moving average of the weights, which is validated and exported in place of the newest ones.

Polyak and Juditsky 1992, "Acceleration of Stochastic Approximation by Averaging". The average starts as the weights
themselves and forgets them fast at first: after n steps it keeps no more than (1 + n) / (10 + n) of its old value.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from models.network.two_hop import TwoHopEncoder


class WeightAverage:
    """The average of a training encoder's weights; with a decay of 0 the encoder itself, and nothing is copied."""

    def __init__(self, encoder: TwoHopEncoder, decay: float) -> None:
        self._trained = encoder
        self._averaged = AveragedModel(encoder, multi_avg_fn=_ema_update(decay)) if decay > 0.0 else None

    @property
    def encoder(self) -> TwoHopEncoder:
        """The encoder with the averaged weights."""
        return self._trained if self._averaged is None else cast("TwoHopEncoder", self._averaged.module)

    def update(self) -> None:
        """Average in the encoder's current weights, after a step."""
        if self._averaged is not None:
            self._averaged.update_parameters(self._trained)

    def state(self) -> dict[str, Any]:
        """The average and its number of updates, for a checkpoint."""
        return {} if self._averaged is None else self._averaged.state_dict()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state`."""
        if self._averaged is not None:
            self._averaged.load_state_dict(state)


def _ema_update(decay: float) -> Callable[[Sequence[Tensor], Sequence[Tensor], Tensor | int], None]:
    @torch.no_grad()
    def update(averages: Sequence[Tensor], weights: Sequence[Tensor], steps: Tensor | int) -> None:
        kept_share = min(decay, (1.0 + float(steps)) / (10.0 + float(steps)))
        for average, weight in zip(averages, weights, strict=True):
            average.lerp_(weight, 1.0 - kept_share)

    return update
