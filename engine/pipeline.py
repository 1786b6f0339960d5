"""The pipeline from windows to lists: features, encoder, index, candidates, ranking. No clock, no file, no broker.

windows [B, L] -> features -> interests [B, K, D] -> near items [B, K, C] -> candidates [B, P] -> lists [B, N]
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Final

import numpy as np

from engine.arrays import NO_ITEM, Float32, Int32, Int64, Windows
from engine.ranking import rerank
from engine.ranking.lists import FROM_INTEREST, FROM_POPULAR, Lists
from engine.ranking.popularity import Popularity, untaken
from engine.releases.serving import LiveRelease
from engine.retrieval import candidates, features
from engine.retrieval.candidates import Candidates
from engine.retrieval.features import Features
from engine.settings.sections import RecommendationSettings

_POOL: Final = 3
"""Candidates kept per item of a list, where the order of their scores is not yet the order of the list."""
_FILL_USERS: Final = 512
"""Users whose lists are filled up at once, which bounds the memory that a batch of new users takes."""

Stage = Callable[[str], AbstractContextManager[object]]
"""Context of a stage, by its name; the stage runs inside, so that its time can be measured."""


@dataclass(frozen=True, slots=True)
class Recommender:
    """Recommends lists by one set of settings and weights, from batch to batch."""

    settings: RecommendationSettings
    action_weights: Float32
    """[256] weight by action code, learned by the release or else from the settings (`features.action_weights`)."""
    popularity: Popularity

    def recommend(self, windows: Windows, live: LiveRelease, stage: Stage = nullcontext) -> Lists:
        """Lists for B users from their windows, by one release."""
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
            excluded = np.where(unwanted, rows, np.int32(NO_ITEM))
            merged = self._candidates(live, interests, excluded, bool(strength.any()), stage)
            with stage("rank"):
                if strength.any():
                    merged = self._pushed_away(merged, rows, strength.astype(np.float32), live)
                self._write(lists, warm, merged, live)
                _explain(lists, warm, inputs, attention, self.settings.reasons)
        with stage("rank"):
            self._fill(lists, windows)
        return lists

    def _candidates(
        self, live: LiveRelease, interests: Float32, excluded: Int32, disliked: bool, stage: Stage
    ) -> Candidates:
        """Search near each interest and merge; again, deep enough to fill a list, for users with too few candidates."""
        count = self.settings.count
        reordered = disliked or self.settings.diversity > 0.0
        keep = count * _POOL if reordered else count
        size = len(live.index)
        depth = min(size, self.settings.candidates_per_interest)
        with stage("search"):
            nearest = _search(live, interests, depth)
        with stage("merge"):
            merged = candidates.merge(*nearest, excluded, keep)
        short = np.flatnonzero(merged.counts < count)
        # Of so many items near one interest, at least `count` are not excluded.
        enough = min(size, count + excluded.shape[1])
        if len(short) and depth < enough:
            with stage("search"):
                nearest = _search(live, interests[short], enough)
            with stage("merge"):
                merged.replace(short, candidates.merge(*nearest, excluded[short], keep))
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

    def _fill(self, lists: Lists, windows: Windows) -> None:
        """Fill the lists of cold users, and lists that are too short, with popular items that are not seen."""
        users = np.flatnonzero(lists.items[:, -1] == NO_ITEM)
        for start in range(0, len(users), _FILL_USERS):
            self._fill_users(lists, windows, users[start : start + _FILL_USERS])

    def _fill_users(self, lists: Lists, windows: Windows, users: Int64) -> None:
        items, count = lists.items[users], lists.items.shape[1]
        taken = np.concatenate([items, windows.items[users]], axis=1)
        popular = self.popularity.top(count + taken.shape[1])  # [T]
        fresh = untaken(popular, taken)  # [users, T]
        empty = items == NO_ITEM
        place = (~empty).sum(axis=1, keepdims=True) + fresh.cumsum(axis=1) - 1  # where a fresh item would go
        user, source = np.nonzero(fresh & (place < count))
        into = users[user], place[user, source]
        lists.items[into] = popular[source]
        lists.sources[into] = FROM_POPULAR


def _blank(users: int, settings: RecommendationSettings, live: LiveRelease) -> Lists:
    shape = (users, settings.count)
    reasons_shape = (users, live.contract.interests, settings.reasons)
    return Lists(
        items=np.full(shape, NO_ITEM, np.int32),
        scores=np.zeros(shape, np.float32),
        sources=np.full(shape, FROM_POPULAR, np.uint8),
        interests=np.full(shape, -1, np.int32),
        reasons=np.full(reasons_shape, NO_ITEM, np.int32),
        shares=np.zeros(reasons_shape, np.float32),
        removed={},
    )


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
        lists.reasons[warm, :, place] = np.where(there, inputs.numbers[users, column], np.int32(NO_ITEM))
        lists.shares[warm, :, place] = np.where(there, share, np.float32(0.0))
        left[users, interests, column] = 0.0
