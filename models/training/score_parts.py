"""Whether and how neighbours and popularity count in a release's scores, learned on the validation events.

Neither the encoder nor the table that is tried here has learned from those events. Learned together, on training
events, the encoder takes all the weight: it has seen their targets. The validation did choose the encoder's best step,
which favours the encoder by a little. Popularity is what a worker would have counted by the hour of each event.

The choice is a search, by the validation's measure, over the weight and floor of one part after the other: neighbours,
popularity, and neighbours again if popularity counts. With the weight of neighbours goes how their pairs are counted
and how fast a window item's say falls with its rank. A part that makes the validation no better is left out. The table
of the release is then counted on all training events.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, product
from typing import Final, Self

import numpy as np
import torch

from engine.arrays import FIRST_SEARCH, NO_ACTION, NO_ITEM, Bool, Float32, Float64, Int32, Int64
from engine.contract import NeighbourSizes, PopularityScore
from engine.releases.bundles import NeighbourArrays
from models.data import sequences
from models.data.co_visits import NEIGHBOURS, STEP_DECAY, CoVisits
from models.data.histories import Histories
from models.data.popularity_at import HOUR_MS, PopularityAt
from models.network.two_hop import TwoHopEncoder
from models.settings import TrainSettings
from models.training.training_data import TrainingData
from models.training.validation import Validation

NEIGHBOUR_WEIGHTS: Final = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
NEIGHBOUR_FLOORS: Final = (0.001, 0.01, 0.05)
BACKWARD: Final = (0.3, 1.0)
STEP_DECAYS: Final = (0.6, 0.9)
DECAYS: Final = (0.2, 0.4, 0.6, 0.8)
"""By rank in the window. A table alone gained 36 % of NDCG@10 on invoices of a shop with 0.3 and step decay 0.6."""
POPULARITY_WEIGHTS: Final = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
POPULARITY_FLOORS: Final = (0.0001, 0.001, 0.01)
LAST_ITEMS: Final = 10
"""W: 30 with a slower decay is no better, and costs three times as much."""
_USERS_AT_ONCE: Final = 64


@dataclass(frozen=True, slots=True)
class Counting:
    """How the pairs of a table are counted (`models.data.co_visits`)."""

    backward: float = 1.0
    step_decay: float = STEP_DECAY


@dataclass(frozen=True, slots=True)
class ChosenNeighbours:
    """The table of a release, and its parameters."""

    table: NeighbourArrays
    sizes: NeighbourSizes
    counting: Counting


@dataclass(frozen=True, slots=True)
class ScoreParts:
    """Parts of a release's scores other than the encoder's, and the figures by which they were chosen."""

    neighbours: ChosenNeighbours | None
    popularity: PopularityScore | None
    encoder_ndcg: float
    """Mean of 1 / log2(1 + rank) of the validation targets, by the encoder alone."""
    ndcg: float
    """The same with the parts."""
    log_partition: float | None
    """Mean of log(sum over the items that a window does not hold of exp(score)), the parts included; None without
    validation queries."""


@dataclass(frozen=True, slots=True)
class _Weighting:
    """Weight and floor of one part of the score."""

    weight: float
    floor: float
    counting: Counting = Counting()
    """Of the table of neighbours."""
    decay: float = 1.0
    """Of the weights of window items, by rank."""

    def apply(self, values: Float32) -> Float32:
        """The part of the score for affinities or shares, of any shape."""
        part: Float32 = np.float32(self.weight) * np.log1p(values / np.float32(self.floor))
        return part


@dataclass(frozen=True, slots=True)
class _Queries:
    """Validation queries of B users, scored by the encoder."""

    scores: Float32
    """[B, V] by the encoder; -inf for items that the window holds."""
    recent: Int32
    """[B, W] the newest items of the windows, newest first; NO_ITEM in empty places."""
    targets: Int64
    """[B]"""
    times_ms: Int64
    """[B] times of the targets."""


@dataclass(frozen=True, slots=True)
class _Part:
    """Values above 0 of one part of the score, at n items of B users."""

    users: Int64
    items: Int64
    values: Float32
    """[n] affinities or shares."""

    @classmethod
    def of_cells(cls, cells: Int64, values: Float32, item_count: int) -> Self:
        """From indices in a flat [B, V], and their values."""
        return cls(cells // item_count, cells % item_count, values)


class _Scored:
    """Scores [B, V] to which a part is added, and the targets [B]."""

    def __init__(self, scores: Float32, targets: Int64) -> None:
        """`scores` are -inf for items that are never listed."""
        self.scores, self.targets = scores, targets
        self._ascending = np.sort(scores, axis=1)

    def count_above(self, bars: Float32) -> Int64:
        """[B, G] scores of each user above each of G bars [B, G]."""
        count = self.scores.shape[1]
        pairs = zip(self._ascending, bars, strict=True)
        return np.array([count - np.searchsorted(row, bar, side="right") for row, bar in pairs], np.int64)


@torch.no_grad()
def choose(encoder: TwoHopEncoder, data: TrainingData, validation: Validation, settings: TrainSettings) -> ScoreParts:
    """The parts with the best validation, of those that the settings allow.

    Args:
        encoder: trained, on the CPU, in evaluation mode.
        data: of its training.
        validation: held out from that.
        settings: of the training.
    """
    search = _Search(encoder, data, validation)
    if settings.neighbours:
        search.try_neighbours()
    if settings.popularity:
        search.try_popularity()
    if search.popularity and settings.neighbours:
        search.try_neighbours()
    return search.result()


class _Search:
    """The parts chosen so far, and their measure."""

    def __init__(self, encoder: TwoHopEncoder, data: TrainingData, validation: Validation) -> None:
        self._encoder, self._data, self._validation = encoder, data, validation
        self._popularity = _popularity(data.histories, len(data.ids))
        self.neighbours: _Weighting | None = None
        self.popularity: _Weighting | None = None
        gains = [_gain(_ranks(queries.scores, queries.targets)) for queries in self._queries()]
        self._count = sum(map(len, gains))
        self._encoder_gain = self._gain = float(sum(gain.sum() for gain in gains))

    @cached_property
    def _tables(self) -> dict[Counting, NeighbourArrays]:
        """By way of counting, without the validation events."""
        without = np.ones(len(self._data.histories), np.bool_)
        without[self._validation.queries.ends] = False
        histories = self._data.histories.select(without)
        tables: dict[Counting, NeighbourArrays] = {}
        for step_decay in STEP_DECAYS:
            counted = CoVisits(histories, len(self._data.ids), step_decay)
            tables |= {Counting(backward, step_decay): counted.table(backward) for backward in BACKWARD}
        return tables

    def try_neighbours(self) -> None:
        """Choose the weighting of neighbours anew, with the popularity chosen so far."""
        ways = list(product(self._tables, DECAYS))
        weightings = list(product(NEIGHBOUR_WEIGHTS, NEIGHBOUR_FLOORS))
        grid = [[_Weighting(*values, *way) for values in weightings] for way in ways]
        gains = np.zeros((len(ways), len(weightings)))
        for queries in self._queries():
            scores = queries.scores
            if self.popularity:
                scores = scores + self.popularity.apply(self._shares(queries))
            scored = _Scored(scores, queries.targets)
            for number, (counting, decay) in enumerate(ways):
                near = _affinity_cells(self._tables[counting], queries.recent, decay)
                gains[number] += _gains(scored, _Part.of_cells(*near, scores.shape[1]), grid[number])
        self.neighbours = self._best(list(chain.from_iterable(grid)), gains.ravel(), self.neighbours)

    def try_popularity(self) -> None:
        """Choose the weighting of popularity, with the neighbours chosen so far."""
        grid = [_Weighting(*values) for values in product(POPULARITY_WEIGHTS, POPULARITY_FLOORS)]
        gains = np.zeros(len(grid))
        for queries in self._queries():
            scores = self._with_neighbours(queries)
            shares = self._shares(queries)
            popular = np.flatnonzero(shares)
            part = _Part.of_cells(popular, shares.ravel()[popular], scores.shape[1])
            gains += _gains(_Scored(scores, queries.targets), part, grid)
        self.popularity = self._best(grid, gains, None)

    def result(self) -> ScoreParts:
        """The parts for a release."""
        chosen = None
        if self.neighbours:
            weighting, counting = self.neighbours, self.neighbours.counting
            counted = CoVisits(self._data.histories, len(self._data.ids), counting.step_decay)
            chosen = ChosenNeighbours(
                table=counted.table(counting.backward),
                sizes=NeighbourSizes(NEIGHBOURS, LAST_ITEMS, weighting.decay, weighting.weight, weighting.floor),
                counting=counting,
            )
        count = max(1, self._count)
        return ScoreParts(
            neighbours=chosen,
            popularity=PopularityScore(self.popularity.weight, self.popularity.floor) if self.popularity else None,
            encoder_ndcg=self._encoder_gain / count,
            ndcg=self._gain / count,
            log_partition=self._log_partition(),
        )

    def _log_partition(self) -> float | None:
        logs = [_log_sum_exp(self._joint(queries)) for queries in self._queries()]
        return float(np.concatenate(logs).mean()) if logs else None

    def _joint(self, queries: _Queries) -> Float32:
        """[B, V] scores with the parts chosen."""
        scores = self._with_neighbours(queries)
        return scores + self.popularity.apply(self._shares(queries)) if self.popularity else scores

    def _with_neighbours(self, queries: _Queries) -> Float32:
        if self.neighbours is None:
            return queries.scores
        near = affinities(self._tables[self.neighbours.counting], queries.recent, self.neighbours.decay)
        return queries.scores + self.neighbours.apply(near)

    def _best(self, grid: list[_Weighting], gains: Float64, before: _Weighting | None) -> _Weighting | None:
        """The weighting with the highest gain, if that is above the gain so far; else the one before."""
        best = int(np.argmax(gains))
        if gains[best] <= self._gain:
            return before
        self._gain = float(gains[best])
        return grid[best]

    def _queries(self) -> Iterator[_Queries]:
        """The validation queries in order of time."""
        histories, queries = self._data.histories, self._validation.queries
        vectors = self._encoder.items.table().numpy()
        times_ms = histories.times_ms[queries.ends]
        numbers = np.argsort(times_ms, kind="stable")
        for part in np.array_split(numbers, range(_USERS_AT_ONCE, len(numbers), _USERS_AT_ONCE)):
            batch = sequences.gather(histories, queries, part)
            has_target = batch.targets[:, -1] != sequences.NO_TARGET
            if not has_target.any():
                continue
            interests = self._encoder.encode(batch)[:, -1].numpy()[has_target]  # [B, K, D]
            is_click: Bool = (batch.actions != NO_ACTION) & (batch.items < FIRST_SEARCH)
            items = np.where(is_click, batch.items, np.int32(NO_ITEM))[has_target]  # [B, L]
            scores = (interests @ vectors.T).max(axis=1)
            users, places = np.nonzero(items != NO_ITEM)
            scores[users, items[users, places]] = -np.inf
            yield _Queries(
                scores=scores,
                recent=items[:, : -LAST_ITEMS - 1 : -1],
                targets=batch.targets[has_target, -1].astype(np.int64),
                times_ms=times_ms[part][has_target],
            )

    def _shares(self, queries: _Queries) -> Float32:
        """[B, V] shares of all items in the events of seven days, at the times of the queries."""
        hours, inverse = np.unique(queries.times_ms // HOUR_MS, return_inverse=True)
        rows = np.arange(queries.scores.shape[1], dtype=np.int32)
        by_hour = np.empty((len(hours), len(rows)), np.float32)
        for shares, hour in zip(by_hour, hours.tolist(), strict=True):
            self._popularity.move_to(hour * HOUR_MS)
            shares[:] = self._popularity.shares(rows)
        return by_hour[inverse]


def affinities(table: NeighbourArrays, recent: Int32, decay: float) -> Float32:
    """[B, V] affinities of all items to windows with these newest items [B, W], newest first (NO_ITEM for none)."""
    dense = np.zeros((len(recent), len(table.rows)), np.float32)
    cells, sums = _affinity_cells(table, recent, decay)
    dense.ravel()[cells] = sums
    return dense


def _affinity_cells(table: NeighbourArrays, recent: Int32, decay: float) -> tuple[Int64, Float32]:
    """The affinities above 0: index in a flat [B, V], ascending, and value."""
    users, ranks = np.nonzero(recent != NO_ITEM)
    items = recent[users, ranks]
    rows, weights = table.rows[items], table.weights[items]  # [n, M]
    is_neighbour = rows != NO_ITEM
    weighted = (weights * np.float32(decay) ** ranks[:, None].astype(np.float32))[is_neighbour]
    cells = (users[:, None] * len(table.rows) + rows)[is_neighbour]
    unique, inverse = np.unique(cells, return_inverse=True)
    return unique, np.bincount(inverse, weighted, len(unique)).astype(np.float32)


def _popularity(histories: Histories, item_count: int) -> PopularityAt:
    is_click = histories.items < FIRST_SEARCH
    return PopularityAt(histories.items[is_click], histories.times_ms[is_click], item_count)


def _log_sum_exp(scores: Float32) -> Float64:
    """[B] log of the sum of exp over each row [B, V]."""
    highest = scores.max(axis=1, keepdims=True)
    logs: Float64 = np.log(np.exp(scores - highest).sum(axis=1, dtype=np.float64)) + highest[:, 0]
    return logs


def _ranks(scores: Float32, targets: Int64) -> Int64:
    own = scores[np.arange(len(targets)), targets]
    ranks: Int64 = 1 + (scores > own[:, None]).sum(axis=1)
    return ranks


def _gain(ranks: Int64) -> Float64:
    gains: Float64 = 1.0 / np.log2(1.0 + ranks)
    return gains


def _gains(scored: _Scored, part: _Part, grid: list[_Weighting]) -> Float64:
    """Sums of the gains of all queries with one part added to their scores, for each weighting of the part."""
    users = np.arange(len(scored.targets))
    own, own_values = scored.scores[users, scored.targets], np.zeros(len(users), np.float32)
    is_own = part.items == scored.targets[part.users]
    own_values[part.users[is_own]] = part.values[is_own]
    before = scored.scores[part.users, part.items]
    other = np.flatnonzero(~is_own & ~np.isneginf(before))  # no further score changes a rank
    changed, before = part.users[other], before[other]
    logs = {floor: _Weighting(1.0, floor).apply(part.values[other]) for floor in {at.floor for at in grid}}
    bars = np.stack([own + weighting.apply(own_values) for weighting in grid], axis=1)  # [B, G]
    above = scored.count_above(bars)
    for number, weighting in enumerate(grid):
        bar = bars[changed, number]
        raised = before + np.float32(weighting.weight) * logs[weighting.floor] > bar
        change = raised.astype(np.int64) - (before > bar)
        above[:, number] += np.bincount(changed, change, len(users)).astype(np.int64)
    total: Float64 = _gain(1 + above).sum(axis=0)
    return total
