"""Item-to-item neighbours: candidates that others clicked near the newest items of a window, and a part of the score.

A release may carry a table of neighbours (`models.data.co_visits` counts it). A candidate's affinity to a window is

    a(i) = sum over the W newest items j of the window of  decay^(rank of j) * weight(j, i)

and its score becomes  interest . vector(i) + w * log(1 + a(i) / floor),  so that an item without any keeps its score.
Linden, Smith and York, "Amazon.com recommendations: item-to-item collaborative filtering", 2003; weights by rank as in
VMIS-kNN (Kersbergen, Sprangers and Schelter, "Serenade", 2022). w and floor are learned on events that neither the
encoder nor the table has seen (`models.training.neighbours_choice`).

As in `engine.retrieval.candidates`, sorts of 64-bit words do the work: a word is an item row (28 bits), its kind
(2 bits: a seen mark, a candidate, a neighbour), and for a neighbour its weight (24 bits, fixed point) and the rank of
its window item (10 bits). After the sort the words of an item are one run, and its affinity is a sum of integers, the
same on every machine.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from engine.arrays import NO_ITEM, Float32, Int32, Int64
from engine.contract import NeighbourSizes
from engine.retrieval.candidates import Candidates

UInt64 = npt.NDArray[np.uint64]

_ROW_SHIFT: Final = np.uint64(36)
_KIND_SHIFT: Final = np.uint64(34)
_WEIGHT_SHIFT: Final = np.uint64(10)
_CANDIDATE: Final = np.uint64(1) << _KIND_SHIFT
_NEIGHBOUR: Final = np.uint64(2) << _KIND_SHIFT
_KIND_BITS: Final = np.uint64(3) << _KIND_SHIFT
_WEIGHT_MASK: Final = np.uint64((1 << 24) - 1)
_RANK_MASK: Final = np.uint64((1 << 10) - 1)
_PLACE_MASK: Final = np.uint64((1 << 34) - 1)
_NOTHING: Final = np.uint64((1 << 64) - 1)
"""Sorts after every other word, and is of no kind."""
_COLUMN_BITS: Final = 24
_LAST_COLUMN: Final = (1 << _COLUMN_BITS) - 1
_ONE: Final = float(1 << 23)
"""The largest weight of a table in fixed point: half of what there are bits for, as float32 rounds up."""


class NeighbourTable:
    """Neighbours of V items, with weights in fixed point."""

    def __init__(self, rows: Int32, weights: Float32, sizes: NeighbourSizes) -> None:
        """Take over the table of a release.

        Args:
            rows: [V, M] rows of each item's neighbours; NO_ITEM after the last.
            weights: [V, M] their weights, 0 and up; 0 after the last.
            sizes: of the table, and the parameters of the score.
        """
        self.sizes = sizes
        self._rows = rows
        largest = float(weights.max(initial=0.0)) or 1.0
        self._weights = np.where(rows == NO_ITEM, np.float32(0.0), weights * np.float32(_ONE / largest))
        self._floor = sizes.floor * _ONE / largest
        self._decays = np.float32(sizes.decay) ** np.arange(sizes.last_items, dtype=np.float32)

    def __len__(self) -> int:
        return len(self._rows)

    def words(self, recent: Int32) -> UInt64:
        """[B, W * M] words of the neighbours of items [B, W], newest first; NO_ITEM and rows beyond V have none."""
        users, ranks = recent.shape
        known = (recent >= 0) & (recent < len(self))
        rows = self._rows[np.where(known, recent, 0)]  # [B, W, M]
        weights = self._weights[np.where(known, recent, 0)] * self._decays[:ranks, None]
        low = weights.astype(np.uint64) << _WEIGHT_SHIFT | np.arange(ranks, dtype=np.uint64)[:, None]
        words: UInt64 = rows.astype(np.uint64) << _ROW_SHIFT | _NEIGHBOUR | low
        words[(rows == NO_ITEM) | ~known[:, :, None]] = _NOTHING
        return words.reshape(users, -1)

    def bonus(self, affinities: Int64) -> Float32:
        """Part of the score for affinities in fixed point, of any shape."""
        bonus: Float32 = (self.sizes.weight * np.log1p(affinities / self._floor)).astype(np.float32)
        return bonus


@dataclass(frozen=True, slots=True)
class _Runs:
    """Items with at least one word, R in all, user by user, and by item row within a user."""

    begins: Int64
    """[B] index of each user's first run."""
    users: Int64
    """[R]"""
    firsts: UInt64
    """[R] first word of each run: the seen mark, or else the candidate, or else the smallest weight."""
    lasts: UInt64
    """[R] last word of each run: the largest weight, where there is a neighbour."""
    affinities: Int64
    """[R] sums of the weights, in fixed point."""
    kinds: UInt64
    """[R] kind of the first word; of no kind, where a user's empty words are."""


