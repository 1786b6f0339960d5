"""Candidates of all sources in the order of their joint score: interests, neighbours of the window, popularity.

    score(i) = interest . vector(i) + (1 + u) * w_a * log(1 + a(i) / floor_a) + w_p * log(1 + p(i) / floor_p)

(of items that came after training: `engine.retrieval.later_items`)

with a(i) the affinity of the item to the window's newest items (`engine.retrieval.item_neighbours`), p(i) its share of
everybody's events of the last seven days, and u the share of the window's newest clicks that came after training. A
release has either part, both or none, as its contract says; weights and floors are learned on events that neither the
encoder nor the table has seen (`models.training.score_parts`).

Those events follow windows that the encoder was trained on, and it is surer than it should be of clicks that came
later. Measured on five sets (docs/log.md): twice the weight of neighbours takes up to 12 % of NDCG@10 from windows that
training knew, and adds up to 28 % to windows of later clicks.

As in `engine.retrieval.candidates`, sorts of 64-bit words do the work: a word is an item row (28 bits), its kind
(2 bits: a seen mark, a candidate, a neighbour, a popular item), and for a neighbour its weight (24 bits, fixed point)
and the rank of its window item (10 bits). After the sort the words of an item are one run, and its affinity is a sum of
integers, the same on every machine.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from engine.arrays import NO_ITEM, POPULAR, Bool, Float32, Int32, Int64
from engine.contract import PopularityScore
from engine.retrieval.candidates import Candidates
from engine.retrieval.item_neighbours import NeighbourTable
from engine.retrieval.later_items import NewItems

UInt64 = npt.NDArray[np.uint64]

_ROW_SHIFT: Final = np.uint64(36)
_KIND_SHIFT: Final = np.uint64(34)
_WEIGHT_SHIFT: Final = np.uint64(10)
_CANDIDATE: Final = np.uint64(1) << _KIND_SHIFT
_NEIGHBOUR: Final = np.uint64(2) << _KIND_SHIFT
_POPULAR: Final = np.uint64(3) << _KIND_SHIFT
_KIND_BITS: Final = np.uint64(3) << _KIND_SHIFT
_WEIGHT_MASK: Final = np.uint64((1 << 24) - 1)
_RANK_MASK: Final = np.uint64((1 << 10) - 1)
_PLACE_MASK: Final = np.uint64((1 << 34) - 1)
_NOTHING: Final = np.uint64((1 << 64) - 1)
"""Sorts after every other word; its row is that of no item."""
_COLUMN_BITS: Final = 24
_LAST_COLUMN: Final = (1 << _COLUMN_BITS) - 1


@dataclass(frozen=True, slots=True)
class PopularItems:
    """Popularity at a moment, as a source of candidates and a part of the score."""

    rows: Int32
    """[P] rows of the most popular items."""
    bonus: Float32
    """[V + 1] part of each item's score; the last is that of later items, 0."""

    @classmethod
    def of(cls, shares: Float32, score: PopularityScore | None, most: int, later: Float32) -> "PopularItems":
        """The `most` items with the highest shares of all events, by row, and every item's part of the score.

        Args:
            shares: [V] of the release's items.
            score: None where popularity has no part in the scores of these.
            most: the number of rows.
            later: [E] shares of later items by number, 0 for all others.
        """
        bonus = np.zeros(len(shares) + 1, np.float32)
        if score is not None:
            bonus[:-1] = np.float32(score.weight) * np.log1p(shares / np.float32(score.floor))
        every = np.concatenate([shares if score is not None else np.zeros_like(shares), later])
        rows = np.flatnonzero(every)
        if len(rows) > most:
            rows = rows[np.argpartition(-every[rows], most)[:most]]
        return cls(rows.astype(np.int32), bonus)


@dataclass(frozen=True, slots=True)
class Sources:
    """Sources of candidates other than interests, and the parts of the score that they give."""

    neighbours: NeighbourTable | None
    popular: PopularItems | None
    most: int
    """Neighbours of a user, by affinity, that are added where no other source found them."""
    new_items: NewItems | None = None
    """Neighbours from the stream; only with `neighbours`, by whose parameters they count."""
    later_shares: Float32 | None = None
    """[B] u, the share of each window's newest clicks that came after training; None for 0."""

    def vectors(self, rows: Int32, vectors: Float32) -> Float32:
        """Vectors of the items at `rows`, of any shape: the release's [V, D], or 0 beyond V."""
        if self.new_items is None:
            return vectors[np.maximum(rows, 0)]
        return self.new_items.vectors(rows, vectors)

    def bonus(self, rows: Int32, affinities: Int64, users: Int64) -> Float32:
        """Parts of the score of the items at `rows`, with their affinities in fixed point, of any shape.

        `users` are the indices of their users, of a shape that broadcasts to that one.
        """
        bonus = np.zeros(rows.shape, np.float32)
        if self.neighbours is not None:
            bonus += self.neighbours.bonus(affinities)
            if self.later_shares is not None:
                bonus *= np.float32(1.0) + self.later_shares[users]
        if self.popular is not None:
            bonus += np.take(self.popular.bonus, rows, mode="clip")
        if self.new_items is not None:
            self.new_items.add_scores(bonus, rows)
        return bonus


