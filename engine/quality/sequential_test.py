r"""An always-valid comparison of two rates: it may be looked at after every click, and stopped at any look. Pure.

The difference d of two arms' rates is estimated with its variance v from clusters of whole users; information is 1 / v.
Under any true difference \delta the process d / v is, in the limit, a Brownian motion with drift \delta in the time
1 / v, for which the normal mixture of Robbins gives intervals that hold at all looks together with probability
1 - \alpha:

    |d - \delta| <= v * sqrt((1/v + \rho) * log((1/v + \rho) / (\rho * \alpha^2)))

This is also the mixture sequential probability ratio test (mSPRT) with a normal prior of variance 1 / \rho. Clicks of
one user are not independent, so the increments are not either: they are positively correlated, which makes fewer
crossings (Slepian's inequality), and the clusters' variance counts them in.

Sources: Robbins, "Statistical methods related to the law of the iterated logarithm", 1970. Johari, Koomen, Pekelis,
Walsh, "Peeking at A/B tests", KDD 2017. Howard, Ramdas, McAuliffe, Sekhon, "Time-uniform, nonparametric, nonasymptotic
confidence sequences", Annals of Statistics 2021, with the choice of \rho. Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas,
"Time-uniform central limit theory and asymptotic confidence sequences", 2021.
"""

import numpy as np

from engine.arrays import Float64


def clustered_rate(values: Float64, counts: Float64) -> tuple[Float64, Float64]:
    """The ratio of two sums over clusters, and its variance by the delta method.

    Args:
        values: [..., G] sums of the values in each cluster.
        counts: [..., G] numbers of values; clusters without any do not count.

    Returns:
        rate [...] and variance [...]; NaN with fewer than two clusters.
    """
    total = counts.sum(axis=-1)
    clusters = (counts > 0).sum(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        rate = values.sum(axis=-1) / total
        residuals = np.where(counts > 0, values - rate[..., None] * counts, 0.0)
        spread = (residuals**2).sum(axis=-1) * clusters / (clusters - 1)
        variance = np.where(clusters > 1, spread / total**2, np.nan)
    return rate, variance


def half_width(variance: Float64, alpha: float, rho: float) -> Float64:
    """Half of the width of the two-sided interval that holds at all looks with probability 1 - alpha.

    Args:
        variance: [...] of the estimate at each look.
        alpha: probability of being wrong at any look; for one side alone give twice its probability.
        rho: where the interval is tightest, see `tightest_at`.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        information = 1.0 / variance
        width: Float64 = variance * np.sqrt((information + rho) * np.log((information + rho) / (rho * alpha * alpha)))
    return width


def tightest_at(information: float, alpha: float) -> float:
    """The rho with which the interval is tightest at this information, approximately (Howard et al. 2021)."""
    log_error = -2.0 * np.log(alpha)
    return float(information / (log_error + np.log1p(log_error)))
