"""One training step: loss of a batch, gradients averaged over all processes, and an update of the weights.

The item table of a large catalogue is trained by SparseAdam: a step reads and writes only the rows that it has a
gradient for, not the whole table and its two moments. Other rows do not change, where AdamW would move them by momentum
and weight decay. Content parameters are few compared with the table, and are trained by AdamW like all else.
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
from models.training.distributed import Group, StepResult
from models.training.ema import WeightAverage
from models.training.training_data import TrainingData


class Stepper:
    """An encoder in training with its moving average, its optimisers and its softmax candidates."""

    def __init__(
        self, encoder: TwoHopEncoder, data: TrainingData, training: Sequences, settings: TrainSettings, group: Group
    ) -> None:
        """Args: encoder, on its device; training data; the sequences cut from it; settings; the process group."""
        self._encoder, self._settings, self._group = encoder, settings, group
        self._histories, self._training = data.histories, training
        self._device = encoder.items.ids.weight.device
        counts = torch.from_numpy(data.counts).to(self._device)
        is_sampled = len(counts) > settings.full_softmax_up_to
        self._sampler = NegativeSampler(counts, settings.negatives, torch.default_generator)
        self._whole = None if is_sampled else whole_catalogue(len(counts), self._device)
        self._average = WeightAverage(encoder, settings.weight_averaging)
        table = encoder.items.ids
        table.sparse = is_sampled
        self._sparse = [table.weight] if is_sampled else []
        trainable = (parameter for parameter in encoder.parameters() if parameter.requires_grad)
        self._dense = [parameter for parameter in trainable if not (is_sampled and parameter is table.weight)]
        self._optimisers = _optimisers(self._dense, self._sparse, settings.learning_rate)

    @property
    def encoder(self) -> TwoHopEncoder:
        """The encoder to validate and export: with averaged weights, if the settings say so."""
        return self._average.encoder

    def step(self, batch: Int64, learning_rate: float, *, stop: bool) -> StepResult:
        """One step of all processes.

        Args:
            batch: numbers of the batch's sequences, of which this process computes its shard.
            learning_rate: of this step.
            stop: this process's request to stop training after it; only rank 0's counts.

        Returns:
            the joint result of all processes.
        """
        self._encoder.train()
        for optimiser in self._optimisers:
            optimiser.zero_grad()
        targets, loss = self._backward(self._group.shard(batch))
        result = self._group.all_reduce(self._dense, self._sparse, StepResult(targets, loss, stop))
        if result.targets:
            for optimiser in self._optimisers:
                for group in optimiser.param_groups:
                    group["lr"] = learning_rate
                optimiser.step()
            self._average.update()
        return result

    def continue_from(self, weights: Mapping[str, Tensor]) -> None:
        """Take these weights, and begin their average anew; the optimisers keep their moments."""
        self._encoder.load_state_dict(weights)
        self._average = WeightAverage(self._encoder, self._settings.weight_averaging)

    def state(self) -> dict[str, Any]:
        """Weights, optimisers and the random generators of all processes, for a checkpoint."""
        return {
            "encoder": self._encoder.state_dict(),
            "average": self._average.state(),
            "optimisers": [optimiser.state_dict() for optimiser in self._optimisers],
            "random": self._group.all_gather(devices.random_state(self._device)),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state`."""
        self._encoder.load_state_dict(state["encoder"])
        self._average.restore(state["average"])
        for optimiser, optimiser_state in zip(self._optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(optimiser_state)
        devices.set_random_state(self._device, state["random"][self._group.rank])

    def _backward(self, shard: Int64) -> tuple[int, float]:
        """Compute the gradients of the mean loss of these sequences; returns the number of targets, and that loss."""
        if not len(shard):  # a small batch has fewer sequences than there are processes
            return 0, 0.0
        batch = sequences.gather(self._histories, self._training, shard, drawn_skips(len(shard), self._settings))
        targets = int((batch.targets != sequences.NO_TARGET).sum())
        if not targets:
            return 0, 0.0
        loss = mean_loss(self._encoder, batch, self._whole or self._sampler.draw(), self._settings)
        torch.autograd.backward(loss)
        return targets, loss.item()


def mean_loss(
    encoder: TwoHopEncoder, batch: SequenceBatch, candidates: SoftmaxCandidates, settings: TrainSettings
) -> Tensor:
    """Mean loss of the P positions of a batch that have a target; there must be at least one."""
    device = encoder.items.ids.weight.device
    has_target = torch.from_numpy(batch.targets != sequences.NO_TARGET)  # [S, A]
    targets = torch.from_numpy(batch.targets)[has_target].to(device).long()  # [P]
    interests = encoder.encode(batch)[has_target.to(device)]  # [P, K, D]
    rows, targets, candidates = compacted(targets, candidates)
    vectors = encoder.items(rows)  # [R, D]
    loss = settings.interest_agreement * interest_agreement(interests) if settings.interest_agreement > 0.0 else 0.0
    if settings.interest_choice == "per_target":
        interests = nearest_interest(interests, targets, vectors)
    return loss + catalogue_loss(interests, targets, vectors, candidates)


def drawn_skips(count: int, settings: TrainSettings) -> Int64:
    """[S] events to hide before each target (`models.data.sequences`) of `count` sequences, by torch's generator."""
    if settings.skip_share == 0.0:
        return np.zeros(count, np.int64)
    is_skipping = torch.rand(count) < settings.skip_share
    skips: Int64 = (is_skipping * torch.randint(1, settings.skip_max + 1, (count,))).numpy()
    return skips


def _optimisers(dense: list[nn.Parameter], sparse: list[Tensor], rate: float) -> list[torch.optim.Optimizer]:
    optimisers: list[torch.optim.Optimizer] = [torch.optim.AdamW(dense, lr=rate, fused=True)]
    return optimisers + ([torch.optim.SparseAdam(sparse, lr=rate)] if sparse else [])
