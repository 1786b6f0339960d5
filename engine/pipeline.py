"""The data path, from windows to lists: features, encoder, index, candidates, ranking. No clock, no file, no broker.

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
"""Candidates per item of a list, where ranking may change their order."""
_FILL_USERS: Final = 512
"""Users whose lists are filled up at once, which bounds the memory that a batch of new users takes."""

Stage = Callable[[str], AbstractContextManager[object]]
"""Context manager for a stage of the path, by its name: how a caller measures time."""


@dataclass(frozen=True, slots=True)
class Recommender:
    """The parts of the path that stay the same from batch to batch while a release serves."""

    settings: RecommendationSettings
    action_weights: Float32
    """[256] weights by action code: the release's own, or else those of the settings (`features.action_weights`)."""
    popularity: Popularity

    def recommend(self, windows: Windows, live: LiveRelease, stage: Stage = nullcontext) -> Lists:
        """Lists for B users from their windows, by one release; cold users get what is popular.

        Args:
            windows: B windows.
            live: the release.
            stage: opened around each stage; the default measures nothing.
        """
        with stage("features"):
            rows = live.rows(windows.items)  # [B, L]
            inputs = features.make(windows, rows, self.action_weights, live.contract.window_length)
            warm = np.flatnonzero(inputs.warm)
        lists = _blank(len(windows), self.settings, live)
        if len(warm):
            if len(warm) < len(windows):
                inputs, rows, warm_windows = inputs.take(warm), rows[warm], windows.take(warm)
            else:
                warm_windows = windows
            with stage("encode"):
                interests, attention = live.encode(inputs)  # [B', K, D], [B', K, L]
            item_mask = live.is_item(rows)
            strength = np.where(item_mask, np.maximum(-self.action_weights[warm_windows.actions], 0.0), 0.0)
            excluded_mask = item_mask if self.settings.exclude_seen else strength > 0
            excluded = np.where(excluded_mask, rows, np.int32(NO_ITEM))
            merged = self._candidates(live, interests, excluded, bool(strength.any()), stage)
            with stage("rank"):
                if strength.any():
                    merged = self._push_away(merged, rows, strength.astype(np.float32), live)
                self._write(lists, warm, merged, live)
                _explain(lists, warm, inputs, attention, self.settings.reasons)
        with stage("rank"):
            self._fill(lists, windows)
        return lists

    def _candidates(
        self, live: LiveRelease, interests: Float32, excluded: Int32, disliked: bool, stage: Stage
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
            merged = candidates.merge(*found, excluded, keep)
        short = np.flatnonzero(merged.counts < wanted)
        # Among this many items near one interest, at least `wanted` are not excluded.
        enough = min(size, wanted + excluded.shape[1])
        if len(short) and depth < enough:
            with stage("search"):
                found = _search(live, interests[short], enough)
            with stage("merge"):
                merged.replace(short, candidates.merge(*found, excluded[short], keep))
        return merged

    def _push_away(self, merged: Candidates, rows: Int32, strength: Float32, live: LiveRelease) -> Candidates:
        """The candidates in a new order, those like the disliked items of the window (`strength` [B, L]) lower."""
        disliked = np.where(strength > 0, rows, np.int32(NO_ITEM))
        force = strength * np.float32(self.settings.push_away)
        scores = rerank.push_away(merged.scores, merged.rows, disliked, force, live.vectors)
        return merged.take(np.argsort(-scores, axis=1, kind="stable"), scores)

    def _write(self, lists: Lists, warm: Int64, merged: Candidates, live: LiveRelease) -> None:
        """Write the best candidates of the warm users into their lists."""
        count = self.settings.count
        if self.settings.diversity > 0.0:
            order = rerank.diversify(merged, live.vectors, count, self.settings.diversity)
            merged = merged.take(order, merged.scores)
        rows, scores, interests = merged.rows[:, :count], merged.scores[:, :count], merged.interests[:, :count]
        filled = rows != NO_ITEM
        lists.items[warm] = np.where(filled, live.numbers[np.maximum(rows, 0)], np.int32(NO_ITEM))
        lists.scores[warm] = np.where(filled, scores, np.float32(0.0))
        lists.interests[warm] = np.where(filled, interests, np.int32(-1))
        lists.sources[warm] = FROM_INTEREST
        lists.removed["duplicate"] = merged.duplicates
        lists.removed["seen"] = merged.seen

    def _fill(self, lists: Lists, windows: Windows) -> None:
        """Give cold users, and places left empty, what is popular and not seen."""
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
    """Write the events with the largest attention in each interest into the lists, at most `most` an interest."""
    remaining = attention * (inputs.weights > 0.0)[:, None, :]  # [B', K, L]; a trace falls on hidden events
    users, interests = np.ogrid[: remaining.shape[0], : remaining.shape[1]]
    for column in range(min(most, remaining.shape[2])):
        event = remaining.argmax(axis=2)  # [B', K]
        share = remaining[users, interests, event]
        filled = share > 0.0
        lists.reasons[warm, :, column] = np.where(filled, inputs.numbers[users, event], np.int32(NO_ITEM))
        lists.shares[warm, :, column] = np.where(filled, share, np.float32(0.0))
        remaining[users, interests, event] = 0.0
