r"""Arms of an experiment compared with its control: lifts, with intervals for all looks and for one at the end. Pure.

The lift of an arm is the ratio of its mean gain r_i to that of the control r_0, minus 1. Its interval is Fieller's: all
ratios \phi for which r_i - \phi r_0 is within c standard errors of 0, v_i and v_0 being the variances between clusters
of users (`sequential_test.clustered_rate`):

    (r_i - \phi r_0)^2 <= c^2 (v_i + \phi^2 v_0)

So it leaves out a lift of 0 exactly where the difference r_i - r_0 is further than c standard errors from 0, and is
unbounded where the control's gain cannot be distinguished from 0. c is

    always-valid    that of the normal mixture for the difference at this look (`sequential_test.half_width`), the error
                    divided by the number of arms after the control (Bonferroni)
    fixed-horizon   Dunnett's critical value for that number of arms (`many_to_one`); for one look at a time that was
                    settled before

Sources: Fieller, "Some problems in interval estimation", JRSS B 1954. Deng, Knoblich, Lu, "Applying the delta method in
metric analytics", KDD 2018. Of the sequences: `engine.quality.sequential_test`.
"""

from dataclasses import dataclass

import numpy as np

from engine.arrays import Float64
from engine.quality import many_to_one, sequential_test
from engine.quality.experiment import CONTROL, ArmSums

_LOWEST_LIFT = -1.0
_SEEN_AT = 16.0
"""Squared standard errors at which a difference that matters is about to be seen, as of a canary."""


@dataclass(frozen=True, slots=True)
class Intervals:
    """Intervals of the lifts of k arms; arrays [..., k] where there are several experiments or looks."""

    lower: Float64
    """[..., k] -1 where it is not bounded, as no gain is below 0."""
    upper: Float64
    """[..., k] infinite where it is not bounded."""


@dataclass(frozen=True, slots=True)
class ArmRates:
    """Mean gains of A arms, with their variances; arrays [..., A] where there are several experiments or looks."""

    rates: Float64
    """[..., A]"""
    variances: Float64
    """[..., A] between clusters of users."""

    @classmethod
    def of(cls, sums: ArmSums) -> "ArmRates":
        """Of the sums [..., A, G]; NaN for an arm with clicks in fewer than two clusters."""
        return cls(*sequential_test.clustered_rate(sums.gains, sums.clicks))

    @property
    def lifts(self) -> Float64:
        """[..., k] of the arms after the control; NaN where the control has no gain."""
        control = self.rates[..., CONTROL, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(control > 0.0, self.rates[..., CONTROL + 1 :] / control - 1.0, np.nan)

    @property
    def difference_variances(self) -> Float64:
        """[..., k] of each arm's rate minus that of the control."""
        variances: Float64 = self.variances[..., CONTROL + 1 :] + self.variances[..., CONTROL, None]
        return variances

    def always_valid(self, error: float, difference: float) -> Intervals:
        """Intervals of which none is wrong at any look, but for this error.

        Args:
            error: probability that any of them is wrong at any look.
            difference: of the mean gain, that matters: the intervals are tightest where it is about to be seen.
        """
        alpha = error / (self.rates.shape[-1] - 1)
        variance = self.difference_variances
        rho = sequential_test.tightest_at(_SEEN_AT / difference**2, alpha)
        with np.errstate(divide="ignore", invalid="ignore"):
            return self._fieller(sequential_test.half_width(variance, alpha, rho) / np.sqrt(variance))

    def fixed_horizon(self, error: float) -> tuple[Intervals, Float64]:
        """Intervals [k] that hold together at this one look, but for this error, and p-values [k], adjusted alike.

        Arms without clicks are not compared, and are NaN.
        """
        variance = self.difference_variances
        with np.errstate(divide="ignore", invalid="ignore"):
            standardised = (self.rates[CONTROL + 1 :] - self.rates[CONTROL]) / np.sqrt(variance)
        known = np.isfinite(standardised)
        width, p_values = np.full(len(known), np.nan), np.full(len(known), np.nan)
        if known.any():
            loading = many_to_one.loadings(float(self.variances[CONTROL]), self.variances[CONTROL + 1 :][known])
            width[known] = many_to_one.critical_value(error, loading)
            p_values[known] = many_to_one.p_values(standardised[known], loading)
        return self._fieller(width), p_values

    def _fieller(self, width: Float64) -> Intervals:
        """The ratios [..., k] minus 1 that are within `width` [..., k] standard errors; NaN where nothing is known."""
        control, arm = self.rates[..., CONTROL, None], self.rates[..., CONTROL + 1 :]
        control_spread = width**2 * self.variances[..., CONTROL, None]
        arm_spread = width**2 * self.variances[..., CONTROL + 1 :]
        with np.errstate(divide="ignore", invalid="ignore"):
            sure = control**2 - control_spread
            root = np.sqrt(np.maximum(arm_spread * sure + control_spread * arm**2, 0.0))
            lower, upper = (arm * control - root) / sure - 1.0, (arm * control + root) / sure - 1.0
        unknown, bounded = np.isnan(width) | np.isnan(sure), sure > 0.0
        return Intervals(
            np.where(unknown, np.nan, np.where(bounded, np.maximum(lower, _LOWEST_LIFT), _LOWEST_LIFT)),
            np.where(unknown, np.nan, np.where(bounded, upper, np.inf)),
        )
