r"""The pipeline from windows to lists: features, encoder, index, candidates, ranking. No clock, no file, no broker.

windows [B, L] -> features -> interests [B, K, D] -> near items [B, K, C] -> candidates [B, P] -> lists [B, N]
            \-> newest items [B, W] -> neighbours of each [B, W, M] ------------/   (blended, where the release says so)
                                   \-> their neighbours in the stream ---------/
                                       popular items [P] ---------------------/
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar

import numpy as np

from engine.arrays import NO_ITEM, Float32, Int32, Int64, Windows
from engine.ranking import lists, rerank
from engine.ranking.click_counts import ClickCounts
from engine.ranking.lists import NO_INTEREST, Lists, Ranking, Reasons, Removed
from engine.ranking.popularity import Popularity, PopularityCounts, untaken
from engine.releases.serving import LiveRelease
from engine.retrieval import candidates, features, later_items
from engine.retrieval.blend import PopularItems, Sources, blend
from engine.retrieval.candidates import Candidates
from engine.retrieval.features import Features
from engine.retrieval.index import ExactIndex
from engine.retrieval.later_items import NewItems
from engine.retrieval.stream_neighbours import StreamNeighbours, clicks_of
from engine.settings.sections import RecommendationSettings

_POOL: Final = 3
"""Candidates per item of a list, where ranking may change their order."""
_ADDED: Final = 2
"""Neighbours, and popular items, per item of a list that are scored where no interest found them."""
_SCANNED_PART: Final = 20
"""Largest share of the items that is searched for in a graph, as its denominator: beyond it scoring all is cheaper."""
_FILL_USERS: Final = 512
"""Users whose lists are filled up at once, which bounds the memory that a batch of new users takes."""

Column = TypeVar("Column", Int32, Float32)
Stage = Callable[[str], AbstractContextManager[object]]
"""Context manager for a stage of the path, by its name: how a caller measures time."""


class _PopularItems:
    """The popular items of a release, computed again when popularity has changed."""

    def __init__(self) -> None:
        self._live: LiveRelease | None = None
        self._generation = -1
        self._items: PopularItems
        self.later_share = 0.0
        """S, the share of recent clicks that items without a vector have together."""
        self.log_partition = 0.0
        """log Z of scores in which popularity is the only part."""

    def of(
        self, live: LiveRelease, popularity: PopularityCounts, most: int, stream: StreamNeighbours | None
    ) -> PopularItems:
        """The popular items; with a stream, those without a vector too."""
        if self._live is not live or self._generation != popularity.generation:
            later = np.empty(0, np.float32) if stream is None else _later_shares(live, stream)
            self.later_share = float(later.sum())
            self._items = PopularItems.of(popularity.shares(live.numbers), live.contract.popularity, most, later)
            if stream is not None:
                self.log_partition = float(np.logaddexp.reduce(self._items.bonus[:-1], dtype=np.float64))
            self._live, self._generation = live, popularity.generation
        return self._items


def _later_shares(live: LiveRelease, stream: StreamNeighbours) -> Float32:
    """Shares of recent clicks of the items without a vector that are candidates, by number; 0 for all others."""
    numbers = np.arange(stream.end, dtype=np.int32)
    is_later = live.candidate_rows(numbers) >= len(live.numbers)
    return np.where(is_later, stream.shares(numbers, later_items.LEAST_CLICKS), np.float32(0.0))


def begin_counts(counts: ClickCounts, live: LiveRelease) -> None:
    """Have clicks counted for lists by this release from now on."""
    counts.serve(live.numbers, live.popularity, live.known_items, live.manifest.trained_until_ms)


@dataclass(frozen=True, slots=True)
class Recommender:
    """The parts of the path that stay the same from batch to batch while a release serves."""

    settings: RecommendationSettings
    action_weights: Float32
    """[256] weights by action code: the release's own, or else those of the settings (`features.action_weights`)."""
    popularity: PopularityCounts
    stream: StreamNeighbours | None = None
    """Neighbours of items that came after training; None: the release's own items alone are near one another."""
    _popular_items: _PopularItems = field(default_factory=_PopularItems)

    @classmethod
    def starting(cls, settings: RecommendationSettings, action_weights: Float32, live: LiveRelease) -> "Recommender":
        """A recommender that knows as popular what was popular in the release's training data."""
        popularity = Popularity()
        popularity.seed(live.numbers, live.popularity)
        return cls(settings, action_weights, popularity)

    def recommend(
        self, windows: Windows, live: LiveRelease, stage: Stage = nullcontext, excluded: Int32 | None = None
    ) -> Lists:
        """Lists for B users from their windows, by one release; cold users get what is popular.

        Args:
            windows: B windows.
            live: the release.
            stage: opened around each stage; the default measures nothing.
            excluded: [B, E] numbers of items that a user's list must not hold, whatever the window says; NO_ITEM in
                empty places.
        """
        if excluded is None:
            excluded = np.empty((len(windows), 0), np.int32)
        with stage("features"):
            query = self._query(windows, live, excluded)
            warm = np.flatnonzero(query.inputs.warm)
        ranking = lists.no_ranking(len(windows), self.settings.count)
        reasons = lists.no_reasons(len(windows), live.contract.interests, self.settings.reasons)
        removed: Removed = {}
        if len(warm):
            warm_ranking, warm_reasons, removed = self._recommend_warm(query.take(warm), live, stage)
            ranking = lists.spread_ranking(warm_ranking, warm, len(windows))
            reasons = lists.spread_reasons(warm_reasons, warm, len(windows))
        if self._stream_of(live) is not None:
            unseen = np.flatnonzero(~query.inputs.warm & (query.recent != NO_ITEM).any(axis=1))
            if len(unseen):
                ranking.put(unseen, self._recommend_unseen(query.take(unseen), live, stage))
        with stage("rank"):
            popular = self._fill(ranking.items, [windows.items, excluded])
            return lists.assemble(ranking, popular, reasons, removed)

    def _query(self, windows: Windows, live: LiveRelease, excluded: Int32) -> "_Query":
        rows = live.rows(windows.items)  # [B, L]
        inputs = features.make(windows, rows, self.action_weights, live.contract.window_length)
        weights = self.action_weights[windows.actions]
        later_shares = _later_click_shares(windows, weights, live)
        if self._stream_of(live) is None:
            item_rows = np.where(live.is_item(rows), rows, np.int32(NO_ITEM))
            recent = _newest(inputs.rows, live)
            is_click = (_newest(inputs.weights, live) > 0.0) & live.is_item(recent)
            recent = np.where(is_click, recent, np.int32(NO_ITEM))
            return _Query(inputs, item_rows, live.rows(excluded), weights, recent, later_shares)
        item_rows = live.candidate_rows(windows.items)
        visible = (weights > 0.0) & ((rows != NO_ITEM) | (item_rows != NO_ITEM))
        recent = _newest(features.right_aligned(item_rows, visible), live)
        return _Query(inputs, item_rows, live.candidate_rows(excluded), weights, recent, later_shares)

    def _recommend_warm(self, query: "_Query", live: LiveRelease, stage: Stage) -> tuple[Ranking, Reasons, Removed]:
        """Rankings and reasons of users with at least one event that the encoder sees."""
        with stage("encode"):
            interests, attention = live.encode(query.inputs)  # [B', K, D], [B', K, L]
        strength, excluded = self._strength(query), self._excluded(query)
        merged, removed = self._candidates(live, interests, excluded, bool(strength.any()), stage)
        if live.is_blended:
            with stage("blend"):
                sources = replace(self._sources(live, is_warm=True), later_shares=query.later_shares)
                merged = blend(merged, sources, query.recent, excluded, interests, live.vectors)
        with stage("rank"):
            if strength.any():
                merged = self._push_away(merged, query.rows, strength, live)
            norms = np.linalg.norm(interests, axis=2).mean(axis=1)  # [B']
            return self._rank(merged, norms, live), _reasons(query.inputs, attention, self.settings.reasons), removed

    def _recommend_unseen(self, query: "_Query", live: LiveRelease, stage: Stage) -> Ranking:
        """Rankings of users who clicked nothing but items that came after training: by all parts but interests."""
        users, sizes = len(query.rows), live.contract
        with stage("blend"):
            interests = np.zeros((users, sizes.interests, sizes.dimensions), np.float32)
            nothing = candidates.nothing(users, self.settings.count * _POOL)
            excluded = self._excluded(query)
            sources = self._sources(live, is_warm=False)
            merged = blend(nothing, sources, query.recent, excluded, interests, live.vectors)
        with stage("rank"):
            ranking = self._rank(merged, np.zeros(users, np.float32), live)
            return replace(ranking, interests=np.full_like(ranking.interests, NO_INTEREST))

    def _strength(self, query: "_Query") -> Float32:
        """[B', L] by how much each event pushes its item away."""
        return np.where(query.rows != NO_ITEM, np.maximum(-query.weights, np.float32(0.0)), np.float32(0.0))

    def _excluded(self, query: "_Query") -> Int32:
        """[B', S] rows of items that the lists must not hold."""
        hidden = query.rows
        if not self.settings.exclude_seen:
            hidden = np.where(query.weights < 0.0, query.rows, np.int32(NO_ITEM))
        return np.concatenate([hidden, query.excluded], axis=1)

    def _candidates(
        self, live: LiveRelease, interests: Float32, excluded: Int32, disliked: bool, stage: Stage
    ) -> tuple[Candidates, Removed]:
        """Candidates near each interest; users with too few are searched again, deep enough for a full list."""
        count = self.settings.count
        reordered = disliked or self.settings.diversity > 0.0 or live.is_blended
        keep = count * _POOL if reordered else count
        size = len(live.index)
        depth = min(size, self.settings.candidates_per_interest)
        with stage("search"):
            nearest = _search(live, interests, depth)
        with stage("merge"):
            merged = candidates.merge(*nearest, excluded, keep)
        short = np.flatnonzero(merged.counts < count)
        # Among this many items near one interest, at least `count` are not excluded.
        sufficient_depth = min(size, count + excluded.shape[1])
        if len(short) and depth < sufficient_depth:
            with stage("search"):
                nearest = _deep_search(live, interests[short], sufficient_depth)
            with stage("merge"):
                merged.replace(short, candidates.merge(*nearest, excluded[short], keep))
        return merged, {"duplicate": merged.duplicates, "seen": merged.seen}

    def _sources(self, live: LiveRelease, *, is_warm: bool) -> Sources:
        """The release's sources of candidates other than interests, for users that have interests or do not."""
        most, stream = self.settings.count * _ADDED, self._stream_of(live)
        if stream is None and live.contract.popularity is None:
            return Sources(live.neighbours, None, most)
        popular = self._popular_items.of(live, self.popularity, most, stream)
        if stream is None or live.neighbours is None or live.contract.log_partition is None:
            return Sources(live.neighbours, popular, most)
        log_partition = live.contract.log_partition if is_warm else self._popular_items.log_partition
        base = later_items.base(log_partition, self._popular_items.later_share)
        first = len(live.numbers)
        new_items = NewItems(stream, live.candidate_rows, live.candidate_numbers, live.known_items, first, base)
        return Sources(live.neighbours, popular, most, new_items)

    def _stream_of(self, live: LiveRelease) -> StreamNeighbours | None:
        """The stream's counts, for a release that can list later items by them."""
        return self.stream if live.lists_later_items else None

    def _push_away(self, merged: Candidates, rows: Int32, strength: Float32, live: LiveRelease) -> Candidates:
        """The candidates in a new order, those like the disliked items of the window (`strength` [B, L]) lower."""
        disliked = np.where((strength > 0) & live.is_item(rows), rows, np.int32(NO_ITEM))
        force = strength * np.float32(self.settings.push_away)
        scores = rerank.push_away(merged.scores, merged.rows, disliked, force, live.vectors)
        return merged.take(np.argsort(-scores, axis=1, kind="stable"), scores)

    def _rank(self, merged: Candidates, norms: Float32, live: LiveRelease) -> Ranking:
        """The best N candidates of each user, diversified where the settings say so; `norms` [B'] are passed on."""
        count = self.settings.count
        if self.settings.diversity > 0.0:
            order = rerank.diversify(merged, live.vectors, count, self.settings.diversity)
            merged = merged.take(order, merged.scores)
        rows, scores, interests = merged.rows[:, :count], merged.scores[:, :count], merged.interests[:, :count]
        filled, origins = rows != NO_ITEM, merged.origins[:, :count]
        return Ranking(
            items=live.candidate_numbers(rows),
            scores=np.where(filled, scores, np.float32(0.0)),
            interests=np.where(live.is_item(rows), interests, np.int32(NO_INTEREST)),
            origins=np.where(origins < 0, origins, live.candidate_numbers(origins)),
            interest_norms=norms,
        )

    def _fill(self, items: Int32, taken: Sequence[Int32]) -> Int32:
        """[B, N] popular items for the empty places of `items` [B, N], none of them in `taken`, arrays of [B, S]."""
        popular = np.full_like(items, NO_ITEM)
        users = np.flatnonzero(items[:, -1] == NO_ITEM)
        for start in range(0, len(users), _FILL_USERS):
            part = users[start : start + _FILL_USERS]
            popular[part] = self._popular(items[part], np.concatenate([numbers[part] for numbers in taken], axis=1))
        return popular

    def _popular(self, items: Int32, taken: Int32) -> Int32:
        count = items.shape[1]
        taken = np.concatenate([items, taken], axis=1)
        ranking = self.popularity.top(count + taken.shape[1])  # [T]
        free = untaken(ranking, taken)  # [B, T]
        column = (items != NO_ITEM).sum(axis=1, keepdims=True) + free.cumsum(axis=1) - 1  # where a free item would go
        user, index = np.nonzero(free & (column < count))
        popular = np.full_like(items, NO_ITEM)
        popular[user, column[user, index]] = ranking[index]
        return popular


