"""Evaluation on items of which the release was trained on no event (`headrace train --holdout-items`).

Targets are events with such an item, each ranked among all new items, from the window of all the user's events before
it. The release knows new items by their content (`LiveRelease.with_items`): it can list them, and encode them in
windows. Lists leave out the items of the user's window. Where the release has a time split, targets are events after
it, so that all of them are later than everything it was trained on. The baselines:

    random                    expected figures of lists in random order
    attribute_overlap         new items by the attributes (categories, genres, ...; without any, the words of titles)
                              that they share with the window: the sum of the attributes' shares of the window's events,
                              over the root of how many attributes the item has
    popular_in_top_attribute  items with the window's most frequent attribute, most clicked first. It counts clicks on
                              new items up to the target's time, which the release never saw: no baseline for an item's
                              first minute, but a fair one an hour or a month later
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
from models.evaluation import intervals, ranking_metrics
from models.evaluation.list_evaluation import RELEASE, OnProgress, batches_with_progress, with_baselines
from models.evaluation.queries import LIST_LENGTH, EvalQueries, event_queries
from models.evaluation.ranking_metrics import MetricAccumulator
from models.evaluation.release_under_test import ReleaseUnderTest

_ATTRIBUTE_BONUS: Final = 1e6
"""More clicks than an item has: ranks the items with the right attribute before all others."""


def new_items(under_test: ReleaseUnderTest, items: Mapping[str, Item], on_progress: OnProgress) -> dict[str, Any]:
    """Figures of the release and its baselines, or the reason why there are none.

    Args:
        under_test: the release.
        items: content by item id.
        on_progress: called after every batch of queries.
    """
    holdout, sizes = under_test.bundle.manifest.holdout, under_test.bundle.manifest.contract
    if holdout.items_share == 0.0:
        return {"reason": "the release was trained on events of all items; train with --holdout-items 0.1"}
    if sizes.content is None:
        return {"reason": "the release was trained without content; add an items file to DATA and train again"}
    if not items:
        return {"reason": "the data has no items file with content, so nothing is known of new items"}
    cold = np.flatnonzero(splits.cold_items(under_test.interactions.item_ids, holdout)).astype(np.int32)  # [C]
    cold = np.random.default_rng(holdout.items_seed).permutation(cold)  # so that ties are in random order
    queries = _queries(under_test, cold)
    if not len(queries.targets):
        return {
            "reason": f"none of the {len(cold)} items held out has a click that can be a target; train with a larger"
            " --holdout-items"
        }
    evaluation = _NewItemEvaluation(under_test, cold, items)
    for windows, targets in batches_with_progress(queries, "new items", on_progress):
        evaluation.evaluate_batch(windows, targets)
    return evaluation.figures()


def _queries(under_test: ReleaseUnderTest, cold: Int32) -> EvalQueries:
    """Events with a cold item that have an event of their user before them and are after the time split, if any."""
    data, from_ms = under_test.interactions, under_test.bundle.manifest.holdout.from_ms or 0
    has_history = splits.earlier(data.users) > 0
    cold_clicks = np.isin(under_test.items, cold) & under_test.target_mask
    return event_queries(under_test, np.flatnonzero(cold_clicks & has_history & (data.times_ms >= from_ms)))


class _NewItemEvaluation:
    """Lists of C new items by the release and its baselines, scored against the same targets."""

    def __init__(self, under_test: ReleaseUnderTest, cold: Int32, items: Mapping[str, Item]) -> None:
        """`cold` [C]: item numbers of the new items."""
        self._under_test, self._cold, self._live = under_test, cold, _with_content(under_test, cold, items)
        self._action_weights = under_test.weights_for(under_test.bundle.manifest)
        self._rows = self._live.rows(cold)  # [C] NO_ITEM where the content is empty to the release
        self._columns = np.full(len(under_test.catalogue) + 1, NO_ITEM, np.int64)  # by item number, NO_ITEM's the last
        self._columns[cold] = np.arange(len(cold))
        self._attributes = _Attributes(under_test.interactions.item_ids, cold, items)
        self._clicks = _ClickCounts(under_test, self._columns)
        popularity: Int64 = np.bincount(under_test.items, minlength=len(under_test.catalogue))  # training saw none
        names = (RELEASE, "attribute_overlap", "popular_in_top_attribute")
        self._accumulators = {name: MetricAccumulator(cold, popularity) for name in names}
        self._unseen, self._unknown_targets = [np.zeros(0, np.int64)], 0

    def evaluate_batch(self, windows: Windows, targets: Int64) -> None:
        """Score every system's lists for `windows` [B] by the events at the indices `targets` [B].

        A window that is empty to the release, or that holds its target, is left out.
        """
        rows, length = self._live.rows(windows.items), self._live.contract.window_length
        inputs = features.make(windows, rows, self._action_weights, length)
        target_items = self._under_test.items[targets]
        usable = np.flatnonzero(inputs.warm & (windows.items != target_items[:, None]).all(axis=1))
        if not len(usable):
            return
        windows, targets, target_items = windows.take(usable), targets[usable], target_items[usable]
        seen = self._seen(windows)
        for name, scores in self._scores(windows, inputs.take(usable), targets).items():
            lists = self._lists(np.where(seen, np.float32(-np.inf), scores))
            self._accumulators[name].add(self._under_test.interactions.users[targets], lists, target_items)
        self._unknown_targets += int((self._live.rows(target_items) == NO_ITEM).sum())
        self._unseen.append((~seen).sum(axis=1))

    def figures(self) -> dict[str, Any]:
        """Numbers of items, users and targets, and the figures of every system."""
        users = self._accumulators[RELEASE].users
        return {
            "items": len(self._cold),
            "users": len(np.unique(users)),
            "targets": len(users),
            "unknown_targets": self._unknown_targets,
            **with_baselines(self._accumulators, {"random": self._random()}),
        }

    def _random(self) -> dict[str, Any]:
        """Expected figures of lists in random order, in which every unseen new item is equally likely at every rank."""
        release, unseen = self._accumulators[RELEASE], np.concatenate(self._unseen)
        estimates, leads = {}, {}
        for metric, gain in ranking_metrics.gains(np.arange(1, LIST_LENGTH + 1)).items():
            expected: Float64 = gain.cumsum()[np.minimum(unseen, LIST_LENGTH) - 1] / unseen  # [Q]
            estimates[metric] = intervals.mean(expected, release.users)
            leads[metric] = intervals.mean(ranking_metrics.gains(release.ranks)[metric] - expected, release.users)
        undefined = dict.fromkeys(("coverage", "popularity_bias"), intervals.Estimate(None, None))
        figures = ranking_metrics.as_figures({**estimates, **undefined})
        return {**figures, "lead": ranking_metrics.as_figures(leads)}

    def _seen(self, windows: Windows) -> Bool:
        """[B, C] marks the new items that are in a window."""
        seen = np.zeros((len(windows), len(self._cold)), np.bool_)
        users, events = np.nonzero(self._columns[windows.items] != NO_ITEM)
        seen[users, self._columns[windows.items[users, events]]] = True
        return seen

    def _scores(self, windows: Windows, inputs: features.Features, targets: Int64) -> dict[str, Float32]:
        """Scores [B, C] of the new items by system."""
        shares = self._attributes.shares(windows)
        in_top_attribute = self._attributes.with_top_attribute(shares)
        return {
            RELEASE: self._release_scores(inputs),
            "attribute_overlap": shares @ self._attributes.memberships.T,
            "popular_in_top_attribute": self._clicks.until(targets) + _ATTRIBUTE_BONUS * in_top_attribute,
        }

    def _release_scores(self, inputs: features.Features) -> Float32:
        """[B, C] maximum over the interests of interest · item; -inf for an item that the release does not know."""
        interests, _ = self._live.encode(inputs)  # [B, K, D]
        scores = (interests @ self._live.vectors[np.maximum(self._rows, 0)].T).max(axis=1)
        return np.where(self._rows == NO_ITEM, np.float32(-np.inf), scores)

    def _lists(self, scores: Float32) -> Int32:
        """[B, N] numbers of the new items with the highest scores [B, C], ties in random order; NO_ITEM after them."""
        columns, values = best(scores.astype(np.float32), min(LIST_LENGTH, scores.shape[1]))
        lists = np.full((len(scores), LIST_LENGTH), NO_ITEM, np.int32)
        lists[:, : columns.shape[1]] = np.where(values > -np.inf, self._cold[columns], np.int32(NO_ITEM))
        return lists


def _with_content(under_test: ReleaseUnderTest, cold: Int32, items: Mapping[str, Item]) -> LiveRelease:
    """The release with the new items added from their content."""
    ids = [under_test.interactions.item_ids[number] for number in cold]
    return under_test.live.with_items([items[item] for item in ids if item in items], under_test.catalogue)


class _Attributes:
    """G attributes of C new items: a value of a content field, or a word of the title where items have no others."""

    def __init__(self, item_ids: list[str], cold: Int32, items: Mapping[str, Item]) -> None:
        titles_only = not any(item.bags for item in items.values())
        by_item = [_attributes_of(items[item], titles_only) if item in items else [] for item in item_ids]
        names = sorted({name for number in cold for name in by_item[number]}) or ["none"]
        columns = {name: column for column, name in enumerate(names)}
        self.memberships = np.zeros((len(cold), len(names)), np.float32)
        """[C, G] 1 over the root of the item's number of attributes for each that it has."""
        for row, number in enumerate(cold):
            item_columns = [columns[name] for name in by_item[number]]
            self.memberships[row, item_columns] = 1.0 / np.sqrt(max(1, len(item_columns)))
        columns_by_item = [[columns[name] for name in names_of_item if name in columns] for names_of_item in by_item]
        self._lengths = np.array([*map(len, columns_by_item), 0])  # by item number, NO_ITEM's the last
        self._starts = np.cumsum(self._lengths) - self._lengths
        self._flat = np.array([column for item_columns in columns_by_item for column in item_columns], np.int64)

    def shares(self, windows: Windows) -> Float32:
        """[B, G] share of a window's events whose item has the attribute."""
        items = windows.items.ravel()
        lengths = self._lengths[items]
        shifts = np.repeat(self._starts[items] - (np.cumsum(lengths) - lengths), lengths)
        columns = self._flat[shifts + np.arange(len(shifts))]
        users = np.repeat(np.arange(items.size) // windows.items.shape[1], lengths)
        width = self.memberships.shape[1]
        counts = np.bincount(users * width + columns, minlength=len(windows) * width).reshape(len(windows), width)
        shares: Float32 = (counts / (windows.items != NO_ITEM).sum(axis=1, keepdims=True)).astype(np.float32)
        return shares

    def with_top_attribute(self, shares: Float32) -> Bool:
        """[B, C] marks the items that have the attribute with the largest of the shares [B, G]."""
        mask: Bool = self.memberships.T[shares.argmax(axis=1)] > 0.0
        return mask


def _attributes_of(item: Item, titles_only: bool) -> list[str]:
    if titles_only:
        return sorted(set(words(item.title)))
    return sorted({f"{field}\0{value}" for field, values in item.bags.items() for value in values})


class _ClickCounts:
    """Running counts of clicks on each new item, for batches of targets in order of time."""

    def __init__(self, under_test: ReleaseUnderTest, columns: Int64) -> None:
        """`columns`: column [C] of each item number; NO_ITEM for those that are not new."""
        clicked, self._all_times_ms = columns[under_test.items], under_test.interactions.times_ms
        self._columns, self._times_ms = clicked[clicked != NO_ITEM], self._all_times_ms[clicked != NO_ITEM]
        self._counts = np.zeros(int(columns.max()) + 1, np.float32)
        self._counted = 0

    def until(self, targets: Int64) -> Float32:
        """[C] clicks before the oldest of the target events."""
        end = int(np.searchsorted(self._times_ms, self._all_times_ms[targets].min()))
        np.add.at(self._counts, self._columns[self._counted : end], 1.0)
        self._counted = max(end, self._counted)
        return self._counts
