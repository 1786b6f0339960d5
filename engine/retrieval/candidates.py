"""Candidates of many users: the results of K searches merged to one list each, duplicates and seen items removed.

Pure, arrays in, arrays out. Two sorts of 64-bit words a user decide everything, because numpy sorts words many times
faster than it sorts by a key. In the first, a result is a word of its item row (28 bits), its score in descending order
(22 bits) and its place among the results (14 bits), and a seen item is a word of its row and zeros: the words of an
item become neighbours, a seen mark first, then the best score. Only the first word of an item survives. The second
sort orders the survivors by score.

More results than 14 bits can number are sorted by their argument instead, with the whole score in the word: slower, and
rare, since K times C is as a rule in the hundreds.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from engine.arrays import NO_ITEM, Bool, Float32, Int32, Int64, UInt32

UInt64 = npt.NDArray[np.uint64]

_PLACE_BITS: Final = np.uint64(14)
_ROW_SHIFT: Final = np.uint64(14 + 22)
_PLACE_MASK: Final = np.uint64((1 << 14) - 1)
_SCORE_SHIFT: Final = np.uint32(32 - 22)
_HALF: Final = np.uint64(32)
_LOW_HALF: Final = np.uint64((1 << 32) - 1)
_NOTHING: Final = np.uint64((1 << 64) - 1)
MAX_PLACES: Final = (1 << 14) - 2
"""Most results of a user, K times C, that the packed words can number."""
MAX_ITEMS: Final = (1 << 28) - 1
"""Most items of a release."""


@dataclass(slots=True)
class Candidates:
    """The P best candidates of each of B users, best first, ties by row."""

    rows: Int32
    """[B, P] item rows of the release; NO_ITEM after the last candidate."""
    scores: Float32
    """[B, P] interest · item; -inf after the last candidate."""
    interests: Int32
    """[B, P] the interest that found the item with that score, or is nearest to it."""
    origins: Int32
    """[B, P] where no interest found the item, row of the window's item that it is a neighbour of, or POPULAR; NO_ITEM
    elsewhere."""
    counts: Int64
    """[B] candidates of each user, of which at most P are kept."""
    duplicates: int
    """Results removed because the same item was found with a better score."""
    seen: int
    """Items removed because the user has seen them."""

    def take(self, columns: Int64, scores: Float32) -> "Candidates":
        """These candidates [B, P] in the order of `columns`, with new scores."""
        return Candidates(
            rows=np.take_along_axis(self.rows, columns, axis=1),
            scores=np.take_along_axis(scores, columns, axis=1),
            interests=np.take_along_axis(self.interests, columns, axis=1),
            origins=np.take_along_axis(self.origins, columns, axis=1),
            counts=self.counts,
            duplicates=self.duplicates,
            seen=self.seen,
        )

    def replace(self, users: Int64, others: "Candidates") -> None:
        """Replace the candidates of these users by those of a deeper search."""
        self.rows[users], self.scores[users] = others.rows, others.scores
        self.interests[users], self.counts[users] = others.interests, others.counts
        self.origins[users] = others.origins
        self.duplicates += others.duplicates
        self.seen += others.seen


def nothing(users: int, places: int) -> Candidates:
    """No candidates [B, P]."""
    shape = (users, places)
    return Candidates(
        rows=np.full(shape, NO_ITEM, np.int32),
        scores=np.full(shape, -np.inf, np.float32),
        interests=np.zeros(shape, np.int32),
        origins=np.full(shape, NO_ITEM, np.int32),
        counts=np.zeros(users, np.int64),
        duplicates=0,
        seen=0,
    )


@dataclass(frozen=True, slots=True)
class _Ordered:
    """Seen marks and results of B users, W = S + K * C each, in order of item row, seen mark first, then best score."""

    rows: UInt64
    """[B, W] item rows; the same number above all of them where there is neither result nor mark."""
    places: Int64
    """[B, W] place of each result among its user's, from 1; 0 for a seen mark."""
    is_result: Bool
    """[B, W]"""


