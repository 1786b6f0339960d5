"""The clock of the producing programs, which tests replace by one that needs no waiting."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

TICK_S: Final = 0.01
"""Events due within this time are sent together."""


@dataclass(frozen=True, slots=True)
class Clock:
    """A monotonic clock, the wall clock, and a sleep."""

    elapsed_s: Callable[[], float] = time.monotonic
    """Seconds since some moment in the past; never set back."""
    now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000
    """Unix milliseconds."""
    sleep: Callable[[float], None] = time.sleep
    """Takes seconds."""


REAL_CLOCK: Final = Clock()
