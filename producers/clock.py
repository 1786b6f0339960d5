"""The clock that the producing programs go by; tests bring one of their own and need not wait."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

TICK_S: Final = 0.01
"""What becomes due within this time goes out together."""


@dataclass(frozen=True, slots=True)
class Clock:
    """Two ways to tell the time, and one to let it pass."""

    elapsed_s: Callable[[], float] = time.monotonic
    """For pacing: never set back."""
    now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000
    """For stamping: Unix milliseconds."""
    sleep: Callable[[float], None] = time.sleep


REAL_CLOCK: Final = Clock()