def merge(rows: Int32, scores: Float32, seen: Int32, keep: int) -> Candidates:
    """Merge the results of K searches a user, without the items in `seen`.

    Args:
        rows: [B, K, C] item rows found near each interest; NO_ITEM is no result.
        scores: [B, K, C] their inner products.
        seen: [B, S] item rows to leave out; NO_ITEM is none.
        keep: P, candidates to keep a user.
    """
    users, _, per_interest = rows.shape
    flat_rows, flat_scores = rows.reshape(users, -1), scores.reshape(users, -1)  # [B, K*C]
    order = _order_packed if flat_rows.shape[1] <= MAX_PLACES else _order_wide
    ordered = order(flat_rows, flat_scores, seen)
    again = np.zeros(ordered.rows.shape, bool)
    again[:, 1:] = ordered.rows[:, 1:] == ordered.rows[:, :-1]
    survives = ordered.is_result & ~again
    counts = survives.sum(axis=1)
    places = _best_places(np.where(survives, ordered.places, 0), flat_scores, keep)  # [B, P], 0 for no candidate
    index = np.maximum(places - 1, 0)
    there = places > 0
    seen_count = int((ordered.is_result[:, 1:] & again[:, 1:] & (ordered.places[:, :-1] == 0)).sum())
    return Candidates(
        rows=np.where(there, np.take_along_axis(flat_rows, index, axis=1), np.int32(NO_ITEM)),
        scores=np.where(there, np.take_along_axis(flat_scores, index, axis=1), np.float32(-np.inf)),
        interests=(index // per_interest).astype(np.int32),
        origins=np.full(places.shape, NO_ITEM, np.int32),
        counts=counts,
        duplicates=int(ordered.is_result.sum()) - int(counts.sum()) - seen_count,
        seen=seen_count,
    )


def _order_packed(rows: Int32, scores: Float32, seen: Int32) -> _Ordered:
    """By words that hold row, score and place; for up to MAX_PLACES results [B, K*C] a user."""
    marks = np.where(seen == NO_ITEM, _NOTHING, seen.astype(np.uint64) << _ROW_SHIFT)
    places = np.arange(1, rows.shape[1] + 1, dtype=np.uint64)
    rank = (_descending(scores) >> _SCORE_SHIFT).astype(np.uint64)
    results = np.where(rows == NO_ITEM, _NOTHING, rows.astype(np.uint64) << _ROW_SHIFT | rank << _PLACE_BITS | places)
    words = np.concatenate([marks, results], axis=1)  # [B, S + K*C]
    words.sort(axis=1)
    ordered_places = (words & _PLACE_MASK).view(np.int64)
    return _Ordered(words >> _ROW_SHIFT, ordered_places, (ordered_places > 0) & (words != _NOTHING))


def _order_wide(rows: Int32, scores: Float32, seen: Int32) -> _Ordered:
    """By words that hold row and score, with the place from a stable argsort; for any number of results."""
    marks = np.where(seen == NO_ITEM, _NOTHING, seen.astype(np.uint64) << _HALF)
    results = np.where(rows == NO_ITEM, _NOTHING, rows.astype(np.uint64) << _HALF | _descending(scores))
    words = np.concatenate([marks, results], axis=1)  # [B, S + K*C], marks first, as a stable sort leaves them
    columns = np.argsort(words, axis=1, kind="stable")
    words = np.take_along_axis(words, columns, axis=1)
    places = np.maximum(columns - seen.shape[1] + 1, 0)
    return _Ordered(words >> _HALF, places, (places > 0) & (words != _NOTHING))


def _best_places(places: Int64, scores: Float32, keep: int) -> Int64:
    """[B, P] places (from 1) of the results with the highest scores, 0 where there are no more.

    Args:
        places: [B, W] places of the results to choose from, 0 elsewhere; ascending by item row.
        scores: [B, K*C]
        keep: P.
    """
    rank = _descending(np.take_along_axis(scores, np.maximum(places - 1, 0), axis=1)).astype(np.uint64)
    columns = np.arange(places.shape[1], dtype=np.uint64)  # ascending by row: breaks ties
    ordered = np.where(places > 0, rank << _HALF | columns, _NOTHING)
    ordered.sort(axis=1)
    ordered = np.pad(ordered[:, :keep], ((0, 0), (0, max(0, keep - ordered.shape[1]))), constant_values=_NOTHING)
    index = np.where(ordered == _NOTHING, 0, ordered & _LOW_HALF).astype(np.int64)
    return np.where(ordered == _NOTHING, 0, np.take_along_axis(places, index, axis=1))


def _descending(scores: Float32) -> UInt32:
    """Bits of floats, arranged so that a higher score is a lower number."""
    bits = np.ascontiguousarray(scores).view(np.uint32)
    return np.where(bits >> np.uint32(31), bits, ~(bits | np.uint32(1 << 31)))
