"""The judge of experiments: its promises for all arms and looks together, and figures that others have published."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.arrays import Bool, Int32, UInt32
from engine.quality import many_to_one, normal, sample_ratio, user_sample
from engine.quality.experiment import CLUSTERS, ArmSums, judged_users
from engine.quality.lifts import ArmRates
from engine.quality.user_sample import UserSample
from engine.releases.arms import NO_GROUP, Arms, tickets
from tests.conftest import Report
from tests.properties.test_experiment import LONG, Shop

RUNS = 1000 if LONG else 200
SHOP = Shop(users=2500, clicks=4.0)
SHARES = (0.4, 0.3, 0.3)
ERROR, DIFFERENCE, MIN_USERS = 0.05, 0.02, 200


def certain(sums: ArmSums) -> tuple[Bool, Bool]:
    """Whether each arm is better, and worse, at each look [LOOKS, k]."""
    intervals = ArmRates.of(sums).always_valid(ERROR, DIFFERENCE)
    enough: Bool = np.asarray((judged_users(sums.clicks) >= MIN_USERS).all(axis=1))[:, None]
    return enough & (intervals.lower > 0.0), enough & (intervals.upper < 0.0)


def test_false_alarms_of_three_equal_arms_are_at_most_as_promised(report: Report) -> None:
    """A/A/A, 60 looks each; at the last look also by the fixed-horizon interval."""
    rng, at_any_look, at_the_end = np.random.default_rng(0), 0, 0
    for _ in range(RUNS):
        sums = SHOP.arm_looks(rng, (0.0, 0.0, 0.0), SHARES)
        better, worse = certain(sums)
        at_any_look += bool((better | worse).any())
        intervals, p_values = ArmRates.of(last(sums)).fixed_horizon(ERROR)
        differs = (intervals.lower > 0.0) | (intervals.upper < 0.0)
        assert (differs == (p_values < ERROR)).all()
        at_the_end += bool(differs.any())
    report(
        f"A/A/A, {RUNS} experiments: an arm better or worse at any look in {at_any_look / RUNS:.1%}, at the end by the"
        f" fixed horizon in {at_the_end / RUNS:.1%}",
        {"at_any_look": at_any_look / RUNS, "at_the_end": at_the_end / RUNS},
    )
    noise = 2.0 * math.sqrt(ERROR * (1.0 - ERROR) / RUNS)
    assert at_any_look / RUNS <= ERROR + noise
    assert at_the_end / RUNS <= ERROR + noise


def test_a_worse_arm_is_found_and_an_equal_one_is_not(report: Report) -> None:
    rng, detections, wrong, users = np.random.default_rng(1), 0, 0, []
    for _ in range(40):
        sums = SHOP.arm_looks(rng, (0.0, 0.0, -0.8), SHARES)
        better, worse = certain(sums)
        detections += bool(worse[:, 1].any())
        wrong += bool(better.any() or worse[:, 0].any())
        users.append(judged_users(sums.clicks)[worse[:, 1].argmax(), 2])
    report(f"worse by 80 %: found in {detections} of 40, after {np.median(users):.0f} users of the arm (median)", {})
    assert detections >= 38
    assert wrong <= 4


def test_the_interval_of_a_lift_holds_the_true_one() -> None:
    rng, held = np.random.default_rng(2), 0
    for _ in range(60):
        intervals, _ = ArmRates.of(last(SHOP.arm_looks(rng, (0.0, 0.25), (0.5, 0.5)))).fixed_horizon(ERROR)
        held += bool(intervals.lower[0] <= 0.25 <= intervals.upper[0])
    assert held >= 60 * (1.0 - ERROR) - 2.0 * math.sqrt(60 * ERROR * (1.0 - ERROR))


def last(sums: ArmSums) -> ArmSums:
    """The sums [A, G] at the last look."""
    return ArmSums(sums.clicks[-1], sums.hits[-1], sums.gains[-1])


@given(st.floats(0.01, 0.4), st.floats(0.01, 0.4), st.floats(1e-6, 1e-3), st.floats(1e-6, 1e-3), st.floats(1.0, 4.0))
def test_a_lift_of_nothing_is_left_out_where_the_difference_is(
    control: float, arm: float, control_variance: float, arm_variance: float, width: float
) -> None:
    rates = ArmRates(np.array([control, arm]), np.array([control_variance, arm_variance]))
    intervals = rates._fieller(np.array([width]))
    distance = abs(arm - control) / math.sqrt(control_variance + arm_variance)
    outside = intervals.lower[0] > 0.0 or intervals.upper[0] < 0.0
    if abs(distance - width) > 1e-6 and control > width * math.sqrt(control_variance):
        assert outside == (distance > width)
        assert intervals.lower[0] <= rates.lifts[0] <= intervals.upper[0]


def test_a_control_that_cannot_be_told_from_nothing_bounds_no_lift() -> None:
    intervals = ArmRates(np.array([0.01, 0.2]), np.array([0.0001, 0.0001]))._fieller(np.array([2.0]))
    assert (intervals.lower[0], intervals.upper[0]) == (-1.0, math.inf)


def test_arms_without_clicks_have_no_interval() -> None:
    sums = SHOP.arm_looks(np.random.default_rng(0), (0.0, 0.0), (0.5, 0.5))
    wide = ArmSums(
        *(np.concatenate([part[-1], np.zeros((1, CLUSTERS))]) for part in (sums.clicks, sums.hits, sums.gains))
    )
    intervals, p_values = ArmRates.of(wide).fixed_horizon(ERROR)
    assert np.isnan([intervals.lower[1], intervals.upper[1], p_values[1]]).all()
    assert np.isfinite([intervals.lower[0], intervals.upper[0], p_values[0]]).all()
    nothing, p_values = ArmRates.of(ArmSums.empty(3)).fixed_horizon(ERROR)
    assert np.isnan(nothing.lower).all()
    assert np.isnan(p_values).all()


@pytest.mark.parametrize(
    ("error", "published"),
    [(0.05, [1.96, 2.21, 2.35, 2.44, 2.51, 2.57, 2.61]), (0.01, [2.58, 2.79, 2.92, 3.00, 3.06, 3.11, 3.15])],
)
def test_critical_values_are_those_of_dunnetts_table(error: float, published: Sequence[float]) -> None:
    """Two-sided, infinite degrees of freedom, arms as large as the control (Dunnett 1964, table II)."""
    values = [many_to_one.critical_value(error, np.full(arms, math.sqrt(0.5))) for arms in range(1, 8)]
    assert np.abs(np.array(values) - published).max() <= 0.006


def test_p_values_are_those_of_scipy() -> None:
    """On three arms of 4000, where its t distribution is a normal one."""
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(3)
    samples = [rng.normal(mean, 1.0, 4000) for mean in (0.0, 0.03, 0.05, -0.06)]
    variances = np.array([sample.var(ddof=1) / len(sample) for sample in samples])
    differences = np.array([sample.mean() - samples[0].mean() for sample in samples[1:]])
    loading = many_to_one.loadings(float(variances[0]), variances[1:])
    p_values = many_to_one.p_values(differences / np.sqrt(variances[1:] + variances[0]), loading)
    expected = stats.dunnett(*samples[1:], control=samples[0], rng=np.random.default_rng(0)).pvalue
    np.testing.assert_allclose(p_values, expected, atol=0.01)
    assert many_to_one.within(many_to_one.critical_value(0.05, loading), loading) == pytest.approx(0.95)


@given(st.integers(1, 7), st.floats(0.0, 200.0))
def test_the_tail_of_a_chi_square_is_that_of_scipy(freedom: int, statistic: float) -> None:
    stats = pytest.importorskip("scipy.stats")
    assert normal.chi_square_tail(statistic, freedom) == pytest.approx(stats.chi2.sf(statistic, freedom), rel=1e-9)


def test_the_sample_ratio_by_hand() -> None:
    """Of 100 users 60 and 40 in place of 50 each: 2 * 10^2 / 50 = 4, of one degree of freedom 0.0455."""
    assert sample_ratio.p_value(np.array([60, 40]), np.array([0.5, 0.5])) == pytest.approx(0.0455, abs=5e-5)
    assert sample_ratio.p_value(np.array([20, 40, 20]), np.array([0.1, 0.2, 0.1])) == 1.0
    assert math.isnan(sample_ratio.p_value(np.array([9, 0]), np.array([0.9, 0.1])))
    assert math.isnan(sample_ratio.p_value(np.array([100]), np.array([0.5])))


def test_a_sample_ratio_mismatch_is_found_and_none_where_there_is_none() -> None:
    """Users of one arm in twenty are lost on their way: the check says so, and is silent on 200 whole experiments."""
    shares = np.array(SHARES)
    false_alarms, detections = 0, 0
    for run in range(200):
        arms, user_tickets = split(f"run-{run}", 20_000)
        kept = np.random.default_rng(run).random(len(arms)) > 0.15 * (arms == 2)
        false_alarms += sample_ratio.p_value(sampled(arms, user_tickets).counts, shares) < sample_ratio.MISMATCH
        mismatch = sampled(arms[kept], user_tickets[kept])
        detections += sample_ratio.p_value(mismatch.counts, shares) < sample_ratio.MISMATCH
    assert false_alarms <= 2
    assert detections >= 195


def test_the_sample_ratio_at_sixty_looks_is_wrong_in_one_of_fifty(report: Report) -> None:
    """The check is one of a single look; so low a bound keeps it rare for those, too, who look all the time."""
    runs, shares, rng = 10_000, np.array(SHARES), np.random.default_rng(4)
    ends = np.unique(np.geomspace(50, user_sample.ROOM, 60).astype(int))
    users = rng.multinomial(np.diff(ends, prepend=0), shares, (runs, len(ends))).cumsum(axis=1)  # [runs, looks, A]
    expected = ends[:, None] * shares
    statistics = ((users - expected) ** 2 / expected).sum(axis=2)
    grid = np.arange(10.0, 20.0, 0.01).tolist()
    bound = next(value for value in grid if normal.chi_square_tail(value, 2) < sample_ratio.MISMATCH)
    at_any_look, at_the_end = float((statistics > bound).any(axis=1).mean()), float((statistics[:, -1] > bound).mean())
    report(f"sample ratio: wrong in {at_the_end:.2%} at the end, in {at_any_look:.2%} at any of 60 looks", {})
    assert at_the_end < 0.002
    assert at_any_look < 0.025


def split(salt: str, users: int) -> tuple[Int32, UInt32]:
    """Arms and tickets of users by hashes as even as those of ids."""
    hashes = np.random.default_rng([*salt.encode()]).integers(0, 1 << 64, users, np.uint64)
    return Arms(salt, SHARES, CLUSTERS).groups_of(hashes) // CLUSTERS, tickets(hashes)


def sampled(arms: Int32, user_tickets: UInt32) -> UserSample:
    sample = UserSample.empty(len(SHARES))
    for arm in range(len(SHARES)):
        sample.add(arm, user_tickets[arms == arm])
    return sample


def test_users_are_counted_exactly_while_they_are_few_and_nearly_when_they_are_many() -> None:
    few, many = (sampled(*split("count", users)) for users in (5000, 200_000))
    assert few.users.sum() == 5000
    assert len(np.concatenate(many.tickets)) == user_sample.ROOM
    assert many.users.sum() == pytest.approx(200_000, rel=0.05)


@given(st.lists(st.lists(st.integers(0, 400), max_size=60), min_size=1, max_size=4))
def test_samples_of_several_workers_are_the_sample_of_all_users(seen: list[list[int]]) -> None:
    """Whatever each worker saw, in any order and several times; with little room, so that the threshold is lowered."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(user_sample, "ROOM", 20)
        parts = []
        for users in seen:
            part = UserSample.empty(2)
            for user in users:
                part.add(user % 2, np.array([user * 7919 % (1 << 32)], np.uint32))
            parts.append(part)
        merged = sum(parts[1:], parts[0])
        everybody = {user: user * 7919 % (1 << 32) for users in seen for user in users}
        lowest = sorted(everybody.values())[:20]
        for arm in range(2):
            expected = sorted(ticket for user, ticket in everybody.items() if user % 2 == arm and ticket in lowest)
            assert merged.tickets[arm].tolist() == expected
        again = user_sample.from_bytes([each.astype("<u4").tobytes() for each in merged.tickets], merged.threshold)
        assert again.counts.tolist() == merged.counts.tolist()


@given(st.text(max_size=12), st.lists(st.floats(0.02, 0.3), min_size=2, max_size=3))
def test_arms_have_their_shares_and_the_others_are_in_none(salt: str, shares: list[float]) -> None:
    users = [f"user-{number}" for number in range(4000)]
    groups = Arms(salt, tuple(shares), CLUSTERS).groups(users)
    arms = groups // CLUSTERS
    assert (groups[arms < 0] == NO_GROUP).all()
    for arm, share in enumerate(shares):
        assert (arms == arm).mean() == pytest.approx(share, abs=5.0 * math.sqrt(share / 4000))
