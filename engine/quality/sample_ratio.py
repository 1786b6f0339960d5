"""The check that the arms have the users that their shares promise. Pure.

Where they do not, something other than the hash decides who is counted in which arm (lists of one arm that are lost,
a worker that knows nothing of the experiment), and the arms cannot be compared: Fabijan et al., "Diagnosing sample
ratio mismatch in online controlled experiments", KDD 2019, with their bound on the p-value.
"""

from typing import Final

from engine.arrays import Float64, Int64
from engine.quality.normal import chi_square_tail

MISMATCH: Final = 0.001
"""Below this p-value an experiment is not to be read."""
_MIN_EXPECTED: Final = 5.0
"""Users that each arm must be expected to have before the chi-square distribution is a good approximation (Cochran)."""


def p_value(users: Int64, shares: Float64) -> float:
    """Probability of numbers of users as far from the shares as these, or further, by Pearson's chi-square test.

    Args:
        users: [A] of each arm, a uniform sample of them or all.
        shares: [A] of the users that each arm is to have.

    Returns:
        NaN while there are too few users, or fewer than two arms.
    """
    if len(users) < 2:  # noqa: PLR2004 - an arm and a control
        return float("nan")
    expected = shares / shares.sum() * users.sum()
    if expected.min() < _MIN_EXPECTED:
        return float("nan")
    return chi_square_tail(float(((users - expected) ** 2 / expected).sum()), len(users) - 1)
