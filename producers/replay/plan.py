"""Plays recorded events as if they happened now.

`ReplayPlan` is pure: when each event is due, and which event time it carries. `play` sends, in small batches, what
is due by its clock.
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
"""Events sent at once when more are due; keeps the progress bar moving."""


@dataclass(frozen=True, slots=True)
class ReplayRate:
    """How fast to play: at most one of the two is given; neither means as fast as possible."""

    speed: float | None = None
    """Times the speed at which it was recorded."""
    rate: float | None = None
    """Events per second, evenly spaced."""

    def __post_init__(self) -> None:
        if self.speed is not None and self.rate is not None:
            raise SettingsError(f"speed ({self.speed}) and rate ({self.rate}) exclude each other; give one")
        for name, value in (("speed", self.speed), ("rate", self.rate)):
            if value is not None and not 0 < value < float("inf"):
                raise SettingsError(f"{name}: found {value}, expected a number above 0")

    def due_s(self, times_ms: Int64) -> Float64:
        """[n] seconds after the beginning at which the events of `times_ms` [n] are due; never falling."""
        due_s: Float64 = np.zeros(len(times_ms))
        if self.rate is not None:
            due_s = np.arange(len(times_ms)) / self.rate
        elif self.speed is not None:
            due_s = (times_ms - times_ms[0]) / (1000.0 * self.speed)
        return due_s


@dataclass(frozen=True, slots=True)
class ReplayPlan:
    """Which event goes out when, and with which event time."""

    due_s: Float64
    """[n] seconds after the beginning, never falling."""
    times_ms: Int64
    """[n] event times to send, never falling."""

    @classmethod
    def of(cls, times_ms: Int64, pace: ReplayRate, now_ms: int | None) -> "ReplayPlan":
        """Plan events of `times_ms` [n], ascending.

        Args:
            times_ms: recorded event times, Unix milliseconds.
            pace: how fast.
            now_ms: shift event times to begin now, each the time at which it is due; without a pace the recording
                moves as a whole and ends now, for times far ahead of now would be refused. None keeps them.
        """
        due_s = pace.due_s(times_ms)
        if now_ms is None:
            return cls(due_s, times_ms)
        if pace == ReplayRate():
            return cls(due_s, times_ms + (now_ms - times_ms[-1]))
        return cls(due_s, now_ms + (due_s * 1000.0).astype(np.int64))

    def due(self, elapsed_s: float) -> int:
        """How many of the events are due when so much time has passed."""
        return int(np.searchsorted(self.due_s, elapsed_s, side="right"))


def play(
    recording: Recording,
    plan: ReplayPlan,
    send: Callable[[ProducedEvents], None],
    clock: Clock = REAL_CLOCK,
    *,
    event_ids: bool = False,
) -> None:
    """Send the recording by the plan; ends with its last event, or with whatever `send` raises."""
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
    events = recording.select(part)
    return ProducedEvents(
        users=events.users.spelled(),
        items=[None if searches.is_search(item) else item for item in events.items.spelled()],
        times_ms=plan.times_ms[part],
        actions=None if events.actions is None else events.actions.spelled(),
        words=None if events.words is None else [words or None for words in events.words.spelled()],
        ids=_event_ids(events) if event_ids else None,
    )


def _event_ids(events: Recording) -> list[str]:
    """Recorded ids, or the numbers of rows where there are none."""
    rows = list(map(str, events.rows.tolist()))
    if events.event_ids is None:
        return rows
    return [event_id or row for event_id, row in zip(events.event_ids.spelled(), rows, strict=True)]