@dataclass(frozen=True, slots=True)
class _Runs:
    """Items with at least one word, R in all, user by user, and by item row within a user."""

    begins: Int64
    """[B] index of each user's first run."""
    users: Int64
    """[R]"""
    firsts: UInt64
    """[R] first word of each run: the seen mark, or else the candidate, the smallest weight, the popular item."""
    lasts: UInt64
    """[R] last word of each run: the popular item, or else the largest weight."""
    affinities: Int64
    """[R] sums of the weights, in fixed point."""

    def begin_as(self, kind: np.uint64) -> Bool:
        """Mask [R] of the runs whose first word is of this kind."""
        mask: Bool = ((self.firsts & _KIND_BITS) == kind) & (self.firsts != _NOTHING)
        return mask

    def end_as(self, kind: np.uint64) -> Bool:
        """Mask [R] of the runs whose last word is of this kind."""
        mask: Bool = ((self.lasts & _KIND_BITS) == kind) & (self.lasts != _NOTHING)
        return mask


@dataclass(frozen=True, slots=True)
class _Added:
    """Items [B, A] that no interest found."""

    rows: Int32
    """NO_ITEM for none."""
    scores: Float32
    """-inf for none."""
    interests: Int32
    """The nearest interest."""
    origins: Int32
    """See `Candidates.origins`."""


def blend(  # noqa: PLR0913 - several sources of candidates, and all that scores them
    candidates: Candidates, sources: Sources, recent: Int32, excluded: Int32, interests: Float32, vectors: Float32
) -> Candidates:
    """Candidates of all sources in the order of their joint score, as many as there were places before.

    Args:
        candidates: P candidates of each of B users, found by interests, best first.
        sources: the others.
        recent: [B, W] rows of the newest items of each window, newest first; NO_ITEM in empty places.
        excluded: [B, S] item rows to leave out; NO_ITEM is none.
        interests: [B, K, D]
        vectors: [V, D] item vectors of the release.
    """
    runs = _runs(np.concatenate([_marks(excluded), _places(candidates.rows), *_words(sources, recent)], axis=1))
    scores = candidates.scores.copy()
    by_interest = np.flatnonzero(runs.begin_as(_CANDIDATE))
    users, places = runs.users[by_interest], (runs.firsts[by_interest] & _PLACE_MASK).astype(np.int64)
    scores[users, places] += sources.bonus(candidates.rows[users, places], runs.affinities[by_interest], users)
    added = []
    if sources.neighbours is not None:
        added.append(_neighbours(runs, sources, recent, interests, vectors))
    if sources.popular is not None:
        added.append(_popular(runs, sources, sources.popular, interests, vectors))
    both = Candidates(
        rows=np.concatenate([candidates.rows, *(part.rows for part in added)], axis=1),
        scores=np.concatenate([scores, *(part.scores for part in added)], axis=1),
        interests=np.concatenate([candidates.interests, *(part.interests for part in added)], axis=1),
        origins=np.concatenate([candidates.origins, *(part.origins for part in added)], axis=1),
        counts=candidates.counts + sum((part.rows != NO_ITEM).sum(axis=1) for part in added),
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


def _words(sources: Sources, recent: Int32) -> list[UInt64]:
    """Words [B, W * M] of neighbours and [B, P] of popular items, with their places."""
    words = []
    if sources.neighbours is not None:
        rows, weights = sources.neighbours.of(recent)
        ranks = np.arange(recent.shape[1], dtype=np.uint64)[:, None]
        near = rows.astype(np.uint64) << _ROW_SHIFT | _NEIGHBOUR | weights << _WEIGHT_SHIFT | ranks
        words.append(np.where(rows == NO_ITEM, _NOTHING, near).reshape(len(recent), -1))
        if sources.new_items is not None:
            words.append(_stream_words(sources.neighbours, sources.new_items, recent))
    if sources.popular is not None:
        places = np.arange(len(sources.popular.rows), dtype=np.uint64)
        popular = sources.popular.rows.astype(np.uint64) << _ROW_SHIFT | _POPULAR | places
        words.append(np.broadcast_to(popular, (len(recent), len(popular))))
    return words


def _stream_words(table: NeighbourTable, new_items: NewItems, recent: Int32) -> UInt64:
    """[B, X] words of neighbours from the stream, X as many as any user has."""
    near = new_items.near(recent)
    words = near.rows.astype(np.uint64) << _ROW_SHIFT | _NEIGHBOUR | near.ranks.astype(np.uint64)
    words |= table.fixed_point(near.weights, near.ranks) << _WEIGHT_SHIFT
    counts = np.bincount(near.users, minlength=len(recent))
    by_user = np.full((len(recent), int(counts.max(initial=0))), _NOTHING)
    by_user[near.users, np.arange(len(words)) - np.repeat(np.cumsum(counts) - counts, counts)] = words
    return by_user


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
    )


