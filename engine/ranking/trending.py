"""Trending items: those whose share of all events has risen, in the last hour against the seven days before it.

    n_i ~ Poisson(rise_i * E_i)     events of item i in the last hour; E_i = N * c_i / C, with N all of that hour, and
                                    c_i, C the item's and all events of the days before
    rise_i ~ Gamma(a, a)            before anything is counted: a mean of 1, which shrinks the rises of rare items
    rise_i | n_i ~ Gamma(a + n_i, a + E_i)

An item is ranked by the lowest rise that is plausible, the quantile 0.1 % of the last distribution, and trends where
that is above 1. Shares are compared, not counts, so that nothing trends because it is evening. DuMouchel, "Bayesian
Data Mining in Large Frequency Tables, with an Application to the FDA Spontaneous Reporting System", The American
Statistician 53(3), 1999, ranks by the lower quantile of a shrunk ratio of counts, too, there with a mixture of two
gammas and 5 %. Quantiles of the gamma: Wilson and Hilferty, "The Distribution of Chi-Square", PNAS 17, 1931.
"""

from typing import Final

import numpy as np

from engine.arrays import Float32, Float64, Int32, Int64

_BIN_MS: Final = 300_000
_BINS: Final = 12
"""Bins of the hour: it ends with the newest event, and is five minutes short of an hour at the least."""
_PRIOR_EVENTS: Final = 4.0
"""a: an item with fewer expected events is taken for one that has not risen, until its events outweigh these."""
_QUANTILE_Z: Final = -3.09
"""Of the standard normal distribution, for the quantile 0.1 %."""


class RecentEvents:
    """Events per item number in the last hour up to the newest event seen, by bins of five minutes."""

    def __init__(self) -> None:
        self._counts = np.zeros((_BINS, 0), np.int32)  # [bin modulo _BINS, items]
        self._newest: int | None = None

    def add(self, items: Int32, times_ms: Int64) -> None:
        """Count events, in any order, but for those older than the hour."""
        if not len(items):
            return
        self._reserve(int(items.max()) + 1)
        bins = times_ms // _BIN_MS
        recent = bins > self._advance(int(bins.max())) - _BINS
        np.add.at(self._counts, (bins[recent] % _BINS, items[recent]), 1)

    def forget(self, items: Int32) -> None:
        """Drop the counts of items whose numbers are about to be those of other items."""
        self._counts[:, items[items < self._counts.shape[1]]] = 0

    def counts(self) -> Int64:
        """[items] events of each item number."""
        counts: Int64 = self._counts.sum(axis=0, dtype=np.int64)
        return counts

    def _advance(self, newest: int) -> int:
        """Move the hour on to the bin `newest`, dropping those that leave it; returns the newest bin."""
        before = newest if self._newest is None else self._newest
        for bin_ in range(before + 1, min(newest, before + _BINS) + 1):
            self._counts[bin_ % _BINS] = 0
        self._newest = max(before, newest)
        return self._newest

    def _reserve(self, items: int) -> None:
        capacity = self._counts.shape[1]
        if items > capacity:
            extra = max(items, 2 * capacity) - capacity
            self._counts = np.concatenate([self._counts, np.zeros((_BINS, extra), np.int32)], axis=1)


def trending(recent: Int64, week: Float32, count: int) -> tuple[Int32, Float64]:
    """Items that trend, the highest lowest rise first, ties by number.

    Args:
        recent: [V] events of the last hour by item number.
        week: [V'] events of the last seven days, that hour among them.
        count: of items at most.

    Returns:
        item numbers [n] and their lowest plausible rises [n], all above 1; none where nothing is known from before.
    """
    before = np.zeros(max(len(recent), len(week)))
    before[: len(week)] = week
    before[: len(recent)] -= recent
    before = np.maximum(before, 0.0)
    if not before.sum():
        return np.empty(0, np.int32), np.empty(0)
    items = np.flatnonzero(recent)
    expected = recent.sum() * before[items] / before.sum()
    rises = lowest_rise(recent[items], expected)
    order = np.argsort(-rises, kind="stable")[: min(count, int((rises > 1.0).sum()))]
    return items[order].astype(np.int32), rises[order]


def lowest_rise(events: Int64, expected: Float64) -> Float64:
    """[n] lower quantile of the rise of items, from their counted events [n] and their expected ones [n]."""
    shape, rate = _PRIOR_EVENTS + events, _PRIOR_EVENTS + expected
    spread = 1.0 / (9.0 * shape)
    quantiles: Float64 = shape / rate * (1.0 - spread + _QUANTILE_Z * np.sqrt(spread)) ** 3
    return quantiles
