"""Probabilities of the normal and the chi-square distribution, without a library of statistics. Pure."""

import math

import numpy as np

from engine.arrays import Float64

_SQRT2 = math.sqrt(2.0)


def normal_cdf(values: Float64) -> Float64:
    """Probability that a standard normal is at most each value [...]."""
    flat = [0.5 * math.erfc(-value / _SQRT2) for value in values.ravel().tolist()]
    return np.array(flat, np.float64).reshape(values.shape)


def chi_square_tail(statistic: float, freedom: int) -> float:
    """Upper tail probability of a chi-square distribution; `freedom` is at least 1.

    The finite sums for whole degrees of freedom: Abramowitz and Stegun, "Handbook of Mathematical Functions", 26.4.4
    and 26.4.5.
    """
    half = statistic / 2.0
    first = freedom % 2 / 2.0
    tail = math.erfc(math.sqrt(half)) if freedom % 2 else 0.0
    exponents = np.arange(first, freedom / 2.0)
    terms = (
        math.exp(exponent * math.log(half) - half - math.lgamma(exponent + 1.0)) if half > 0.0 else float(not exponent)
        for exponent in exponents.tolist()
    )
    return min(1.0, tail + math.fsum(terms))
