"""95 % confidence intervals with users as clusters.

The lists of one user are correlated, so the users are the sample, not the lists. A metric over n lists is a ratio of
sums, and its variance is that of the ratio estimator with users as clusters (Cochran, "Sampling Techniques", 1977, 6.4
and 9A.1; for means the cluster-robust variance of Liang and Zeger, "Longitudinal Data Analysis Using Generalized Linear
Models", 1986). In closed form: no random draws, so the same lists give the same interval.
"""

from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

import numpy as np

from engine.arrays import Float64, Int32

_Z: Final = NormalDist().inv_cdf(0.975)
"""1.96: a standard normal variable is within this of 0 in 95 % of cases."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value and its confidence interval."""

    value: float | None
    """None where the denominator is 0."""
    interval: tuple[float, float] | None
    """Lower and upper end; None with fewer than two users, as one user shows no variance."""

    def clipped(self, lowest: float, highest: float) -> "Estimate":
        """The same value, its interval cut to a metric's range: with few users the normal interval may exceed it."""
        ends = self.interval and (max(self.interval[0], lowest), min(self.interval[1], highest))
        return Estimate(self.value, ends)


def ratio(numerators: Float64, denominators: Float64, users: Int32) -> Estimate:
    """Sum of `numerators` [n] over sum of `denominators` [n], entries of `users` [n]."""
    total = float(denominators.sum())
    if total == 0.0:
        return Estimate(None, None)
    value = float(numerators.sum()) / total
    count = np.count_nonzero(np.bincount(users))
    if count < 2:  # noqa: PLR2004 - one user shows no variance
        return Estimate(value, None)
    residuals = np.bincount(users, numerators - value * denominators)  # by user number; 0 for numbers without entries
    margin = _Z * float(np.sqrt(count / (count - 1) * np.square(residuals).sum())) / abs(total)
    return Estimate(value, (value - margin, value + margin))


def mean(values: Float64, users: Int32) -> Estimate:
    """Mean of `values` [n], entries of `users` [n]."""
    return ratio(values, np.ones(len(values)), users)
