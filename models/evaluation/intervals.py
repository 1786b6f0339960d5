"""How sure a figure is: 95 % intervals over users.

A user's answers resemble one another, so the users are the sample, not the answers. A figure over n answers is a ratio
of sums, and its variance is that of the ratio estimator with users as clusters (Cochran, "Sampling Techniques", 1977,
6.4 and 9A.1; for means the cluster-robust variance of Liang and Zeger, "Longitudinal Data Analysis Using Generalized
Linear Models", 1986). In closed form: no draws, so the same answers give the same interval.
"""

from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

import numpy as np

from engine.arrays import Float64, Int32

_Z: Final = NormalDist().inv_cdf(0.975)
"""1.96: the normal interval holds 95 % between its two ends."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure and its interval."""

    value: float | None
    """None where there is nothing to divide by."""
    interval: tuple[float, float] | None
    """Both ends; None where one user, or none, says nothing about others."""

    def within(self, lowest: float, highest: float) -> "Estimate":
        """The same, for a figure that cannot lie outside: few users may give a normal interval that does."""
        ends = self.interval and (max(self.interval[0], lowest), min(self.interval[1], highest))
        return Estimate(self.value, ends)


def ratio(above: Float64, below: Float64, users: Int32) -> Estimate:
    """Sum of `above` [n] over sum of `below` [n], entries of `users` [n]."""
    total = float(below.sum())
    if total == 0.0:
        return Estimate(None, None)
    value = float(above.sum()) / total
    count = np.count_nonzero(np.bincount(users))
    if count < 2:  # noqa: PLR2004 - two are needed to differ
        return Estimate(value, None)
    residuals = np.bincount(users, above - value * below)  # a user's part of the error; 0 for numbers of no user
    margin = _Z * float(np.sqrt(count / (count - 1) * np.square(residuals).sum())) / abs(total)
    return Estimate(value, (value - margin, value + margin))


def mean(values: Float64, users: Int32) -> Estimate:
    """Mean of `values` [n], entries of `users` [n]."""
    return ratio(values, np.ones(len(values)), users)