def add_neighbours(  # noqa: PLR0913 - two sources of candidates, and all that scores them
    candidates: Candidates,
    table: NeighbourTable,
    recent: Int32,
    excluded: Int32,
    interests: Float32,
    vectors: Float32,
    most: int,
) -> Candidates:
    """Candidates of both sources in the order of their joint score, as many as there were places before.

    Args:
        candidates: P candidates of each of B users, found by interests, best first.
        table: of the release.
        recent: [B, W] rows of the newest items of each window, newest first; NO_ITEM in empty places.
        excluded: [B, S] item rows to leave out; NO_ITEM is none.
        interests: [B, K, D]
        vectors: [V, D] item vectors of the release.
        most: neighbours a user, by affinity, that are added where no interest found them.
    """
    runs = _runs(np.concatenate([_marks(excluded), _places(candidates.rows), table.words(recent)], axis=1))
    scores = candidates.scores.copy()
    known = np.flatnonzero(runs.kinds == _CANDIDATE)
    places = (runs.firsts[known] & _PLACE_MASK).astype(np.int64)
    scores[runs.users[known], places] += table.bonus(runs.affinities[known])
    rows, affinities, ranks = _nearest(runs, most)  # [B, A]
    found = rows != NO_ITEM
    by_interest = vectors[np.maximum(rows, 0)] @ interests.transpose(0, 2, 1)  # [B, A, K]
    nearest = by_interest.argmax(axis=2).astype(np.int32)
    new_scores = np.where(found, by_interest.max(axis=2) + table.bonus(affinities), np.float32(-np.inf))
    origins = np.where(found, np.take_along_axis(recent, ranks, axis=1), np.int32(NO_ITEM))
    both = Candidates(
        rows=np.concatenate([candidates.rows, rows], axis=1),
        scores=np.concatenate([scores, new_scores], axis=1),
        interests=np.concatenate([candidates.interests, nearest], axis=1),
        origins=np.concatenate([candidates.origins, origins], axis=1),
        counts=candidates.counts + found.sum(axis=1),
        duplicates=candidates.duplicates,
        seen=candidates.seen,
    )
    order = np.argsort(-both.scores, axis=1, kind="stable")[:, : candidates.rows.shape[1]]
    return both.take(order, both.scores)


def _marks(excluded: Int32) -> UInt64:
    return np.where(excluded == NO_ITEM, _NOTHING, excluded.astype(np.uint64) << _ROW_SHIFT)


def _places(rows: Int32) -> UInt64:
    """[B, P] words of candidates, with their places."""
    places = np.arange(rows.shape[1], dtype=np.uint64)
    return np.where(rows == NO_ITEM, _NOTHING, rows.astype(np.uint64) << _ROW_SHIFT | _CANDIDATE | places)


def _runs(words: UInt64) -> _Runs:
    """The runs of words [B, X] of equal item row; sorts `words` in place."""
    words.sort(axis=1)
    rows = words >> _ROW_SHIFT
    begins = np.ones(words.shape, np.bool_)
    np.not_equal(rows[:, 1:], rows[:, :-1], out=begins[:, 1:])
    starts = np.flatnonzero(begins)
    flat = words.ravel()
    weights = (flat >> _WEIGHT_SHIFT & _WEIGHT_MASK).view(np.int64)
    weights *= (flat & _KIND_BITS) == _NEIGHBOUR
    until = np.cumsum(weights)
    counts = np.count_nonzero(begins, axis=1)
    ends = np.append(starts[1:], flat.size) - 1
    firsts = flat[starts]
    return _Runs(
        begins=np.cumsum(counts) - counts,
        users=np.repeat(np.arange(len(words)), counts),
        firsts=firsts,
        lasts=flat[ends],
        affinities=until[ends] - until[starts] + weights[starts],  # a third of the time of add.reduceat
        kinds=firsts & _KIND_BITS,
    )


def _nearest(runs: _Runs, most: int) -> tuple[Int32, Int64, Int64]:
    """The `most` items of each user with the highest affinity among those that are neighbours alone.

    Returns [B, most] rows (NO_ITEM after the last), affinities, and ranks of the window items that weigh most.
    """
    columns = np.arange(len(runs.users)) - runs.begins[runs.users]  # number of the run among its user's
    width = max(most, int(columns.max()) + 1)
    keys = np.zeros((len(runs.begins), width), np.int64)  # affinity and run, all different, 0 for other kinds
    keys[runs.users, columns] = np.where(
        runs.kinds == _NEIGHBOUR, (runs.affinities + 1 << _COLUMN_BITS) | (_LAST_COLUMN - columns), 0
    )
    best = np.partition(keys, width - most, axis=1)[:, width - most :]
    best = -np.sort(-best, axis=1)
    found = best > 0
    index = np.where(found, runs.begins[:, None] + _LAST_COLUMN - (best & _LAST_COLUMN), 0)
    last = runs.lasts[index]
    rows = np.where(found, (last >> _ROW_SHIFT).astype(np.int32), np.int32(NO_ITEM))
    ranks = np.where(found, (last & _RANK_MASK).astype(np.int64), 0)
    return rows, np.where(found, (best >> _COLUMN_BITS) - 1, 0), ranks
