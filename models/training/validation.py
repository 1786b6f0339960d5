"""What a training is tried on: some users' newest events, kept aside before it begins."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from engine.arrays import FIRST_SEARCH, NO_ACTION, NO_ITEM, Bool, Int64
from engine.errors import DataError
from models.data import sequences
from models.data.histories import Histories
from models.data.sequences import SequenceBatch, Sequences
from models.network.loss import interests_in_use
from models.network.two_hop import TwoHopEncoder
from models.settings import TrainSettings

_SCORES = 1 << 25
"""Scores alive at once: 128 MB of float32."""


@dataclass(frozen=True, slots=True)
class Found:
    """How well an encoder finds the events kept aside."""

    ndcg: float
    """Mean of 1 / log2(1 + rank) of the next item among all unseen ones."""
    interests_in_use: float
    """How many interests find the next items, from 1 to K (`models.network.loss`)."""


class Validation:
    """The events kept aside, and the windows before them."""

    def __init__(self, histories: Histories, asked: Sequences, batch_sequences: int) -> None:
        """Args: histories; the sequences that end before the events kept aside; how many are asked at once."""
        self._histories, self.asked, self._size = histories, asked, batch_sequences

    @torch.no_grad()
    def run(self, encoder: TwoHopEncoder) -> Found:
        """Try an encoder."""
        encoder.eval()
        vectors = encoder.items.table()  # [V, D]
        chosen = np.arange(len(self.asked))
        found = [(vectors.new_zeros(0), vectors.new_zeros(0, encoder.settings.interests))]
        for part in np.array_split(chosen, range(self._size, len(chosen), self._size)):
            found += _found(encoder, vectors, sequences.gather(self._histories, self.asked, part))
        gains, own = (torch.cat(column) for column in zip(*found, strict=True))
        return Found(float(gains.mean()), interests_in_use(own)) if len(gains) else Found(0.0, 0.0)


def cut(histories: Histories, settings: TrainSettings) -> tuple[Sequences, Validation]:
    """What is learned, and what is kept aside to tell when to stop.

    Raises:
        DataError: too little is left to learn from.
    """
    length = settings.encoder.window_length
    aside = _users(histories.lengths(), settings)
    training = sequences.cut(histories.lengths() - aside, histories.starts[:-1], length)
    if len(training) == 0 or not aside.any():
        raise DataError(
            f"{len(histories.starts) - 1} users with {len(histories.items)} events are left to train on, too few"
            " with two events or more; give more data or a smaller --holdout"
        )
    ends = histories.starts[1:][aside] - 1
    begins = np.maximum(histories.starts[:-1][aside], ends - length)
    asked = Sequences(begins=begins, ends=ends, target_begins=ends - 1)
    return training, Validation(histories, asked, settings.batch_sequences)


def _users(lengths: Int64, settings: TrainSettings) -> Bool:
    """[U] marks the users whose newest training event is kept aside; they keep at least one event to learn from."""
    able = np.flatnonzero(lengths >= 2)  # noqa: PLR2004 - an input and a target
    rng = np.random.default_rng(settings.seed)
    chosen = rng.choice(able, min(settings.validation_users, (len(able) + 1) // 2), replace=False)
    marks = np.zeros(len(lengths), np.bool_)
    marks[chosen] = True
    return marks


def _found(encoder: TwoHopEncoder, vectors: Tensor, batch: SequenceBatch) -> Iterator[tuple[Tensor, Tensor]]:
    """1 / log2(1 + rank) of each target [s], and its score by each interest [s, K].

    There is one target a user, or none. Some users are asked at a time: they have K * V scores each.
    """
    device = vectors.device
    users, places = np.nonzero(batch.targets != sequences.NO_TARGET)
    clicks = (batch.actions != NO_ACTION) & (batch.items < FIRST_SEARCH)
    shown = np.where(clicks, batch.items, np.int32(NO_ITEM))[users]  # [S', L]
    columns = (
        encoder.encode(batch)[users, places],  # [S', K, D]
        torch.from_numpy(batch.targets[users, places]).to(device).long(),
        torch.from_numpy(shown).to(device).long(),
    )
    rows = max(1, _SCORES // (encoder.settings.interests * len(vectors)))
    for interests, targets, seen in zip(*(torch.split(one, rows) for one in columns), strict=True):
        by_interest = interests @ vectors.T  # [s, K, V]
        scores = by_interest.amax(1)  # [s, V]
        own = scores.gather(1, targets[:, None])
        whose, which = torch.nonzero(seen != NO_ITEM, as_tuple=True)
        scores[whose, seen[whose, which]] = -torch.inf
        above = (~(scores <= own)).sum(1)  # of scores that are not numbers, all stand above: such weights are the worst
        yield 1.0 / torch.log2(2.0 + above), by_interest[torch.arange(len(targets), device=device), :, targets]
