"""The data path, from windows to lists: features, encoder, index, candidates, ranking. No clock, no file, no broker.

windows [B, L] -> features -> interests [B, K, D] -> near items [B, K, C] -> candidates [B, P] -> lists [B, N]
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Final

import numpy as np

from engine.arrays import NO_ITEM, Bool, Float32, Int32, Int64, Windows
from engine.ranking import rerank
from engine.ranking.lists import FROM_INTEREST, FROM_POPULAR, Lists
from engine.ranking.popularity import Popularity
from engine.releases.serving import LiveRelease
from engine.retrieval import candidates, features
from engine.retrieval.candidates import Candidates
from engine.retrieval.features import Features
from engine.settings.sections import RecommendationSettings

_POOL: Final = 3
"""Candidates considered per place of the list where the order of their scores is not yet the order of the list."""

Stage = Callable[[str], AbstractContextManager[object]]
"""Called with a stage's name; the stage runs inside. For whoever measures time."""


@dataclass(frozen=True, slots=True)
class Recommender:
    """The parts of the path that stay the same from batch to batch, as long as a release serves."""

    settings: RecommendationSettings
    action_weights: Float32
    """[256] weight by action code, as the release has learned it or else as it is set (`features.action_weights`)."""
    popularity: Popularity

    @classmethod
    def starting(cls, settings: RecommendationSettings, action_weights: Float32, live: LiveRelease) -> "Recommender":
        """A recommender to which only what was popular in the release's training data is popular yet."""
        popularity = Popularity()
        popularity.seed(live.numbers, live.popularity)
        return cls(settings, action_weights, popularity)

    def recommend(
        self, windows: Windows, live: LiveRelease, stage: Stage = nullcontext, excluded: Int32 | None = None
    ) -> Lists:
        """Lists for B users from their windows, by one release.

        Args:
            windows: B windows.
            live: the release.
            stage: runs each stage of the path.
            excluded: [B, E] numbers of items that a user's list must not hold, whatever the window says; NO_ITEM in
                empty places.
        """
        with stage("features"):
            rows = live.rows(windows.items)  # [B, L]
            inputs = features.make(windows, rows, self.action_weights, live.contract.window_length)
            warm = np.flatnonzero(inputs.known)
        lists = _blank(len(windows), self.settings, live)
        if len(warm):
            if len(warm) < len(windows):
                inputs, rows, windows_of_warm = inputs.take(warm), rows[warm], windows.take(warm)
            else:
                windows_of_warm = windows
            with stage("encode"):
                interests, attention = live.encode(inputs)  # [B', K, D], [B', K, L]
            items = live.items_among(rows)
            strength = np.where(items, np.maximum(-self.action_weights[windows_of_warm.actions], 0.0), 0.0)
            unwanted = items if self.settings.exclude_seen else strength > 0
            left_out = np.where(unwanted, rows, np.int32(NO_ITEM))  # [B', S]
            if excluded is not None:
                left_out = np.concatenate([left_out, live.rows(excluded[warm])], axis=1)
            merged = self._candidates(live, interests, left_out, bool(strength.any()), stage)
            with stage("rank"):
                if strength.any():
                    merged = self._pushed_away(merged, rows, strength.astype(np.float32), live)
                self._write(lists, warm, merged, live)
                _explain(lists, warm, inputs, attention, self.settings.because)
        with stage("rank"):
            self._fill(lists, [windows.items] if excluded is None else [windows.items, excluded])
        return lists

    def _candidates(
        self, live: LiveRelease, interests: Float32, left_out: Int32, disliked: bool, stage: Stage
    ) -> Candidates:
        """Search near each interest and merge; users who come out short are searched again, deep enough to fill up."""
        wanted = self.settings.count
        reordered = disliked or self.settings.diversity > 0.0
        keep = wanted * _POOL if reordered else wanted
        size = len(live.index)
        depth = min(size, self.settings.candidates_per_interest)
        with stage("search"):
            found = _search(live, interests, depth)
        with stage("merge"):
            merged = candidates.merge(*found, left_out, keep)
        short = np.flatnonzero(merged.counts < wanted)
        # Among this many items near one interest, at least `wanted` are not left out; what `merge` has no room for is
        # filled up with what is popular.
        enough = min(size, wanted + left_out.shape[1], candidates.MAX_PLACES // interests.shape[1])
        if len(short) and depth < enough:
            with stage("search"):
                found = _search(live, interests[short], enough)
            with stage("merge"):
                merged.replace(short, candidates.merge(*found, left_out[short], keep))
        return merged

    def _pushed_away(self, merged: Candidates, rows: Int32, strength: Float32, live: LiveRelease) -> Candidates:
        disliked = np.where(strength > 0, rows, np.int32(NO_ITEM))
        force = strength * np.float32(self.settings.push_away)
        scores = rerank.push_away(merged.scores, merged.rows, disliked, force, live.vectors)
        return merged.take(np.argsort(-scores, axis=1, kind="stable"), scores)

    def _write(self, lists: Lists, warm: Int64, merged: Candidates, live: LiveRelease) -> None:
        """Choose the lists' items from the candidates, best first."""
        count = self.settings.count
        if self.settings.diversity > 0.0:
            order = rerank.diversify(merged, live.vectors, count, self.settings.diversity)
            merged = merged.take(order, merged.scores)
        rows, scores, interests = merged.rows[:, :count], merged.scores[:, :count], merged.interests[:, :count]
        there = rows != NO_ITEM
        lists.items[warm] = np.where(there, live.numbers[np.maximum(rows, 0)], np.int32(NO_ITEM))
        lists.scores[warm] = np.where(there, scores, np.float32(0.0))
        lists.interests[warm] = np.where(there, interests, np.int32(-1))
        lists.sources[warm] = FROM_INTEREST
        lists.removed["duplicate"] = merged.duplicates
        lists.removed["seen"] = merged.seen

    def _fill(self, lists: Lists, seen: Sequence[Int32]) -> None:
        """Give cold users, and places left empty, what is popular and in none of `seen`, arrays of [B, S]."""
        users = np.flatnonzero(lists.items[:, -1] == NO_ITEM)
        if not len(users):
            return
        items, count = lists.items[users], lists.items.shape[1]
        taken = np.concatenate([items, *(numbers[users] for numbers in seen)], axis=1)
        popular = self.popularity.top(count + taken.shape[1])  # [T]
        if not len(popular):
            return
        fresh = _not_among(popular, taken)  # [users, T]
        empty = items == NO_ITEM
        place = (~empty).sum(axis=1, keepdims=True) + fresh.cumsum(axis=1) - 1  # where a fresh item would go
        user, source = np.nonzero(fresh & (place < count))
        into = users[user], place[user, source]
        lists.items[into] = popular[source]
        lists.sources[into] = FROM_POPULAR


def _blank(users: int, settings: RecommendationSettings, live: LiveRelease) -> Lists:
    shape = (users, settings.count)
    reasons = (users, live.contract.interests, settings.because)
    return Lists(
        items=np.full(shape, NO_ITEM, np.int32),
        scores=np.zeros(shape, np.float32),
        sources=np.full(shape, FROM_POPULAR, np.uint8),
        interests=np.full(shape, -1, np.int32),
        because=np.full(reasons, NO_ITEM, np.int32),
        shares=np.zeros(reasons, np.float32),
        removed={},
    )


def _not_among(items: Int32, taken: Int32) -> Bool:
    """[U, T] which of `items` [T], at least one and all different, are not among each user's `taken` [U, S]."""
    ascending = np.argsort(items)
    ranks = np.searchsorted(items, taken, sorter=ascending)  # [U, S]
    columns = ascending[np.minimum(ranks, len(items) - 1)]
    users, places = np.nonzero(items[columns] == taken)
    free = np.ones((len(taken), len(items)), np.bool_)
    free[users, columns[users, places]] = False
    return free


def _search(live: LiveRelease, interests: Float32, depth: int) -> tuple[Int32, Float32]:
    """Rows and scores [B, K, C] of the `depth` items nearest to each interest."""
    users, count, dimensions = interests.shape
    rows, scores = live.index.search(interests.reshape(-1, dimensions), depth)
    return rows.reshape(users, count, depth), scores.reshape(users, count, depth)


def _explain(lists: Lists, warm: Int64, inputs: Features, attention: Float32, most: int) -> None:
    """Name the clicks with the largest attention in each interest."""
    left = attention * (inputs.weights > 0.0)[:, None, :]  # [B', K, L]; a trace of attention falls on hidden events
    users, interests = np.ogrid[: left.shape[0], : left.shape[1]]
    for place in range(min(most, left.shape[2])):
        column = left.argmax(axis=2)  # [B', K]
        share = left[users, interests, column]
        there = share > 0.0
        lists.because[warm, :, place] = np.where(there, inputs.numbers[users, column], np.int32(NO_ITEM))
        lists.shares[warm, :, place] = np.where(there, share, np.float32(0.0))
        left[users, interests, column] = 0.0
