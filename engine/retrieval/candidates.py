"""From K result lists a user to one: duplicates merged, seen items removed, best first. Pure, arrays in, arrays out.

Two sorts of 64-bit words a user decide everything, because numpy sorts words many times faster than it sorts by a key
beside them. In the first, a result is a word of its item row (28 bits), its score turned round (22 bits) and its place
among the results (14 bits), and a seen item is a word of its row and zeros: the words of an item come to stand
together, a seen mark first, then the best score. Only the first word of an item survives. The second sort orders the
survivors by score.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from engine.arrays import NO_ITEM, Float32, Int32, Int64, UInt32

UInt64 = npt.NDArray[np.uint64]

_PLACE_BITS: Final = np.uint64(14)
_ROW_SHIFT: Final = np.uint64(14 + 22)
_PLACE_MASK: Final = np.uint64((1 << 14) - 1)
_SCORE_SHIFT: Final = np.uint32(32 - 22)
_HALF: Final = np.uint64(32)
_LOW_HALF: Final = np.uint64((1 << 32) - 1)
_NOTHING: Final = np.uint64((1 << 64) - 1)
MAX_PLACES: Final = (1 << 14) - 2
"""Results a user may have before merging: K times C."""
MAX_ITEMS: Final = (1 << 28) - 1
"""Items a release may have."""


@dataclass(slots=True)
class Candidates:
    """The P best candidates of each of B users, best first, ties by row."""

    rows: Int32
    """[B, P] item rows of the release; NO_ITEM behind the last candidate."""
    scores: Float32
    """[B, P] interest · item; -inf behind the last candidate."""
    interests: Int32
    """[B, P] the interest that found the item with that score."""
    counts: Int64
    """[B] candidates each user had, P of them kept at most."""
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
            counts=self.counts,
            duplicates=self.duplicates,
            seen=self.seen,
        )

    def replace(self, users: Int64, others: "Candidates") -> None:
        """Put the candidates of a deeper search in the place of those of these users."""
        self.rows[users], self.scores[users] = others.rows, others.scores
        self.interests[users], self.counts[users] = others.interests, others.counts
        self.duplicates += others.duplicates
        self.seen += others.seen


def merge(rows: Int32, scores: Float32, seen: Int32, keep: int) -> Candidates:
    """Merge the results of K searches a user, without the items in `seen`.

    Args:
        rows: [B, K, C] item rows found near each interest, K * C up to MAX_PLACES; NO_ITEM is no result.
        scores: [B, K, C] their inner products.
        seen: [B, S] item rows to leave out; NO_ITEM is none.
        keep: P, candidates to keep a user.
    """
    users, _, per_interest = rows.shape
    flat_rows, flat_scores = rows.reshape(users, -1), scores.reshape(users, -1)  # [B, K*C]
    words = np.concatenate([_seen_words(seen), _result_words(flat_rows, flat_scores)], axis=1)  # [B, S + K*C]
    words.sort(axis=1)
    is_result = ((words & _PLACE_MASK) > 0) & (words != _NOTHING)
    again = np.zeros(words.shape, bool)
    again[:, 1:] = (words[:, 1:] >> _ROW_SHIFT) == (words[:, :-1] >> _ROW_SHIFT)
    survives = is_result & ~again
    counts = survives.sum(axis=1)
    places = _best_places(words, survives, flat_scores, keep)  # [B, P], 0 where there is no candidate
    index = np.maximum(places - 1, 0)
    found = places > 0
    seen_count = int((is_result[:, 1:] & again[:, 1:] & ((words[:, :-1] & _PLACE_MASK) == 0)).sum())
    return Candidates(
        rows=np.where(found, np.take_along_axis(flat_rows, index, axis=1), np.int32(NO_ITEM)),
        scores=np.where(found, np.take_along_axis(flat_scores, index, axis=1), np.float32(-np.inf)),
        interests=(index // per_interest).astype(np.int32),
        counts=counts,
        duplicates=int(is_result.sum()) - int(counts.sum()) - seen_count,
        seen=seen_count,
    )


def _seen_words(seen: Int32) -> UInt64:
    return np.where(seen == NO_ITEM, _NOTHING, seen.astype(np.uint64) << _ROW_SHIFT)


def _result_words(rows: Int32, scores: Float32) -> UInt64:
    places = np.arange(1, rows.shape[1] + 1, dtype=np.uint64)
    rank = (_descending(scores) >> _SCORE_SHIFT).astype(np.uint64)
    return np.where(rows == NO_ITEM, _NOTHING, rows.astype(np.uint64) << _ROW_SHIFT | rank << _PLACE_BITS | places)


def _best_places(words: UInt64, survives: npt.NDArray[np.bool_], scores: Float32, keep: int) -> Int64:
    """[B, P] places (from 1) of the surviving results with the highest scores, 0 where there are no more."""
    places = np.where(survives, words & _PLACE_MASK, 0).astype(np.int64)  # [B, S + K*C]
    ranks = _descending(np.take_along_axis(scores, np.maximum(places - 1, 0), axis=1)).astype(np.uint64)
    columns = np.arange(words.shape[1], dtype=np.uint64)  # ascending by row: breaks ties
    ordered = np.where(survives, ranks << _HALF | columns, _NOTHING)
    ordered.sort(axis=1)
    ordered = np.pad(ordered[:, :keep], ((0, 0), (0, max(0, keep - ordered.shape[1]))), constant_values=_NOTHING)
    index = np.where(ordered == _NOTHING, 0, ordered & _LOW_HALF).astype(np.int64)
    return np.where(ordered == _NOTHING, 0, np.take_along_axis(places, index, axis=1))


def _descending(scores: Float32) -> UInt32:
    """Bits of floats, arranged so that a higher score is a lower number."""
    bits = np.ascontiguousarray(scores).view(np.uint32)
    return np.where(bits >> np.uint32(31), bits, ~(bits | np.uint32(1 << 31)))
