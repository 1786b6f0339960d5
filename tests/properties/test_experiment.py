"""The judge of canaries: its promises at all looks together, on simulated users whose clicks are not independent."""

import math
import os
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.arrays import Float64, Int64
from engine.quality import experiment, sequential_test
from engine.quality.experiment import ARMS, CANARY, CLUSTERS, CONTROL, ArmComparison, ArmSums
from engine.releases.arms import NO_GROUP, Arms
from engine.settings.sections import CanarySettings
from tests.conftest import Report

LONG = os.environ.get("LONG_TESTS") == "1"
LOOKS = 60
RANKS = 10


@dataclass(frozen=True)
class Shop:
    """Users who differ in activity and in taste, and the chance that a click of theirs is on a listed item."""

    users: int = 5000
    clicks: float = 5.0
    """Mean of a user; the most active tenth makes half of all clicks."""
    hit_rate: float = 0.15
    concentration: float = 3.0
    """Of the beta distribution of users' own rates: the smaller, the more they differ."""

    def looks(self, rng: np.random.Generator, lift: float, share: float) -> ArmSums:
        """Sums at each look [LOOKS, 2, G], where canary users hit `1 + lift` times as often."""
        return self.arm_looks(rng, (0.0, lift), (1.0 - share, share))

    def arm_looks(self, rng: np.random.Generator, lifts: tuple[float, ...], shares: tuple[float, ...]) -> ArmSums:
        """Sums at each look [LOOKS, A, G], where users of an arm hit `1 + lift` times as often."""
        arms = (np.searchsorted(np.cumsum(shares[1:]), rng.random(self.users), side="right") + 1) % len(shares)
        clusters = rng.integers(0, CLUSTERS, self.users)
        rates = rng.beta(self.concentration * self.hit_rate, self.concentration * (1 - self.hit_rate), self.users)
        rates = np.minimum(rates * (1.0 + np.array(lifts)[arms]), 1.0)
        counts = rng.poisson(rng.lognormal(math.log(self.clicks) - 0.7, 1.2, self.users))
        users = np.repeat(np.arange(self.users), counts)
        times = rng.integers(0, LOOKS, len(users))
        ranks = np.where(rng.random(len(users)) < rates[users], rng.integers(1, RANKS + 1, len(users)), 0)
        return sums_by_look(times, arms[users] * CLUSTERS + clusters[users], ranks, len(shares))


def sums_by_look(times: Int64, groups: Int64, ranks: Int64, arms: int) -> ArmSums:
    places = times * arms * CLUSTERS + groups

    def summed(values: Float64 | None) -> Float64:
        sums = np.bincount(places, values, minlength=LOOKS * arms * CLUSTERS)
        return np.asarray(sums.reshape(LOOKS, arms, CLUSTERS).cumsum(axis=0), np.float64)

    return ArmSums(summed(None), summed((ranks > 0).astype(float)), summed(experiment.gains(ranks)))


@dataclass(frozen=True)
class Outcome:
    """Where canaries ended: the share of each end, and the users whom those that were taken back took."""

    shares: dict[str, float]
    users: list[float]
    """In the canary's arm at its end, for the canaries that were taken back."""


def run(canaries: int, shop: Shop, lift: float, settings: CanarySettings, seed: int = 0) -> Outcome:
    rng = np.random.default_rng(seed)
    ended, users = [], []
    for _ in range(canaries):
        comparison = experiment.compare(shop.looks(rng, lift, settings.share), settings)
        allowed = experiment.ends(comparison, settings)
        firsts = {name: int(mask.argmax()) if mask.any() else LOOKS for name, mask in allowed.items()}
        name, look = min(firsts.items(), key=lambda item: item[1])
        ended.append(name if look < LOOKS else "wait")
        if ended[-1] == "take_back":
            users.append(float(comparison.users[look, CANARY]))
    return Outcome({name: ended.count(name) / canaries for name in {*ended}}, users)


CANARIES = 1000 if LONG else 200
SETTINGS = CanarySettings(share=0.2, difference=0.02)


