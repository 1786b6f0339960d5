"""Replay of recorded events: when each is due and with which event time, and a loop that sends those that are due.

`ReplayRate` and `ReplayPlan` are pure; `play` reads a clock and sends in small batches.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from engine.arrays import Float64, Int64
from engine.catalogue import searches
from engine.errors import SettingsError
from producers.clock import REAL_CLOCK, TICK_S, Clock
from producers.replay.click_encoder import ProducedEvents
from producers.replay.recorded_events import Recording

MAX_BATCH: Final = 2_000
"""Events sent at once, however many are due: the progress bar moves batch by batch."""


@dataclass(frozen=True, slots=True)
class ReplayRate:
    """Speed of a replay, by at most one of the two fields; with neither, as fast as possible.

    Raises:
        SettingsError: both are given, or a value is not above 0.
    """

    speed: float | None = None
    """Multiple of the speed at which the events were recorded."""
    rate: float | None = None
    """Events per second, evenly spaced."""

    def __post_init__(self) -> None:
        if self.speed is not None and self.rate is not None:
            raise SettingsError(f"speed ({self.speed}) and rate ({self.rate}) exclude each other; give one")
        for name, value in (("speed", self.speed), ("rate", self.rate)):
            if value is not None and not 0 < value < float("inf"):
                raise SettingsError(f"{name}: found {value}, expected a number above 0")

    def due_s(self, times_ms: Int64) -> Float64:
        """[n] seconds after the start at which events of these times [n], ascending, are due; ascending too."""
        due_s: Float64 = np.zeros(len(times_ms))
        if self.rate is not None:
            due_s = np.arange(len(times_ms)) / self.rate
        elif self.speed is not None:
            due_s = (times_ms - times_ms[0]) / (1000.0 * self.speed)
        return due_s


@dataclass(frozen=True, slots=True)
class ReplayPlan:
    """Due time and event time of each of n events."""

    due_s: Float64
    """[n] seconds after the start, ascending."""
    times_ms: Int64
    """[n] event times to send, Unix milliseconds, ascending."""

    @classmethod
    def of(cls, times_ms: Int64, rate: ReplayRate, now_ms: int | None) -> "ReplayPlan":
        """The plan of n recorded events.

        Args:
            times_ms: [n] recorded event times, Unix milliseconds, ascending.
            rate: speed of the replay.
            now_ms: None keeps the recorded event times. A time in Unix milliseconds shifts each event time to the
                time at which the event is due, counted from it; as fast as possible, all are moved by the same time so
                that the last is now, as the engine refuses event times far ahead of now.
        """
        due_s = rate.due_s(times_ms)
        if now_ms is None:
            return cls(due_s, times_ms)
        if rate == ReplayRate():
            return cls(due_s, times_ms + (now_ms - times_ms[-1]))
        return cls(due_s, now_ms + (due_s * 1000.0).astype(np.int64))

    def due(self, elapsed_s: float) -> int:
        """Number of events due after this time."""
        return int(np.searchsorted(self.due_s, elapsed_s, side="right"))


def play(
    recording: Recording,
    plan: ReplayPlan,
    send: Callable[[ProducedEvents], None],
    clock: Clock = REAL_CLOCK,
    *,
    event_ids: bool = False,
) -> None:
    """Send a recording by its plan, and return after its last event.

    Args:
        recording: n events.
        plan: when each is due.
        send: called with the events of each batch; an error that it raises ends the replay.
        clock: the time.
        event_ids: send event ids: the recorded ones, and row numbers where there are none.
    """
    started_s = clock.elapsed_s()
    sent = 0
    while sent < len(recording):
        elapsed_s = clock.elapsed_s() - started_s
        due = min(plan.due(elapsed_s), sent + MAX_BATCH)
        if due > sent:
            send(_events(recording, plan, slice(sent, due), event_ids=event_ids))
            sent = due
        else:
            clock.sleep(max(plan.due_s[sent] - elapsed_s, TICK_S))


def _events(recording: Recording, plan: ReplayPlan, part: slice, *, event_ids: bool) -> ProducedEvents:
    batch = recording.select(part)
    return ProducedEvents(
        users=batch.users.spelled(),
        items=[None if searches.is_search(item) else item for item in batch.items.spelled()],
        times_ms=plan.times_ms[part],
        actions=None if batch.actions is None else batch.actions.spelled(),
        words=None if batch.words is None else [words or None for words in batch.words.spelled()],
        ids=_event_ids(batch) if event_ids else None,
    )


def _event_ids(batch: Recording) -> list[str]:
    """Recorded ids, or row numbers where there are none."""
    rows = list(map(str, batch.rows.tolist()))
    if batch.event_ids is None:
        return rows
    return [event_id or row for event_id, row in zip(batch.event_ids.spelled(), rows, strict=True)]
