"""Drift: how far clicks and interests are from those that the release in use was trained with, as counters.

    unknown items    clicks of positive weight on items that the release has no vector of
    item age         time from an item's first click to a click on it. An item of a release is at least as old as the
                     newest click that the release was trained with; of others this worker knows what it has seen itself
    interests        mean length of a user's interests: inputs other than those of the training change it first
    concentration    effective number of interests that a list comes from (`effective_interests`)

A rate or a mean is the ratio of two counters over the same time, which any Prometheus can form.
"""

from typing import Final

import numpy as np

from engine.arrays import Float64, Int32, Int64
from engine.metrics import Metrics
from engine.quality.next_click import PLACES
from engine.ranking.lists import Lists
from engine.releases.serving import LiveRelease

_HOUR_MS: Final = 3_600_000
_AGES: Final = {"hour": _HOUR_MS, "day": 24 * _HOUR_MS, "week": 7 * 24 * _HOUR_MS, "month": 30 * 24 * _HOUR_MS}
"""Upper end of each age, milliseconds."""
AGES: Final = (*_AGES, "older")
"""Ages of items, as the metric's label has them."""
_NEVER: Final = np.iinfo(np.int64).max


class ItemAges:
    """Time of the first click on each item number, as far as it is known."""

    def __init__(self) -> None:
        self._first_ms = np.empty(0, np.int64)

    def know(self, items: Int32, first_ms: int | Int64) -> None:
        """These items [n] were clicked at `first_ms` ([n] or one time, Unix milliseconds), or earlier."""
        missing = int(items.max(initial=-1)) + 1 - len(self._first_ms)
        if missing > 0:
            extra = np.full(max(missing, len(self._first_ms)), _NEVER)
            self._first_ms = np.concatenate([self._first_ms, extra])
        np.minimum.at(self._first_ms, items, first_ms)

    def ages_ms(self, items: Int32, times_ms: Int64) -> Int64:
        """[n] age of these items [n], known ones, at these times [n]."""
        ages: Int64 = times_ms - self._first_ms[items]
        return ages

    def forget(self, items: Int32) -> None:
        """Drop items whose numbers are about to be those of others."""
        self._first_ms[items[items < len(self._first_ms)]] = _NEVER


class DriftCounts:
    """The counters of drift, which a worker brings up to date batch by batch."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics, self.ages = metrics, ItemAges()

    def add_release(self, live: LiveRelease) -> None:
        """The items of a release are known from the newest click that it was trained with on."""
        self.ages.know(live.numbers, live.manifest.provenance.until_ms or 0)

    def add_clicks(self, live: LiveRelease, items: Int32, times_ms: Int64) -> None:
        """Count clicks of positive weight on these items [n] at these times [n], while a release is in use."""
        if not len(items):
            return
        self.ages.know(items, times_ms)
        ages = np.searchsorted([*_AGES.values()], self.ages.ages_ms(items, times_ms), side="right")
        for age, count in zip(AGES, np.bincount(ages, minlength=len(AGES)).tolist(), strict=True):
            if count:
                self._metrics.item_clicks.labels(live.name, age).inc(count)
        unknown = int((live.rows(items) < 0).sum())
        self._metrics.unknown_item_clicks.labels(live.name).inc(unknown)

    def add_lists(self, live: LiveRelease, lists: Lists) -> None:
        """Count lists that a release made by itself."""
        with_interests = lists.interest_norms > 0.0
        if with_interests.any():
            effective = effective_interests(lists.interests[:, :PLACES])
            self._metrics.interest_lists.labels(live.name).inc(int(with_interests.sum()))
            self._metrics.interest_norms.labels(live.name).inc(float(lists.interest_norms.sum()))
            self._metrics.listed_interests.labels(live.name).inc(float(effective[with_interests].sum()))


def effective_interests(interests: Int32) -> Float64:
    """[B] effective number of interests that lists come from, by the interest [B, N] of each place; -1 for none.

    The perplexity of the interests' shares of the places (the Hill number of order 1: Hill, "Diversity and Evenness: A
    Unifying Notation and Its Consequences", 1973): 1 where one interest found every item, K where each found as many,
    0 where none found any.
    """
    counts = (interests[:, :, None] == np.arange(int(interests.max(initial=-1)) + 1)).sum(axis=1)  # [B, K]
    places = counts.sum(axis=1, keepdims=True)
    shares = counts / np.maximum(places, 1)
    entropy = -(shares * np.log(np.where(shares > 0.0, shares, 1.0))).sum(axis=1)
    return np.where(places[:, 0] > 0, np.exp(entropy), 0.0)