@pytest.mark.parametrize("shop", [Shop(), Shop(concentration=1.0, clicks=12.0), Shop(hit_rate=0.03)])
def test_false_alarms_of_a_release_against_itself_are_at_most_as_promised(shop: Shop, report: Report) -> None:
    """200 canaries, 60 looks each: users differ, and so their clicks are not independent."""
    outcome = run(CANARIES, shop, 0.0, SETTINGS)
    harm, better = outcome.shares.get("take_back", 0.0), outcome.shares.get("promote", 0.0)
    report(
        f"A/A, {CANARIES} canaries: taken back {harm:.1%}, promoted as better {better:.1%}",
        {"harm": harm, "better": better},
    )
    noise = 2.0 * math.sqrt(0.05 * 0.95 / CANARIES)
    assert harm <= SETTINGS.harm_error + noise
    assert better <= SETTINGS.better_error + noise


def test_without_clusters_the_promise_would_be_broken() -> None:
    """The same clicks, each of them taken for a user of its own: what the clusters are for."""
    rng, shop, wrong = np.random.default_rng(1), Shop(concentration=1.0, clicks=12.0), 0
    for _ in range(100):
        looks = shop.looks(rng, 0.0, SETTINGS.share)
        counts, sums = looks.clicks.sum(axis=2), looks.gains.sum(axis=2)
        rates = sums / counts
        variance = (rates * (1 - rates) / counts).sum(axis=1)  # of independent clicks, and an upper bound of it
        width = sequential_test.half_width(variance, 0.1, experiment._rho(0.05, SETTINGS.difference))
        enough = experiment.judged_users(looks.clicks).min(axis=1) >= SETTINGS.min_users
        wrong += bool((enough & (np.abs(rates[:, CANARY] - rates[:, CONTROL]) > width)).any())
    assert wrong > 30


def test_a_sabotaged_release_is_taken_back(report: Report) -> None:
    """One whose item table is shuffled: it hits as often as chance, a tenth of the live one."""
    outcome = run(CANARIES, Shop(), -0.9, SETTINGS)
    users = np.percentile(outcome.users, [50, 95])
    report(
        f"sabotaged: taken back {outcome.shares['take_back']:.1%}, after {users[0]:.0f} canary users (median), 95 %"
        f" within {users[1]:.0f}",
        {"taken_back": outcome.shares["take_back"], "users": users[0], "users_p95": users[1]},
    )
    assert outcome.shares["take_back"] >= 0.95
    assert "promote" not in outcome.shares


def test_a_better_release_is_promoted(report: Report) -> None:
    outcome = run(100, Shop(), 0.7, SETTINGS)
    report(f"better by 70 %: promoted {outcome.shares['promote']:.1%}", {"promoted": outcome.shares["promote"]})
    assert outcome.shares["promote"] >= 0.95
    assert "take_back" not in outcome.shares


def test_a_difference_that_does_not_matter_ends_without_one() -> None:
    outcome = run(20, Shop(users=40_000), 0.0, CanarySettings(share=0.5, difference=0.04))
    assert outcome.shares.get("no_difference", 0.0) >= 0.9


@pytest.mark.parametrize(("alpha", "rho"), [(0.05, 10.0), (0.1, 1000.0)])
def test_the_boundary_is_crossed_as_often_as_it_says(alpha: float, rho: float) -> None:
    """By a Brownian motion over five decades of information: at most alpha, and more than half of it."""
    rng = np.random.default_rng(0)
    information = np.geomspace(1.0, 1e5, 2000)
    steps = rng.normal(size=(2000, 2000)) * np.sqrt(np.diff(information, prepend=0.0))
    estimates = np.abs(steps.cumsum(axis=1)) / information
    crossed = (estimates > sequential_test.half_width(1.0 / information, alpha, rho)).any(axis=1).mean()
    assert alpha / 2 < crossed < alpha + 2 * math.sqrt(alpha / 2000)


def test_the_boundary_is_that_of_the_mixture_sequential_probability_ratio_test() -> None:
    """Johari et al. 2017: the mixture's likelihood ratio, written as there, is 1 / alpha on the boundary."""
    variance, alpha, tau = 0.01, 0.05, 0.3
    width = float(sequential_test.half_width(np.array(variance), alpha, 1.0 / tau**2))
    ratio = math.sqrt(variance / (variance + tau**2)) * math.exp(
        tau**2 * width**2 / (2 * variance * (variance + tau**2))
    )
    assert ratio == pytest.approx(1 / alpha)


def test_the_interval_is_tightest_where_it_is_said_to_be() -> None:
    variance = np.array(1.0 / 500.0)
    rhos = np.geomspace(1.0, 5000.0, 400)
    widths = [float(sequential_test.half_width(variance, 0.05, rho)) for rho in rhos]
    width = float(sequential_test.half_width(variance, 0.05, sequential_test.tightest_at(500.0, 0.05)))
    assert width < 1.001 * min(widths)


