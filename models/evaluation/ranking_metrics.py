"""Ranking metrics: the figures that lists score, their intervals, and the lead of one system over another.

The protocol in words: `docs/evaluation.md`.
"""

# ruff: noqa: PLR2004 - 10 and 20 are what HR@10, NDCG@10 and HR@20 mean
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from engine.arrays import NO_ITEM, Float64, Int32, Int64
from models.evaluation import intervals
from models.evaluation.intervals import Estimate

ACCURACY: Final = ("hr10", "ndcg10", "hr20", "mrr")
"""Figures of accuracy: averages over answers."""
FIGURES: Final = (*ACCURACY, "coverage", "popularity_bias")
HEADINGS: Final = {
    "hr10": "HR@10",
    "ndcg10": "NDCG@10",
    "hr20": "HR@20",
    "mrr": "MRR@20",
    "coverage": "coverage",
    "popularity_bias": "popularity bias",
}
"""What people call the figures."""
NO_PLACE: Final = 32_767
"""Beyond every list, and fits into two bytes."""


def gains(places: Int64) -> dict[str, Float64]:
    """[n] what each answer adds to each figure of accuracy, by the place of its target, from 1."""
    return {
        "hr10": (places <= 10).astype(np.float64),
        "ndcg10": np.where(places <= 10, 1.0 / np.log2(1.0 + places), 0.0),
        "hr20": (places <= 20).astype(np.float64),
        "mrr": np.where(places <= 20, 1.0 / places, 0.0),
    }


def places_of(targets: Int32, lists: Int32) -> Int64:
    """[B] place of each target [B] in its list [B, N], from 1; beyond every list where it is not there."""
    found = lists == targets[:, None]
    return np.where(found.any(axis=1), found.argmax(axis=1) + 1, NO_PLACE)


class Tally:
    """Scores lists as they come, full ranking, one target each.

    HR@N is the share of targets in the first N places; NDCG@10 the mean of 1 / log2(1 + place), 0 beyond the tenth;
    MRR the mean of 1 / place, 0 beyond the twentieth; coverage the share of the catalogue that stands in the first ten
    places of any list. Popularity bias says how much more popular the first ten places are than the targets: GAP of the
    lists over GAP of the targets, less 1 (delta GAP of Abdollahpouri et al., "The Unfairness of Popularity Bias in
    Recommendation", 2019, with what users went on to choose in the place of their profiles). At 0 there is none.
    """

    def __init__(self, catalogue: Int32, popularity: Int64) -> None:
        """`catalogue` [V]: item numbers that coverage is a share of; `popularity`: events of every item number."""
        self._catalogue, self._popularity = catalogue, popularity
        self._listed = np.zeros(len(popularity), np.bool_)
        self._users, self._places = [np.zeros(0, np.int32)], [np.zeros(0, np.int64)]
        self._list_popularity, self._target_popularity = [np.zeros(0)], [np.zeros(0)]

    def add(self, users: Int32, lists: Int32, targets: Int32) -> None:
        """Lists [B, N] of item numbers for `users` [B], best first, N at least 20; `targets` [B] they should hold."""
        self._users.append(users)
        self._places.append(places_of(targets, lists))
        top = lists[:, :10]
        there = top != NO_ITEM
        self._listed[top[there]] = True
        popularity = np.where(there, self._popularity[top], 0).sum(axis=1) / np.maximum(there.sum(axis=1), 1)
        self._list_popularity.append(popularity)
        self._target_popularity.append(self._popularity[targets].astype(np.float64))

    @property
    def users(self) -> Int32:
        """[n] whose answers were added."""
        return np.concatenate(self._users)

    @property
    def places(self) -> Int64:
        """[n] place of each target in its list, from 1; beyond every list where it is not there."""
        return np.concatenate(self._places)

    def figures(self) -> dict[str, Any]:
        """The figures by name, and the intervals of those that are averages."""
        below = np.concatenate(self._target_popularity)
        bias = intervals.ratio(np.concatenate(self._list_popularity) - below, below, self.users)
        coverage = Estimate(float(self._listed[self._catalogue].mean()), None)
        return named({**accuracy(self.places, self.users), "coverage": coverage, "popularity_bias": bias})

    def lead(self, other: "Tally") -> dict[str, Any]:
        """How much more accurate these answers are than another's for the same targets, pair by pair."""
        return lead(self.places[None], other.places[None], self.users)


def lead(ours: Int64, theirs: Int64, users: Int32) -> dict[str, Any]:
    """How much more accurate ours are than theirs for the same targets, pair by pair; targets are those of `users` [n].

    Args:
        ours: [S, n] places of the targets, in answers of S models that differ by their seed alone: a target gains what
            it gains on average over them.
        theirs: [T, n] the same of another's T models.
        users: [n] whose targets they are.
    """
    gained = {name: gain.mean(axis=0) for name, gain in gains(theirs).items()}
    pairs = {name: gain.mean(axis=0) - gained[name] for name, gain in gains(ours).items()}
    return named({name: intervals.mean(pair, users) for name, pair in pairs.items()})


def accuracy(places: Int64, users: Int32) -> dict[str, Estimate]:
    """The figures of accuracy of n answers, given to `users` [n]."""
    return {name: intervals.mean(gain, users).within(0.0, 1.0) for name, gain in gains(places).items()}


def named(estimates: Mapping[str, Estimate]) -> dict[str, Any]:
    """As a report has them: values by name, and beside them the `intervals` by name."""
    return {
        **{name: estimate.value for name, estimate in estimates.items()},
        "intervals": {name: estimate.interval for name, estimate in estimates.items() if estimate.interval},
    }
