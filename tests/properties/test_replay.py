import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from producers.replay.plan import ReplayPlan, ReplayRate

NOW_MS = 1_700_000_000_000
times = st.lists(st.integers(0, 2_000_000_000_000), min_size=1, max_size=50).map(sorted)
paces = (
    st.just(ReplayRate())
    | st.builds(ReplayRate, speed=st.floats(1e-3, 1e9))
    | st.builds(lambda rate: ReplayRate(rate=rate), st.floats(1e-3, 1e6))
)


@given(times, paces, st.none() | st.just(NOW_MS))
def test_order_is_kept_and_the_first_event_is_due_at_once(
    times_ms: list[int], pace: ReplayRate, now_ms: int | None
) -> None:
    made = ReplayPlan.of(np.array(times_ms), pace, now_ms)

    assert made.due_s[0] == 0.0
    assert (np.diff(made.due_s) >= 0).all()
    assert (np.diff(made.times_ms) >= 0).all()


@given(times, paces, st.floats(0, 1e10))
def test_exactly_the_events_whose_time_has_come_are_due(
    times_ms: list[int], pace: ReplayRate, elapsed_s: float
) -> None:
    made = ReplayPlan.of(np.array(times_ms), pace, None)

    assert made.due(elapsed_s) == sum(due_s <= elapsed_s for due_s in made.due_s.tolist())


@given(times, paces.filter(lambda pace: pace != ReplayRate()))
def test_shifted_events_are_never_ahead_of_the_time_they_are_sent(times_ms: list[int], pace: ReplayRate) -> None:
    made = ReplayPlan.of(np.array(times_ms), pace, NOW_MS)

    assert (made.times_ms <= NOW_MS + made.due_s * 1_000).all()
    assert (made.times_ms > NOW_MS + made.due_s * 1_000 - 1.001).all()