def test_a_rate_of_clusters_and_its_variance_by_hand() -> None:
    """Two users: 1 of 2 clicks hit, 3 of 4. Rate 4/6; residuals 1 - 2 * 4/6 and 3 - 4 * 4/6."""
    rate, variance = sequential_test.clustered_rate(np.array([1.0, 3.0, 0.0]), np.array([2.0, 4.0, 0.0]))
    assert rate == pytest.approx(4 / 6)
    assert variance == pytest.approx(2 * ((1 / 3) ** 2 + (1 / 3) ** 2) / 36)


@given(st.lists(st.tuples(st.integers(-1, ARMS * CLUSTERS - 1), st.integers(0, RANKS)), max_size=50), st.data())
def test_sums_of_several_workers_are_the_sums_of_all_clicks(clicks: list[tuple[int, int]], data: st.DataObject) -> None:
    whole, parts = ArmSums.empty(), [ArmSums.empty() for _ in range(3)]
    for group, rank in clicks:
        for sums in (whole, parts[data.draw(st.integers(0, 2))]):
            sums.add(np.array([group], np.int32), np.array([rank]))
    total = parts[0] + parts[1] + parts[2]
    np.testing.assert_allclose(total.gains, whole.gains)
    np.testing.assert_array_equal(total.clicks, whole.clicks)
    assert whole.clicks.sum() == sum(group != NO_GROUP for group, _ in clicks)
    assert whole.hits.sum() == sum(rank > 0 for group, rank in clicks if group != NO_GROUP)


def test_nothing_is_decided_before_there_are_users() -> None:
    settings = CanarySettings()
    for sums in (ArmSums.empty(), ArmSums(*(np.ones((ARMS, CLUSTERS)) * [[1], [0]] for _ in range(3)))):
        comparison = experiment.compare(sums, settings)
        assert experiment.decide(comparison, settings, 0.0) == "wait"
        assert experiment.decide(comparison, settings, settings.max_hours) == "no_difference"


def test_the_bounds_move_apart_with_fewer_errors() -> None:
    looks = Shop().looks(np.random.default_rng(0), 0.0, 0.5)
    wide = experiment.compare(looks, CanarySettings(harm_error=0.001, better_error=0.001))
    narrow = experiment.compare(looks, CanarySettings(harm_error=0.1, better_error=0.1))
    assert (wide.upper[5:] > narrow.upper[5:]).all()
    assert (wide.lower[5:] < narrow.lower[5:]).all()


def test_users_are_counted_by_their_clusters() -> None:
    looks = Shop(users=1000, clicks=30.0).looks(np.random.default_rng(0), 0.0, 0.5)
    comparison = experiment.compare(looks, CanarySettings())
    assert isinstance(comparison, ArmComparison)
    assert comparison.users[-1].sum() == pytest.approx(1000, rel=0.1)


@given(st.floats(0.01, 0.9), st.text(max_size=20))
def test_a_user_keeps_to_an_arm(share: float, salt: str) -> None:
    arms = Arms(salt, (1.0 - share, share), CLUSTERS)
    users = [f"user-{number}" for number in range(50)] + ["", "ä" * 100, "\ud800"]
    groups = arms.groups(users)
    np.testing.assert_array_equal(groups, arms.groups(users))
    assert ((groups >= 0) & (groups < ARMS * CLUSTERS)).all()
    wide = min(0.9, share * 2)
    wider = Arms(salt, (1.0 - wide, wide), CLUSTERS).groups(users)
    assert (wider // CLUSTERS >= groups // CLUSTERS).all()  # a larger share keeps those who are in it


def test_shares_are_kept_and_salts_are_independent() -> None:
    users = [f"user-{number}" for number in range(20_000)]
    first, second = (Arms(salt, (0.8, 0.2), CLUSTERS).groups(users) for salt in ("v1", "v2"))
    in_both = (first >= CLUSTERS) & (second >= CLUSTERS)
    assert (first >= CLUSTERS).mean() == pytest.approx(0.2, abs=0.01)
    assert in_both.mean() == pytest.approx(0.04, abs=0.006)
    assert np.bincount(first % CLUSTERS, minlength=CLUSTERS).std() < 1.2 * math.sqrt(20_000 / CLUSTERS)