@dataclass(frozen=True, slots=True)
class _Query:
    """Everything that retrieval needs to know of B users."""

    inputs: Features
    rows: Int32
    """[B, L] row among candidates of each event's item; NO_ITEM for searches and items that are no candidates."""
    excluded: Int32
    """[B, E] rows of items that the lists must not hold."""
    weights: Float32
    """[B, L] weight of each event's action."""
    recent: Int32
    """[B, W] rows of the newest items of positive weight, newest first; NO_ITEM for searches."""
    later_shares: Float32
    """[B] share of the newest clicks that came after training."""

    def take(self, users: Int64) -> "_Query":
        """The query of these users, in ascending order; of all of them without a copy."""
        if len(users) == len(self.rows):
            return self
        return _Query(
            self.inputs.take(users),
            self.rows[users],
            self.excluded[users],
            self.weights[users],
            self.recent[users],
            self.later_shares[users],
        )


def _newest(columns: Column, live: LiveRelease) -> Column:
    """[B, W] the last W of columns [B, L], last first; W is 0 for a release without neighbours."""
    count = 0 if live.neighbours is None else live.neighbours.sizes.last_items
    return columns[:, : -count - 1 : -1]


def _later_click_shares(windows: Windows, weights: Float32, live: LiveRelease) -> Float32:
    """[B] share of clicks after training among those of the last W events; `weights` [B, L] are those of the events."""
    if live.neighbours is None:
        return np.zeros(len(windows), np.float32)
    newest = slice(-live.neighbours.sizes.last_items, None)
    is_click = clicks_of(windows.items[:, newest], weights[:, newest])
    is_later = is_click & (windows.times_ms[:, newest] > live.manifest.trained_until_ms)
    shares: Float32 = (is_later.sum(axis=1) / np.maximum(1, is_click.sum(axis=1))).astype(np.float32)
    return shares


