"""Validation during training: the newest training event of some users, held out before training begins."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import torch
from torch import Tensor

from engine.arrays import FIRST_SEARCH, NO_ACTION, NO_ITEM, Bool, Float32, Int64
from engine.errors import DataError
from models.data import sequences
from models.data.histories import Histories
from models.data.sequences import SequenceBatch, Sequences
from models.network.loss import interests_in_use
from models.network.two_hop import TwoHopEncoder
from models.settings import TrainSettings

_SCORES = 1 << 25
"""Scores alive at once: 128 MB of float32."""
_STANDARD_ERRORS: Final = 3.0
"""By which one result must lead another on the same targets."""


@dataclass(frozen=True, slots=True)
class ValidationResult:
    """An encoder's accuracy on the validation events."""

    ndcg: float
    """Mean of 1 / log2(1 + rank) of the next item among all unseen ones."""
    interests_in_use: float
    """Effective number of interests, from 1 to K (`models.network.loss`)."""
    gains: Float32 = field(default_factory=lambda: np.zeros(0, np.float32))
    """1 / log2(1 + rank) of each target, in the order of the queries."""

    def is_beyond_chance(self, other: "ValidationResult") -> bool:
        """Whether this is better than `other`, a result on the same targets, by more than chance.

        The differences are paired by target, and the bound is that of a one-sided test at 0.1 %: the best of some
        dozens of rounds is ahead of the others by luck, too.
        """
        differences = (self.gains - other.gains).astype(np.float64)
        if len(differences) < 2:  # noqa: PLR2004 - one has no spread
            return False
        error = differences.std(ddof=1) / math.sqrt(len(differences))
        return bool(differences.mean() > _STANDARD_ERRORS * error)


class Validation:
    """The validation events, and the windows before them."""

    def __init__(self, histories: Histories, queries: Sequences, batch_sequences: int) -> None:
        """Args: histories; the sequences that end before the validation events; how many are encoded at once."""
        self._histories, self.queries, self._batch_sequences = histories, queries, batch_sequences

    @torch.no_grad()
    def run(self, encoder: TwoHopEncoder) -> ValidationResult:
        """Rank the next item of every query; leaves the encoder in evaluation mode."""
        encoder.eval()
        vectors = encoder.items.table()  # [V, D]
        numbers, size = np.arange(len(self.queries)), self._batch_sequences
        results = [(vectors.new_zeros(0), vectors.new_zeros(0, encoder.settings.interests))]
        for part in np.array_split(numbers, range(size, len(numbers), size)):
            results += _rank_targets(encoder, vectors, sequences.gather(self._histories, self.queries, part))
        gains, target_scores = (torch.cat(column) for column in zip(*results, strict=True))
        if not len(gains):
            return ValidationResult(0.0, 0.0)
        return ValidationResult(float(gains.mean()), interests_in_use(target_scores), gains.cpu().numpy())


def split(histories: Histories, settings: TrainSettings) -> tuple[Sequences, Validation]:
    """Training sequences, and the validation that decides when to stop.

    Raises:
        DataError: too little is left to train on.
    """
    length = settings.encoder.window_length
    held_out = _validation_users(histories.lengths(), settings)
    training = sequences.cut(histories.lengths() - held_out, histories.starts[:-1], length)
    if len(training) == 0 or not held_out.any():
        raise DataError(
            f"{len(histories.starts) - 1} users with {len(histories.items)} events are left to train on, too few"
            " with two events or more; give more data or a smaller --holdout"
        )
    ends = histories.starts[1:][held_out] - 1
    begins = np.maximum(histories.starts[:-1][held_out], ends - length)
    return training, Validation(histories, Sequences(begins, ends, ends - 1), settings.batch_sequences)


def _validation_users(lengths: Int64, settings: TrainSettings) -> Bool:
    """Mask [U] of the users whose newest training event is held out; each keeps at least one event to train on."""
    eligible = np.flatnonzero(lengths >= 2)  # noqa: PLR2004 - an input and a target
    rng = np.random.default_rng(settings.seed)
    drawn = rng.choice(eligible, min(settings.validation_users, (len(eligible) + 1) // 2), replace=False)
    mask = np.zeros(len(lengths), np.bool_)
    mask[drawn] = True
    return mask


def _rank_targets(encoder: TwoHopEncoder, vectors: Tensor, batch: SequenceBatch) -> Iterator[tuple[Tensor, Tensor]]:
    """1 / log2(1 + rank) of each target [s], and its score by each interest [s, K].

    There is one target per user, or none. Users are scored a few at a time: each has K * V scores.
    """
    device = vectors.device
    users, positions = np.nonzero(batch.targets != sequences.NO_TARGET)
    is_click = (batch.actions != NO_ACTION) & (batch.items < FIRST_SEARCH)
    seen_items = np.where(is_click, batch.items, np.int32(NO_ITEM))[users]  # [S', L]
    columns = (
        encoder.encode(batch)[users, positions],  # [S', K, D]
        torch.from_numpy(batch.targets[users, positions]).to(device).long(),
        torch.from_numpy(seen_items).to(device).long(),
    )
    size = max(1, _SCORES // (encoder.settings.interests * len(vectors)))
    for interests, targets, seen in zip(*(torch.split(column, size) for column in columns), strict=True):
        by_interest = interests @ vectors.T  # [s, K, V]
        scores = by_interest.amax(1)  # [s, V]
        target_scores = scores.gather(1, targets[:, None])
        user, position = torch.nonzero(seen != NO_ITEM, as_tuple=True)
        scores[user, seen[user, position]] = -torch.inf
        above = (~(scores <= target_scores)).sum(1)  # NaN scores all count as above: such weights are the worst
        yield 1.0 / torch.log2(2.0 + above), by_interest[torch.arange(len(targets), device=device), :, targets]
