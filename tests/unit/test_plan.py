from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pytest

from engine.errors import SettingsError
from engine.interactions.columns import Names
from producers.clock import Clock
from producers.replay.click_encoder import ProducedEvents
from producers.replay.plan import MAX_BATCH, ReplayPlan, ReplayRate, play
from producers.replay.recorded_events import Recording

NOW_MS = 1_700_000_000_000


@dataclass
class FakeTime:
    """Time passes only in sleep."""

    elapsed_s: float = 100.0
    slept: list[float] = field(default_factory=list)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.elapsed_s += seconds

    def clock(self) -> Clock:
        return Clock(elapsed_s=lambda: self.elapsed_s, now_ms=lambda: NOW_MS, sleep=self.sleep)


def recording(times_ms: list[int]) -> Recording:
    count = len(times_ms)
    codes = np.arange(count, dtype=np.int32)
    return Recording(
        Names(codes, [f"u{i}" for i in range(count)]),
        Names(codes, [f"i{i}" for i in range(count)]),
        np.array(times_ms),
        None,
        np.arange(1, count + 1),
    )


def log_to(sent: list[tuple[float, ProducedEvents]], time: FakeTime) -> Callable[[ProducedEvents], None]:
    """A `send` that notes each batch with its time."""
    return lambda events: sent.append((time.elapsed_s, events))


def test_at_a_rate_events_are_evenly_spaced() -> None:
    plan = ReplayPlan.of(np.array([0, 5, 9_000]), ReplayRate(rate=4.0), None)

    assert plan.due_s.tolist() == [0.0, 0.25, 0.5]
    assert plan.times_ms.tolist() == [0, 5, 9_000]


def test_at_a_speed_gaps_shrink() -> None:
    assert ReplayPlan.of(np.array([60_000, 120_000, 300_000]), ReplayRate(speed=60.0), None).due_s.tolist() == [
        0.0,
        1.0,
        4.0,
    ]


def test_shifted_event_times_are_those_at_which_events_are_due() -> None:
    times_ms = np.array([60_000, 120_000, 300_000])

    assert ReplayPlan.of(times_ms, ReplayRate(speed=60.0), NOW_MS).times_ms.tolist() == [
        NOW_MS,
        NOW_MS + 1_000,
        NOW_MS + 4_000,
    ]
    assert ReplayPlan.of(times_ms, ReplayRate(rate=2.0), NOW_MS).times_ms.tolist() == [
        NOW_MS,
        NOW_MS + 500,
        NOW_MS + 1_000,
    ]


def test_shifted_without_speed_or_rate_the_recording_ends_now() -> None:
    plan = ReplayPlan.of(np.array([60_000, 120_000, 300_000]), ReplayRate(), NOW_MS)

    assert plan.times_ms.tolist() == [NOW_MS - 240_000, NOW_MS - 180_000, NOW_MS]
    assert plan.due_s.tolist() == [0.0, 0.0, 0.0]


def test_events_are_sent_when_they_are_due_and_not_before() -> None:
    #  recorded   0s ..... 2s . 2.5s ........... 10s
    #  sent       100      101  101.25           105        at double speed, from 100 on
    time, sent = FakeTime(), list[tuple[float, ProducedEvents]]()
    events = recording([0, 2_000, 2_500, 10_000])

    play(events, ReplayPlan.of(events.times_ms, ReplayRate(speed=2.0), None), log_to(sent, time), time.clock())

    assert [(sent_s, batch.users) for sent_s, batch in sent] == [
        (100.0, ["u0"]),
        (101.0, ["u1"]),
        (101.25, ["u2"]),
        (105.0, ["u3"]),
    ]


def test_at_a_high_rate_events_due_within_a_tick_are_sent_together() -> None:
    time, sent = FakeTime(), list[tuple[float, ProducedEvents]]()
    events = recording(list(range(1_000)))

    play(events, ReplayPlan.of(events.times_ms, ReplayRate(rate=10_000.0), None), log_to(sent, time), time.clock())

    assert sum(len(batch) for _, batch in sent) == 1_000
    assert len(sent) <= 12  # 0.1 s in ticks of 0.01 s
    assert time.elapsed_s == pytest.approx(100.1, abs=0.02)


def test_without_speed_or_rate_nothing_waits_and_batches_are_bounded() -> None:
    time, sent = FakeTime(), list[tuple[float, ProducedEvents]]()
    events = recording([0] * (2 * MAX_BATCH + 1))

    play(events, ReplayPlan.of(events.times_ms, ReplayRate(), None), log_to(sent, time), time.clock())

    assert [len(batch) for _, batch in sent] == [MAX_BATCH, MAX_BATCH, 1]
    assert not time.slept


def test_event_ids_are_row_numbers() -> None:
    time, sent = FakeTime(), list[tuple[float, ProducedEvents]]()
    events = recording([0, 0, 0])
    plan = ReplayPlan.of(events.times_ms, ReplayRate(), None)

    play(events, plan, log_to(sent, time), time.clock(), event_ids=True)
    play(events, plan, log_to(sent, time), time.clock())

    assert [batch.ids for _, batch in sent] == [["1", "2", "3"], None]


def test_a_replay_that_fell_behind_catches_up_in_order() -> None:
    time, sent = FakeTime(), list[tuple[float, ProducedEvents]]()
    events = recording(list(range(0, 1_000, 10)))

    def slow(batch: ProducedEvents) -> None:
        sent.append((time.elapsed_s, batch))
        time.elapsed_s += 0.2  # sending takes longer than the gaps

    play(events, ReplayPlan.of(events.times_ms, ReplayRate(speed=1.0), None), slow, time.clock())

    times_ms = [time_ms for _, batch in sent for time_ms in batch.times_ms.tolist()]
    assert times_ms == events.times_ms.tolist()
    assert all(later - earlier >= 0.2 for (earlier, _), (later, _) in pairwise(sent))


@pytest.mark.parametrize(
    "options", [{"speed": 0.0}, {"rate": -1.0}, {"rate": float("nan")}, {"speed": 1.0, "rate": 1.0}]
)
def test_impossible_rates_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match=r"speed|rate"):
        ReplayRate(**options)