def _search(live: LiveRelease, interests: Float32, depth: int) -> tuple[Int32, Float32]:
    """Rows and scores [B, K, C] of the `depth` items nearest to each interest."""
    users, count, dimensions = interests.shape
    rows, scores = live.index.search(interests.reshape(-1, dimensions), depth)
    return rows.reshape(users, count, depth), scores.reshape(users, count, depth)


def _deep_search(live: LiveRelease, interests: Float32, depth: int) -> tuple[Int32, Float32]:
    """See `_search`; all items are scored if a large share of them is needed, as after many exclusions."""
    if depth * _SCANNED_PART < len(live.index):
        return _search(live, interests, depth)
    users, count, dimensions = interests.shape
    rows, scores = ExactIndex(live.vectors).search(interests.reshape(-1, dimensions), depth)
    return rows.reshape(users, count, depth), scores.reshape(users, count, depth)


def _reasons(inputs: Features, attention: Float32, most: int) -> Reasons:
    """The events with the largest attention in each interest, at most `most` an interest."""
    remaining = attention * (inputs.weights > 0.0)[:, None, :]  # [B', K, L]; a trace falls on hidden events
    user_count, interest_count, _ = remaining.shape
    reasons = lists.no_reasons(user_count, interest_count, most)
    users, interests = np.ogrid[:user_count, :interest_count]
    for column in range(min(most, remaining.shape[2])):
        event = remaining.argmax(axis=2)  # [B', K]
        share = remaining[users, interests, event]
        filled = share > 0.0
        reasons.items[:, :, column] = np.where(filled, inputs.numbers[users, event], np.int32(NO_ITEM))
        reasons.shares[:, :, column] = np.where(filled, share, np.float32(0.0))
        remaining[users, interests, event] = 0.0
    return reasons
