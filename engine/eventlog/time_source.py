"""The time as the engine reads it, which a simulation replaces by one of its own."""

import time
from collections.abc import Callable
from dataclasses import dataclass


def wall_ms() -> int:
    """Unix milliseconds."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True)
class TimeSource:
    """A monotonic clock and the wall clock."""

    monotonic_s: Callable[[], float] = time.monotonic
    """Seconds since some moment in the past; never set back."""
    now_ms: Callable[[], int] = wall_ms
    """Unix milliseconds; jumps where the machine's clock is set."""
