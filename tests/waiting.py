"""Waiting for what a test has set going: what comes decides, and the limit only ends a test that waits for nothing."""

import time
from collections.abc import Callable
from typing import Final

LIMIT_S: Final = 120.0
"""Long enough on a machine with ten times as many processes as cores."""
_STEP_S: Final = 0.02


def until(condition: Callable[[], object], limit_s: float = LIMIT_S) -> None:
    """Come back when a condition holds; `AssertionError` where it does not within the limit."""
    deadline_s = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline_s, f"it did not happen within {limit_s:g} s"
        time.sleep(_STEP_S)
