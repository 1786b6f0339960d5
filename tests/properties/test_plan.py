import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from producers.replay.plan import ReplayPlan, ReplayRate

NOW_MS = 1_700_000_000_000
times = st.lists(st.integers(0, 2_000_000_000_000), min_size=1, max_size=50).map(sorted)
rates = (
    st.just(ReplayRate())
    | st.builds(ReplayRate, speed=st.floats(1e-3, 1e9))
    | st.builds(lambda rate: ReplayRate(rate=rate), st.floats(1e-3, 1e6))
)


@given(times, rates, st.none() | st.just(NOW_MS))
def test_order_is_kept_and_the_first_event_is_due_at_once(
    times_ms: list[int], rate: ReplayRate, now_ms: int | None
) -> None:
    plan = ReplayPlan.of(np.array(times_ms), rate, now_ms)

    assert plan.due_s[0] == 0.0
    assert (np.diff(plan.due_s) >= 0).all()
    assert (np.diff(plan.times_ms) >= 0).all()


@given(times, rates, st.floats(0, 1e10))
def test_exactly_the_events_due_by_now_are_counted(times_ms: list[int], rate: ReplayRate, elapsed_s: float) -> None:
    plan = ReplayPlan.of(np.array(times_ms), rate, None)

    assert plan.due(elapsed_s) == sum(due_s <= elapsed_s for due_s in plan.due_s.tolist())


@given(times, rates.filter(lambda rate: rate != ReplayRate()))
def test_shifted_event_times_are_never_after_the_time_of_sending(times_ms: list[int], rate: ReplayRate) -> None:
    plan = ReplayPlan.of(np.array(times_ms), rate, NOW_MS)

    assert (plan.times_ms <= NOW_MS + plan.due_s * 1_000).all()
    assert (plan.times_ms > NOW_MS + plan.due_s * 1_000 - 1.001).all()
