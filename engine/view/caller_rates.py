"""Rates of callers: a token bucket each, filled evenly and holding a burst of `BURST_S` seconds."""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

BURST_S: Final = 2.0
MOST_CALLERS: Final = 10_000
"""Callers whose rate is remembered; one that was dropped begins with a full bucket."""
MOST_WAIT_S: Final = 86_400.0
"""A day: no longer wait is promised, however small a rate is."""


class CallerRates:
    """Token buckets of all callers."""

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        """Every caller begins with a full bucket.

        Args:
            clock_s: seconds that never go back.
        """
        self._clock_s = clock_s
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """By caller, requests left and when that was."""

    def wait_s(self, caller: str, rate_per_s: float) -> float:
        """Take one request from a caller's bucket: 0, or the seconds until there is one to take.

        A bucket holds one request at least, or a rate below one in a burst would admit nothing.
        """
        most = max(1.0, rate_per_s * BURST_S)
        now_s = self._clock_s()
        left, since_s = self._buckets.pop(caller, (most, now_s))
        left = min(most, left + (now_s - since_s) * rate_per_s)
        has_room = left >= 1.0
        self._buckets[caller] = (left - has_room, now_s)
        if len(self._buckets) > MOST_CALLERS:
            self._buckets.popitem(last=False)
        return 0.0 if has_room else min(MOST_WAIT_S, (1.0 - left) / rate_per_s)
