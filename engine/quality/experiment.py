"""Arms of users compared by their next clicks: sums; and of a canary's two arms the interval and the decision. Pure.

The outcome of a click is its gain, 1 / log2(1 + rank) where the clicked item was on that rank of the list that the user
had been sent, and 0 where it was not among its first places: NDCG of a list with one right item. An arm's rate is the
mean gain of its clicks. The unit is the user: users are spread over clusters by a hash, and the variance is that
between clusters. A canary is an experiment of two arms that ends by itself; one of more arms, which people end, is
compared in `engine.quality.lifts`.

With interleaving the arms are teams: both releases make the lists of one group of users together, a click is credited
to the release of its place, and the difference is that of the credits per click.
"""

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from engine.arrays import Bool, Float64, Int8, Int32, Int64
from engine.quality import sequential_test
from engine.releases.arms import NO_GROUP
from engine.settings.sections import CanarySettings

ARMS: Final = 2
"""Arms of a canary."""
CONTROL, CANARY = 0, 1
CLUSTERS: Final = 512
"""Clusters of users in each arm: their number bounds the size of a record, and the variance is known to a sixteenth."""

Decision = Literal["wait", "promote", "take_back", "no_difference"]


def gains(ranks: Int64) -> Float64:
    """[n] gain of each rank [n], from 1; 0 for rank 0, an item that was not listed."""
    listed: Float64 = np.where(ranks > 0, 1.0 / np.log2(1.0 + np.maximum(ranks, 1)), 0.0)
    return listed


@dataclass(slots=True)
class ArmSums:
    """Sums of the judged clicks of an experiment, by arm and cluster of users."""

    clicks: Float64
    """[..., A, G]"""
    hits: Float64
    """[..., A, G] of them, clicks on a listed item."""
    gains: Float64
    """[..., A, G]"""

    @classmethod
    def empty(cls, arms: int = ARMS) -> "ArmSums":
        """No click yet."""
        return cls(*(np.zeros((arms, CLUSTERS)) for _ in range(3)))

    def add(self, groups: Int32, ranks: Int64) -> None:
        """Add n clicks: the group of each user (arm times `CLUSTERS` plus cluster, or NO_GROUP), and each rank."""
        judged: Bool = groups != NO_GROUP
        groups, ranks = groups[judged], ranks[judged]
        for sums, values in ((self.clicks, np.ones(len(ranks))), (self.hits, ranks > 0), (self.gains, gains(ranks))):
            np.add.at(sums.reshape(-1), groups, values)

    def add_interleaved(self, groups: Int32, ranks: Int64, teams: Int8) -> None:
        """Add n clicks on lists that both releases made.

        Args:
            groups: [n] groups of the users, all of one arm; NO_GROUP where the click does not count.
            ranks: [n] rank of each item, 0 where it was not listed.
            teams: [n] release of the place with that rank.
        """
        judged: Bool = groups != NO_GROUP
        clusters, ranks, teams = groups[judged] % CLUSTERS, ranks[judged], teams[judged]
        self.clicks += np.bincount(clusters, minlength=CLUSTERS)
        credited = (ranks > 0) & (teams >= 0)
        for sums in (self.hits, self.gains):
            np.add.at(sums, (teams[credited].astype(np.int64), clusters[credited]), 1.0)

    def __add__(self, other: "ArmSums") -> "ArmSums":
        return ArmSums(self.clicks + other.clicks, self.hits + other.hits, self.gains + other.gains)


@dataclass(frozen=True, slots=True)
class ArmComparison:
    """The canary beside the live release; arrays where there are several experiments or looks."""

    users: Float64
    """[..., 2] users judged in each arm, as estimated from the clusters that have any."""
    rates: Float64
    """[..., 2] mean gain of a click in each arm."""
    difference: Float64
    """[...] canary minus live."""
    lower: Float64
    """[...] the true difference is above this at all looks, but for an error of `canary.better_error`."""
    upper: Float64
    """[...] the true difference is below this at all looks, but for an error of `canary.harm_error`."""

    def sentence(self) -> str:
        """The figures in words, for the registry and the log."""
        if not self.users.all():
            return f"too few clicks to compare, users {self.users[CANARY]:.0f} and {self.users[CONTROL]:.0f}"
        control, canary = self.rates.tolist()
        return (
            f"gain {canary:.4f} beside {control:.4f}, difference {float(self.difference):+.4f}"
            f" ({float(self.lower):+.4f} to {float(self.upper):+.4f}), users {self.users[CANARY]:.0f} and"
            f" {self.users[CONTROL]:.0f}"
        )


def compare(sums: ArmSums, settings: CanarySettings) -> ArmComparison:
    """The difference between the arms, with bounds that hold at all looks."""
    rates, variances = sequential_test.clustered_rate(sums.gains, sums.clicks)
    difference, variance = rates[..., CANARY] - rates[..., CONTROL], variances.sum(axis=-1)
    return _bounded(judged_users(sums.clicks), rates, difference, variance, settings)


def compare_interleaved(sums: ArmSums, settings: CanarySettings) -> ArmComparison:
    """The difference in credited clicks between two releases that made lists together, per click judged."""
    clicks = sums.clicks[..., CONTROL, :]
    difference, variance = sequential_test.clustered_rate(
        sums.gains[..., CANARY, :] - sums.gains[..., CONTROL, :], clicks
    )
    with np.errstate(invalid="ignore"):
        rates = sums.gains.sum(axis=-1) / sums.clicks.sum(axis=-1)
    return _bounded(judged_users(sums.clicks), rates, difference, variance, settings)


def _bounded(
    users: Float64, rates: Float64, difference: Float64, variance: Float64, settings: CanarySettings
) -> ArmComparison:
    widths = [
        # The bound of one side: twice its error, of which each side has half.
        sequential_test.half_width(variance, 2.0 * error, _rho(error, settings.difference))
        for error in (settings.better_error, settings.harm_error)
    ]
    return ArmComparison(users, rates, difference, difference - widths[0], difference + widths[1])


def ends(comparison: ArmComparison, settings: CanarySettings) -> dict[Decision, Bool]:
    """By decision, [...] whether the comparison allows it; none of them while there are too few users."""
    enough = (comparison.users >= settings.min_users).all(axis=-1)
    with np.errstate(invalid="ignore"):
        harm: Bool = enough & (comparison.upper < 0.0)
        better: Bool = enough & (comparison.lower > 0.0)
        same: Bool = enough & (comparison.lower > -settings.difference) & (comparison.upper < settings.difference)
    return {"take_back": harm, "promote": better, "no_difference": same & ~harm & ~better}


def decide(comparison: ArmComparison, settings: CanarySettings, age_h: float) -> Decision:
    """The end of a canary of this age, or `wait`."""
    for decision, allowed in ends(comparison, settings).items():
        if bool(allowed):
            return decision
    return "no_difference" if age_h >= settings.max_hours else "wait"


def _rho(error: float, difference: float) -> float:
    """Tightest where a difference that matters is about to be seen: four standard errors away from none."""
    return sequential_test.tightest_at(16.0 / difference**2, 2.0 * error)


def judged_users(clicks: Float64) -> Float64:
    """[..., 2] numbers of users by linear counting of the clusters [..., 2, G] that have any.

    Source: Whang, Vander-Zanden, Taylor, "A linear-time probabilistic counting algorithm", 1990. A lower bound where
    all clusters have some.
    """
    free = np.maximum((clicks == 0).sum(axis=-1), 0.5)
    users: Float64 = CLUSTERS * np.log(CLUSTERS / free)
    return users