def _nearest(runs: _Runs, most: int) -> tuple[Int32, Int64, Int64]:
    """The `most` items of each user with the highest affinity among those that are neighbours and nothing else.

    Returns [B, most] rows (NO_ITEM after the last), affinities, and ranks of the window items that weigh most.
    """
    columns = np.arange(len(runs.users)) - runs.begins[runs.users]  # number of the run among its user's
    width = max(most, int(columns.max()) + 1)
    keys = np.zeros((len(runs.begins), width), np.int64)  # affinity and run, all different, 0 for other kinds
    keys[runs.users, columns] = np.where(
        runs.begin_as(_NEIGHBOUR) & runs.end_as(_NEIGHBOUR),
        (runs.affinities + 1 << _COLUMN_BITS) | (_LAST_COLUMN - columns),
        0,
    )
    best = np.partition(keys, width - most, axis=1)[:, width - most :]
    best = -np.sort(-best, axis=1)
    is_neighbour = best > 0
    index = np.where(is_neighbour, runs.begins[:, None] + _LAST_COLUMN - (best & _LAST_COLUMN), 0)
    last = runs.lasts[index]
    rows = np.where(is_neighbour, (last >> _ROW_SHIFT).astype(np.int32), np.int32(NO_ITEM))
    ranks = np.where(is_neighbour, (last & _RANK_MASK).astype(np.int64), 0)
    return rows, np.where(is_neighbour, (best >> _COLUMN_BITS) - 1, 0), ranks


def _neighbours(runs: _Runs, sources: Sources, recent: Int32, interests: Float32, vectors: Float32) -> _Added:
    """The nearest neighbours of each user's newest items."""
    rows, affinities, ranks = _nearest(runs, sources.most)  # [B, A]
    is_neighbour = rows != NO_ITEM
    by_interest = sources.vectors(rows, vectors) @ interests.transpose(0, 2, 1)  # [B, A, K]
    users = np.arange(len(rows))[:, None]
    scores = by_interest.max(axis=2) + sources.bonus(np.maximum(rows, 0), affinities, users)
    return _Added(
        rows=rows,
        scores=np.where(is_neighbour, scores, np.float32(-np.inf)),
        interests=by_interest.argmax(axis=2).astype(np.int32),
        origins=np.where(is_neighbour, np.take_along_axis(recent, ranks, axis=1), np.int32(NO_ITEM)),
    )


def _popular(runs: _Runs, sources: Sources, popular: PopularItems, interests: Float32, vectors: Float32) -> _Added:
    """The popular items that are neither excluded nor candidates already."""
    users, count, dimensions = interests.shape
    index = np.flatnonzero(runs.end_as(_POPULAR) & (runs.begin_as(_POPULAR) | runs.begin_as(_NEIGHBOUR)))
    place = (runs.users[index], (runs.lasts[index] & _PLACE_MASK).astype(np.int64))
    affinities = np.zeros((users, len(popular.rows)), np.int64)
    affinities[place] = runs.affinities[index]
    is_neighbour = np.zeros(affinities.shape, np.bool_)
    is_neighbour[place] = True
    popular_vectors = sources.vectors(popular.rows, vectors)  # [P, D]
    by_interest = (interests.reshape(-1, dimensions) @ popular_vectors.T).reshape(users, count, -1)  # [B, K, P]
    rows = np.broadcast_to(popular.rows, is_neighbour.shape)
    scores = by_interest.max(axis=1) + sources.bonus(rows, affinities, np.arange(users)[:, None])
    return _Added(
        rows=np.where(is_neighbour, rows, np.int32(NO_ITEM)),
        scores=np.where(is_neighbour, scores, np.float32(-np.inf)),
        interests=by_interest.argmax(axis=1).astype(np.int32),
        origins=np.where(is_neighbour, np.int32(POPULAR), np.int32(NO_ITEM)),
    )
