"""How good a release is about items that it saw no event of (`--holdout-items`).

An event with such an item is asked for from the window of all the user's events before it: where among all such items
does the clicked one stand? The release has them from their content (`LiveRelease.with_items`), to be recommended and
to be encoded in windows. What stands in the user's window is left out of every list. They are asked for after the time
split, where the release has one, so that everything asked came after everything learned. Beside the release stand

    random             what a list in random order scores on average
    same_values        items by how much the user's window has of their values (categories, genres, ...; the words of
                       titles, where there are none), a value's share of it over the root of how many the item has
    popular_in_value   the items with the window's most frequent value, most clicked first. It counts clicks on the new
                       items up to the event asked for, which the release never saw: it is no baseline for a new item's
                       first minute, but what one would do an hour or a month later
"""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from engine.arrays import NO_ITEM, Bool, Float32, Float64, Int32, Int64, Windows
from engine.catalogue.content import Item, words
from engine.releases.serving import LiveRelease
from engine.retrieval import features
from engine.retrieval.index import best
from models.data import splits
from models.evaluation import intervals, queries, ranking_metrics
from models.evaluation.queries import LISTED
from models.evaluation.ranking_metrics import Tally
from models.evaluation.release_under_test import RELEASE, ReleaseUnderTest, Watch, beside

_FIRST: Final = 1e6
"""More clicks than an item has: puts the items of the right value before all others."""


def new_items(under_test: ReleaseUnderTest, items: Mapping[str, Item], watch: Watch) -> dict[str, Any]:
    """The figures, or why there are none."""
    left_out, sizes = under_test.bundle.manifest.holdout, under_test.bundle.manifest.contract
    if left_out.items_share == 0.0:
        return {"reason": "the release was trained on all items; train with --holdout-items 0.1"}
    if sizes.content is None:
        return {"reason": "the release was trained without content; give DATA an items file and train anew"}
    if not items:
        return {"reason": "the data has no items file with content, so nothing is known of new items"}
    ids = under_test.interactions.item_ids
    cold = np.flatnonzero(splits.cold_items(ids, left_out)).astype(np.int32)  # [C]
    cold = np.random.default_rng(left_out.items_seed).permutation(cold)  # so that ties fall at random
    grown = under_test.live.with_items(
        [items[item] for item in (ids[number] for number in cold) if item in items], under_test.catalogue
    )
    late = under_test.interactions.times_ms >= (left_out.from_ms or 0)
    had = splits.earlier(under_test.interactions.users) > 0
    asked = queries.chosen(under_test, np.flatnonzero(np.isin(under_test.items, cold) & under_test.wanted & had & late))
    if not len(asked.targets):
        return {"reason": f"nobody clicked one of the {len(cold)} items held out; train with a larger --holdout-items"}
    contest, done = _NewItems(under_test, grown, cold, items), 0
    for windows, targets in asked.ask():
        contest.ask(windows, targets)
        done += len(targets)
        watch("new items", done, len(asked.targets))
    return contest.figures()


class _NewItems:
    """The release and those beside it, asked for the same new items."""

    def __init__(
        self, under_test: ReleaseUnderTest, grown: LiveRelease, cold: Int32, items: Mapping[str, Item]
    ) -> None:
        self._trial, self._live, self._cold = under_test, grown, cold
        self._action_weights = under_test.weights_for(under_test.bundle.manifest)
        self._rows = grown.rows(cold)  # [C] NO_ITEM where its content says nothing
        self._columns = np.full(
            len(under_test.catalogue) + 1, NO_ITEM, np.int64
        )  # by item number; the last is NO_ITEM's
        self._columns[cold] = np.arange(len(cold))
        self._values = _Values(under_test, cold, items)
        self._clicks = _ClicksSoFar(under_test, self._columns)
        names = (RELEASE, "same_values", "popular_in_value")
        popularity: Int64 = np.bincount(
            under_test.items, minlength=len(under_test.catalogue)
        )  # the release saw none of it
        self._tallies = {name: Tally(cold, popularity) for name in names}
        self._unseen, self._unknown = [np.zeros(0, np.int64)], 0

    def ask(self, windows: Windows, targets: Int64) -> None:
        """Ask everyone for lists [B] and score them; targets that stand in their window are not asked."""
        rows, length = self._live.rows(windows.items), self._live.contract.window_length
        inputs = features.make(windows, rows, self._action_weights, length)
        numbers = self._trial.items[targets]
        fair = np.flatnonzero(inputs.warm & (windows.items != numbers[:, None]).all(axis=1))
        if not len(fair):
            return
        windows, targets, numbers = windows.take(fair), targets[fair], numbers[fair]
        seen = np.zeros((len(windows), len(self._cold)), np.bool_)  # [B, C]
        users, places = np.nonzero(self._columns[windows.items] != NO_ITEM)
        seen[users, self._columns[windows.items[users, places]]] = True
        shares = self._values.shares(windows)  # [B, G]
        scores = {
            RELEASE: self._scores(inputs.take(fair)),
            "same_values": shares @ self._values.members.T,
            "popular_in_value": self._clicks.until(targets) + _FIRST * self._values.holders(shares),
        }
        self._unknown += int((self._live.rows(numbers) == NO_ITEM).sum())
        for name, found in scores.items():
            lists = self._lists(np.where(seen, np.float32(-np.inf), found))
            self._tallies[name].add(self._trial.interactions.users[targets], lists, numbers)
        self._unseen.append((~seen).sum(axis=1))

    def figures(self) -> dict[str, Any]:
        """Everyone's figures, and the sizes behind them."""
        users = self._tallies[RELEASE].users
        return {
            "items": len(self._cold),
            "users": len(np.unique(users)),
            "targets": len(users),
            "unknown_targets": self._unknown,
            **beside(self._tallies, {"random": self._random()}),
        }

    def _random(self) -> dict[str, Any]:
        """What lists in random order score on average, where each of the unseen new items is as likely as the next."""
        ours, unseen = self._tallies[RELEASE], np.concatenate(self._unseen)
        chances, leads = {}, {}
        for name, gain in ranking_metrics.gains(np.arange(1, LISTED + 1)).items():
            expected: Float64 = gain.cumsum()[np.minimum(unseen, LISTED) - 1] / unseen  # [n]
            chances[name] = intervals.mean(expected, ours.users)
            leads[name] = intervals.mean(ranking_metrics.gains(ours.places)[name] - expected, ours.users)
        nothing = dict.fromkeys(("coverage", "popularity_bias"), intervals.Estimate(None, None))
        return {**ranking_metrics.named({**chances, **nothing}), "lead": ranking_metrics.named(leads)}

    def _scores(self, inputs: features.Features) -> Float32:
        """[B, C] best score of each new item over the interests."""
        interests, _ = self._live.encode(inputs)  # [B, K, D]
        scores = (interests @ self._live.vectors[np.maximum(self._rows, 0)].T).max(axis=1)
        return np.where(self._rows == NO_ITEM, np.float32(-np.inf), scores)

    def _lists(self, scores: Float32) -> Int32:
        """[B, N] numbers of the best new items, ties in the items' random order; NO_ITEM behind the last."""
        columns, values = best(scores.astype(np.float32), min(LISTED, scores.shape[1]))
        lists = np.full((len(scores), LISTED), NO_ITEM, np.int32)
        lists[:, : columns.shape[1]] = np.where(values > -np.inf, self._cold[columns], np.int32(NO_ITEM))
        return lists


