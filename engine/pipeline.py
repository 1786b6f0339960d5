r"""The pipeline from windows to lists: features, encoder, index, candidates, ranking. No clock, no file, no broker.

windows [B, L] -> features -> interests [B, K, D] -> near items [B, K, C] -> candidates [B, P] -> lists [B, N]
            \-> newest items [B, W] -> neighbours of each [B, W, M] ------------/   (blended, where the release says so)
                                       popular items [P] ---------------------/
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from engine.arrays import NO_ITEM, Float32, Int32, Int64, Windows
from engine.ranking import lists, rerank
from engine.ranking.lists import NO_INTEREST, Lists, Ranking, Reasons, Removed
from engine.ranking.popularity import Popularity, PopularityCounts, untaken
from engine.releases.serving import LiveRelease
from engine.retrieval import candidates, features
from engine.retrieval.blend import PopularItems, Sources, blend
from engine.retrieval.candidates import Candidates
from engine.retrieval.features import Features
from engine.retrieval.index import ExactIndex
from engine.settings.sections import RecommendationSettings

_POOL: Final = 3
"""Candidates per item of a list, where ranking may change their order."""
_ADDED: Final = 2
"""Neighbours, and popular items, per item of a list that are scored where no interest found them."""
_SCANNED_PART: Final = 20
"""A graph is not searched for more than one in so many items: scoring all of them is cheaper then."""
_FILL_USERS: Final = 512
"""Users whose lists are filled up at once, which bounds the memory that a batch of new users takes."""

Stage = Callable[[str], AbstractContextManager[object]]
"""Context manager for a stage of the path, by its name: how a caller measures time."""


class _PopularItems:
    """The popular items of a release, computed again when popularity has changed."""

    def __init__(self) -> None:
        self._live: LiveRelease | None = None
        self._generation = -1
        self._items = PopularItems(np.empty(0, np.int32), np.empty(0, np.float32))

    def of(self, live: LiveRelease, popularity: PopularityCounts, most: int) -> PopularItems | None:
        """None for a release in whose scores popularity has no part."""
        score = live.contract.popularity
        if score is None:
            return None
        if self._live is not live or self._generation != popularity.generation:
            self._items = PopularItems.of(popularity.shares(live.numbers), score, most)
            self._live, self._generation = live, popularity.generation
        return self._items


@dataclass(frozen=True, slots=True)
class Recommender:
    """The parts of the path that stay the same from batch to batch while a release serves."""

    settings: RecommendationSettings
    action_weights: Float32
    """[256] weights by action code: the release's own, or else those of the settings (`features.action_weights`)."""
    popularity: PopularityCounts
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
        with stage("features"):
            rows = live.rows(windows.items)  # [B, L]
            inputs = features.make(windows, rows, self.action_weights, live.contract.window_length)
            warm = np.flatnonzero(inputs.warm)
        if excluded is None:
            excluded = np.empty((len(windows), 0), np.int32)
        ranking = lists.no_ranking(len(windows), self.settings.count)
        reasons = lists.no_reasons(len(windows), live.contract.interests, self.settings.reasons)
        removed: Removed = {}
        if len(warm):
            query = _Query(inputs, rows, live.rows(excluded), self.action_weights[windows.actions]).take(warm)
            warm_ranking, warm_reasons, removed = self._recommend_warm(query, live, stage)
            ranking = lists.spread_ranking(warm_ranking, warm, len(windows))
            reasons = lists.spread_reasons(warm_reasons, warm, len(windows))
        with stage("rank"):
            popular = self._fill(ranking.items, [windows.items, excluded])
            return lists.assemble(ranking, popular, reasons, removed)

    def _recommend_warm(self, query: "_Query", live: LiveRelease, stage: Stage) -> tuple[Ranking, Reasons, Removed]:
        """Rankings and reasons of users with at least one event that the encoder sees."""
        with stage("encode"):
            interests, attention = live.encode(query.inputs)  # [B', K, D], [B', K, L]
        item_mask = live.is_item(query.rows)
        strength = np.where(item_mask, np.maximum(-query.weights, np.float32(0.0)), np.float32(0.0))  # [B', L]
        seen_mask = item_mask if self.settings.exclude_seen else strength > 0
        seen = np.where(seen_mask, query.rows, np.int32(NO_ITEM))
        excluded = np.concatenate([seen, query.excluded], axis=1)  # [B', S]
        merged, removed = self._candidates(live, interests, excluded, bool(strength.any()), stage)
        if live.is_blended:
            with stage("blend"):
                recent = query.recent(live)
                merged = blend(merged, self._sources(live), recent, excluded, interests, live.vectors)
        with stage("rank"):
            if strength.any():
                merged = self._push_away(merged, query.rows, strength, live)
            norms = np.linalg.norm(interests, axis=2).mean(axis=1)  # [B']
            return self._rank(merged, norms, live), _reasons(query.inputs, attention, self.settings.reasons), removed

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

    def _sources(self, live: LiveRelease) -> Sources:
        """The release's sources of candidates other than interests."""
        most = self.settings.count * _ADDED
        return Sources(live.neighbours, self._popular_items.of(live, self.popularity, most), most)

    def _push_away(self, merged: Candidates, rows: Int32, strength: Float32, live: LiveRelease) -> Candidates:
        """The candidates in a new order, those like the disliked items of the window (`strength` [B, L]) lower."""
        disliked = np.where(strength > 0, rows, np.int32(NO_ITEM))
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
            items=np.where(filled, live.numbers[np.maximum(rows, 0)], np.int32(NO_ITEM)),
            scores=np.where(filled, scores, np.float32(0.0)),
            interests=np.where(filled, interests, np.int32(NO_INTEREST)),
            origins=np.where(origins < 0, origins, live.numbers[np.maximum(origins, 0)]),
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
    """[B, L] the release's row of each event's item."""
    excluded: Int32
    """[B, E] rows of items that the lists must not hold."""
    weights: Float32
    """[B, L] weight of each event's action."""

    def recent(self, live: LiveRelease) -> Int32:
        """[B, W] rows of the newest items that the encoder sees, newest first, whose neighbours count."""
        if live.neighbours is None:
            return np.empty((len(self.rows), 0), np.int32)
        newest = slice(-live.neighbours.sizes.last_items, None)
        rows, weights = self.inputs.rows[:, newest], self.inputs.weights[:, newest]
        return np.where((weights > 0.0) & live.is_item(rows), rows, np.int32(NO_ITEM))[:, ::-1]

    def take(self, users: Int64) -> "_Query":
        """The query of these users, in ascending order; of all of them without a copy."""
        if len(users) == len(self.rows):
            return self
        return _Query(self.inputs.take(users), self.rows[users], self.excluded[users], self.weights[users])


def _search(live: LiveRelease, interests: Float32, depth: int) -> tuple[Int32, Float32]:
    """Rows and scores [B, K, C] of the `depth` items nearest to each interest."""
    users, count, dimensions = interests.shape
    rows, scores = live.index.search(interests.reshape(-1, dimensions), depth)
    return rows.reshape(users, count, depth), scores.reshape(users, count, depth)


def _deep_search(live: LiveRelease, interests: Float32, depth: int) -> tuple[Int32, Float32]:
    """See `_search`; where a large part of all items is asked for, as after many were excluded, all are scored."""
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
