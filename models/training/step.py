"""One step of a training: a batch in, its loss, gradients of all processes together, and an update of the weights.

The item table of a large catalogue learns by SparseAdam: a step reads and writes only the rows it has a gradient for,
not the whole table and its two moments. Such a row rests between its steps, where AdamW would let it drift on. What
items have of their content is small beside it, and learns by AdamW like all else.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from engine.arrays import Int64
from models.data import sequences
from models.data.sequences import SequenceBatch, Sequences
from models.network.loss import (
    NegativeSampler,
    SoftmaxCandidates,
    catalogue_loss,
    compacted,
    interest_agreement,
    nearest_interest,
    whole_catalogue,
)
from models.network.two_hop import TwoHopEncoder
from models.settings import TrainSettings
from models.training import devices
from models.training.distributed import Group, Step
from models.training.ema import WeightAverage
from models.training.training_data import TrainingData


class Learner:
    """An encoder in training, its moving average, its optimisers and what its targets are compared with."""

    def __init__(
        self, encoder: TwoHopEncoder, material: TrainingData, training: Sequences, settings: TrainSettings, group: Group
    ) -> None:
        """Args: encoder, on its device; what it learns from, cut into sequences; how; the processes that share it."""
        self._encoder, self._settings, self._group = encoder, settings, group
        self._histories, self._training = material.histories, training
        self._device = encoder.items.ids.weight.device
        counts = torch.from_numpy(material.counts).to(self._device)
        sampled = len(counts) > settings.full_softmax_up_to
        self._sampler = NegativeSampler(counts, settings.negatives, torch.default_generator)
        self._whole = None if sampled else whole_catalogue(len(counts), self._device)
        self._average = WeightAverage(encoder, settings.weight_averaging)
        table = encoder.items.ids
        table.sparse = sampled
        self._sparse = [table.weight] if sampled else []
        learned = (one for one in encoder.parameters() if one.requires_grad)
        self._dense = [one for one in learned if not (sampled and one is table.weight)]
        self._optimisers = _optimisers(self._dense, self._sparse, settings.learning_rate)

    @property
    def encoder(self) -> TwoHopEncoder:
        """What is validated and exported: the encoder with the averaged weights, where they are averaged."""
        return self._average.encoder

    def learn(self, chosen: Int64, rate: float, *, ending: bool) -> Step:
        """One step of all processes.

        Args:
            chosen: the sequences of the batch, of which this process takes its share.
            rate: the learning rate of this step.
            ending: whether this process wishes to end after it; the first process's wish counts.

        Returns:
            what all processes did.
        """
        self._encoder.train()
        for optimiser in self._optimisers:
            optimiser.zero_grad()
        targets, loss = self._backward(self._group.share(chosen))
        step = self._group.combine(self._dense, self._sparse, Step(targets, loss, ending))
        if step.targets:
            for optimiser in self._optimisers:
                for group in optimiser.param_groups:
                    group["lr"] = rate
                optimiser.step()
            self._average.update()
        return step

    def state(self) -> dict[str, Any]:
        """All that the next step stands on, but for what the processes draw at random."""
        return {
            "encoder": self._encoder.state_dict(),
            "average": self._average.state(),
            "optimisers": [optimiser.state_dict() for optimiser in self._optimisers],
            "random": self._group.all_gather(devices.random_state(self._device)),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`."""
        self._encoder.load_state_dict(state["encoder"])
        self._average.restore(state["average"])
        for optimiser, its_state in zip(self._optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(its_state)
        devices.set_random_state(self._device, state["random"][self._group.rank])

    def _backward(self, chosen: Int64) -> tuple[int, float]:
        """Gradients of the mean loss of these sequences' targets; how many there were, and that loss."""
        if not len(chosen):  # a small batch does not reach all processes
            return 0, 0.0
        batch = sequences.gather(self._histories, self._training, chosen, drawn_skips(len(chosen), self._settings))
        targets = int((batch.targets != sequences.NO_TARGET).sum())
        if not targets:
            return 0, 0.0
        loss = mean_loss(self._encoder, batch, self._whole or self._sampler.draw(), self._settings)
        torch.autograd.backward(loss)
        return targets, loss.item()


def mean_loss(
    encoder: TwoHopEncoder, batch: SequenceBatch, candidates: SoftmaxCandidates, settings: TrainSettings
) -> Tensor:
    """Mean loss of the P positions of a batch that have a target; there is one at least."""
    device = encoder.items.ids.weight.device
    asked = torch.from_numpy(batch.targets != sequences.NO_TARGET)  # [S, A]
    targets = torch.from_numpy(batch.targets)[asked].to(device).long()  # [P]
    interests = encoder.encode(batch)[asked.to(device)]  # [P, K, D]
    rows, targets, candidates = compacted(targets, candidates)
    vectors = encoder.items(rows)  # [R, D]
    loss = settings.interest_agreement * interest_agreement(interests) if settings.interest_agreement > 0.0 else 0.0
    if settings.interest_choice == "per_target":
        interests = nearest_interest(interests, targets, vectors)
    return loss + catalogue_loss(interests, targets, vectors, candidates)


def drawn_skips(sequences: int, settings: TrainSettings) -> Int64:
    """[S] how many events before each target are hidden (`models.data.sequences`), from torch's generator."""
    if settings.skip_share == 0.0:
        return np.zeros(sequences, np.int64)
    hiding = torch.rand(sequences) < settings.skip_share
    skips: Int64 = (hiding * torch.randint(1, settings.skip_most + 1, (sequences,))).numpy()
    return skips


def _optimisers(dense: list[nn.Parameter], sparse: list[Tensor], rate: float) -> list[torch.optim.Optimizer]:
    found: list[torch.optim.Optimizer] = [torch.optim.AdamW(dense, lr=rate, fused=True)]
    return found + ([torch.optim.SparseAdam(sparse, lr=rate)] if sparse else [])
