r"""Several arms compared with one control at once: critical value and adjusted p-values after Dunnett. Pure.

The differences of the arms' estimates from that of the control are correlated, as the control is in each of them: with
variances v_0 of the control and v_i of the arms, the standardised differences Z_i have under no difference, in the
limit, a normal distribution with the correlations \lambda_i \lambda_j, \lambda_i = \sqrt{v_0 / (v_0 + v_i)}. Given the
control's own deviation u they are independent, so that

    P(max |Z_i| <= c) = \int \phi(u) \prod_i [\Phi((c - \lambda_i u) / s_i) - \Phi((-c - \lambda_i u) / s_i)] du

with s_i = \sqrt{1 - \lambda_i^2}. The intervals with the half width c hold together, and need less than those of
Bonferroni and Holm, which know nothing of the correlations.

Source: Dunnett, "A multiple comparison procedure for comparing several treatments with a control", JASA 1955.
"""

from typing import Final

import numpy as np

from engine.arrays import Float64
from engine.quality.normal import normal_cdf

_WIDEST: Final = 12.0
_BISECTIONS: Final = 32
_NODES: Final = np.linspace(-8.5, 8.5, 341)
_WEIGHTS: Final = np.exp(-(_NODES**2) / 2.0) / np.sqrt(2.0 * np.pi) * (_NODES[1] - _NODES[0])


def loadings(control: float, arms: Float64) -> Float64:
    """[k] the lambdas of k arms by the variance of the control and those of the arms [k]."""
    return np.sqrt(control / (control + arms))


def within(bound: float, loading: Float64) -> float:
    """Probability that all standardised differences are within this bound where no arm differs.

    Args:
        bound: c, at least 0.
        loading: [k] lambda of each arm.
    """
    spread = np.sqrt(np.maximum(1.0 - loading**2, 1e-12))[:, None]
    shift = loading[:, None] * _NODES
    inside = normal_cdf((bound - shift) / spread) - normal_cdf((-bound - shift) / spread)  # [k, U]
    return float(min(1.0, (_WEIGHTS * inside.prod(axis=0)).sum()))


def critical_value(error: float, loading: Float64) -> float:
    """The bound that any of the standardised differences exceeds with probability `error` where no arm differs."""
    low, high = 0.0, _WIDEST
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2.0
        low, high = (low, middle) if within(middle, loading) > 1.0 - error else (middle, high)
    return high


def p_values(standardised: Float64, loading: Float64) -> Float64:
    """[k] p-values of the differences, two-sided, each adjusted for all of them."""
    return np.array([max(0.0, 1.0 - within(abs(value), loading)) for value in standardised.tolist()])
