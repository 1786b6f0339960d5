"""Ranking metrics of recommendation lists, their confidence intervals, and the lead of one system over another.

The evaluation protocol: `docs/evaluation.md`.
"""

# ruff: noqa: PLR2004 - 10 and 20 are what HR@10, NDCG@10 and HR@20 mean
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from engine.arrays import NO_ITEM, Float64, Int32, Int64
from models.evaluation import intervals
from models.evaluation.intervals import Estimate

ACCURACY_METRICS: Final = ("hr10", "ndcg10", "hr20", "mrr")
"""Metrics that are means over targets."""
METRICS: Final = (*ACCURACY_METRICS, "coverage", "popularity_bias")
METRIC_TITLES: Final = {
    "hr10": "HR@10",
    "ndcg10": "NDCG@10",
    "hr20": "HR@20",
    "mrr": "MRR@20",
    "coverage": "coverage",
    "popularity_bias": "popularity bias",
}
"""Names of the metrics in tables and plots."""
NOT_LISTED: Final = 32_767
"""Rank of a target that is not in its list: greater than any list is long, and it fits into two bytes."""


def gains(ranks: Int64) -> dict[str, Float64]:
    """Gains [n] of n targets by accuracy metric, each metric being the mean of its gains.

    Args:
        ranks: [n] ranks of the targets in their lists, from 1; `NOT_LISTED` for a miss.
    """
    return {
        "hr10": (ranks <= 10).astype(np.float64),
        "ndcg10": np.where(ranks <= 10, 1.0 / np.log2(1.0 + ranks), 0.0),
        "hr20": (ranks <= 20).astype(np.float64),
        "mrr": np.where(ranks <= 20, 1.0 / ranks, 0.0),
    }


def target_ranks(targets: Int32, lists: Int32) -> Int64:
    """Rank of each target [B] in its list [B, N], from 1; `NOT_LISTED` for a miss."""
    hit_mask = lists == targets[:, None]
    return np.where(hit_mask.any(axis=1), hit_mask.argmax(axis=1) + 1, NOT_LISTED)


class MetricAccumulator:
    """Metrics of lists that arrive batch by batch, one target each, every list a full ranking.

    HR@N is the share of targets at rank N or better; NDCG@10 the mean of 1 / log2(1 + rank), 0 beyond rank 10; MRR the
    mean of 1 / rank, 0 beyond rank 20; coverage the share of the catalogue that is in the first ten positions of any
    list. Popularity bias is how much more popular the first ten positions are than the targets: GAP of the lists over
    GAP of the targets, less 1 (delta GAP of Abdollahpouri et al., "The Unfairness of Popularity Bias in
    Recommendation", 2019, with the items that users went on to choose in place of their profiles). At 0 there is none.
    """

    def __init__(self, catalogue: Int32, popularity: Int64) -> None:
        """Start without any list.

        Args:
            catalogue: [V] item numbers that coverage is a share of.
            popularity: number of events by item number.
        """
        self._catalogue, self._popularity = catalogue, popularity
        self._listed = np.zeros(len(popularity), np.bool_)
        self._users, self._ranks = [np.zeros(0, np.int32)], [np.zeros(0, np.int64)]
        self._list_popularity, self._target_popularity = [np.zeros(0)], [np.zeros(0)]

    def add(self, users: Int32, lists: Int32, targets: Int32) -> None:
        """Score one batch.

        Args:
            users: [B]
            lists: [B, N] item numbers, best first, N at least 20.
            targets: [B] the item that each list should hold.
        """
        self._users.append(users)
        self._ranks.append(target_ranks(targets, lists))
        top = lists[:, :10]
        filled = top != NO_ITEM
        self._listed[top[filled]] = True
        popularity = np.where(filled, self._popularity[top], 0).sum(axis=1) / np.maximum(filled.sum(axis=1), 1)
        self._list_popularity.append(popularity)
        self._target_popularity.append(self._popularity[targets].astype(np.float64))

    @property
    def users(self) -> Int32:
        """[n] user of each list."""
        return np.concatenate(self._users)

    @property
    def ranks(self) -> Int64:
        """[n] rank of each target in its list, from 1; `NOT_LISTED` for a miss."""
        return np.concatenate(self._ranks)

    def figures(self) -> dict[str, Any]:
        """Value of each metric by name, and `intervals` of those that are averages."""
        target_popularity = np.concatenate(self._target_popularity)
        excess = np.concatenate(self._list_popularity) - target_popularity
        bias = intervals.ratio(excess, target_popularity, self.users)
        coverage = Estimate(float(self._listed[self._catalogue].mean()), None)
        return as_figures({**accuracy(self.ranks, self.users), "coverage": coverage, "popularity_bias": bias})

    def lead(self, baseline: "MetricAccumulator") -> dict[str, Any]:
        """Lead in accuracy over a baseline that was scored on the same targets, paired by target."""
        return lead(self.ranks[None], baseline.ranks[None], self.users)


def lead(ranks: Int64, baseline_ranks: Int64, users: Int32) -> dict[str, Any]:
    """Mean difference in accuracy between a system and a baseline on the same n targets, paired by target.

    Args:
        ranks: [S, n] ranks of the targets by S models of the system that differ in their seed alone; the gain of a
            target is its mean over them.
        baseline_ranks: [T, n] the same by T models of the baseline.
        users: [n] user of each target.
    """
    baseline_gains = {metric: gain.mean(axis=0) for metric, gain in gains(baseline_ranks).items()}
    differences = {metric: gain.mean(axis=0) - baseline_gains[metric] for metric, gain in gains(ranks).items()}
    return as_figures({metric: intervals.mean(values, users) for metric, values in differences.items()})


def accuracy(ranks: Int64, users: Int32) -> dict[str, Estimate]:
    """Accuracy metrics of n targets with these `ranks` [n], of `users` [n]."""
    return {metric: intervals.mean(gain, users).clipped(0.0, 1.0) for metric, gain in gains(ranks).items()}


def as_figures(estimates: Mapping[str, Estimate]) -> dict[str, Any]:
    """Estimates as reports have them: values by metric, and `intervals` by metric."""
    return {
        **{metric: estimate.value for metric, estimate in estimates.items()},
        "intervals": {metric: estimate.interval for metric, estimate in estimates.items() if estimate.interval},
    }