class _Values:
    """Values (G of them) that new items have: what category lists are made of."""

    def __init__(self, under_test: ReleaseUnderTest, cold: Int32, items: Mapping[str, Item]) -> None:
        plain = not any(item.bags for item in items.values())
        by_item = [_values_of(items[item], plain) if item in items else [] for item in under_test.interactions.item_ids]
        names = sorted({value for number in cold for value in by_item[number]}) or ["none"]
        places = {value: place for place, value in enumerate(names)}
        self.members = np.zeros((len(cold), len(names)), np.float32)  # [C, G]
        for row, number in enumerate(cold):
            mine = [places[value] for value in by_item[number]]
            self.members[row, mine] = 1.0 / np.sqrt(max(1, len(mine)))
        known = [[places[value] for value in values if value in places] for values in by_item]
        self._lengths = np.array([*map(len, known), 0])  # by item number; the last is NO_ITEM's
        self._starts = np.cumsum(self._lengths) - self._lengths
        self._flat = np.array([value for values in known for value in values], np.int64)

    def shares(self, windows: Windows) -> Float32:
        """[B, G] each value's share of the events in a window."""
        items = windows.items.ravel()
        lengths = self._lengths[items]
        shifts = np.repeat(self._starts[items] - (np.cumsum(lengths) - lengths), lengths)
        values = self._flat[shifts + np.arange(len(shifts))]
        users = np.repeat(np.arange(items.size) // windows.items.shape[1], lengths)
        count = self.members.shape[1]
        counts = np.bincount(users * count + values, minlength=len(windows) * count).reshape(len(windows), count)
        shares: Float32 = (counts / (windows.items != NO_ITEM).sum(axis=1, keepdims=True)).astype(np.float32)
        return shares

    def holders(self, shares: Float32) -> Bool:
        """[B, C] the items that have the value with the largest share."""
        holders: Bool = self.members.T[shares.argmax(axis=1)] > 0.0
        return holders


def _values_of(item: Item, plain: bool) -> list[str]:
    """An item's values by field; of items without any field but the title, its words."""
    if plain:
        return sorted(set(words(item.title)))
    return sorted({f"{name}\0{value}" for name, values in item.bags.items() for value in values})


class _ClicksSoFar:
    """Clicks on each new item up to the events asked for, which are asked in order of time."""

    def __init__(self, under_test: ReleaseUnderTest, columns: Int64) -> None:
        clicked, self._asked_ms = columns[under_test.items], under_test.interactions.times_ms
        self._clicked, self._times_ms = clicked[clicked != NO_ITEM], self._asked_ms[clicked != NO_ITEM]
        self._counts = np.zeros(int(columns.max()) + 1, np.float32)
        self._past = 0

    def until(self, targets: Int64) -> Float32:
        """[C] before the oldest of these events."""
        until = int(np.searchsorted(self._times_ms, self._asked_ms[targets].min()))
        np.add.at(self._counts, self._clicked[self._past : until], 1.0)
        self._past = max(until, self._past)
        return self._counts
