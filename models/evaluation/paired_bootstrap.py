"""Paired bootstrap over users: the lead of one system over another on the same targets, and its interval.

Users are drawn with replacement, each with all of its targets, and the lead is computed anew for each draw (Efron and
Tibshirani, "An Introduction to the Bootstrap", 1993, chapters 8 and 13, percentile interval). Unlike the closed form of
`models.evaluation.intervals` it assumes no normal distribution, of which few users with many targets may be far.
The numbers of draws follow Poisson's distribution, which many independent draws approach, so that a draw is one product
of a matrix. The seed is fixed: the same lists give the same interval.
"""

from typing import Final

import numpy as np

from engine.arrays import Float64, Int32
from models.evaluation.intervals import Estimate

DRAWS: Final = 2_000
_AT_ONCE: Final = 50
_TAILS: Final = (0.025, 0.975)


def lead(gains: Float64, other_gains: Float64, users: Int32, seed: int = 0) -> Estimate:
    """Mean difference of gains [n] on the same n targets of `users` [n], with its 95 % interval."""
    if not len(gains):
        return Estimate(None, None)
    _, numbers = np.unique(users, return_inverse=True)
    sums, counts = np.bincount(numbers, gains - other_gains), np.bincount(numbers)  # [U]
    value = float(sums.sum() / counts.sum())
    if len(counts) < 2:  # noqa: PLR2004 - one user shows no variance
        return Estimate(value, None)
    rng, leads = np.random.default_rng(seed), list[Float64]()
    for _ in range(DRAWS // _AT_ONCE):
        draws = rng.poisson(1.0, (_AT_ONCE, len(counts)))
        leads.append(draws @ sums / np.maximum(draws @ counts, 1))
    low, high = np.quantile(np.concatenate(leads), _TAILS)
    return Estimate(value, (float(low), float(high)))
