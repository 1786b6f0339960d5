"""Processor time of one release's lists beside another's, and how certain it is that they take longer.

Both releases make lists of the same windows, a turn each, in pairs: the release under test goes first in every other
pair, so that a machine that slows down favours neither. Processor time leaves out the time in which other programs have
the core; what they do to caches and clock rate is in both halves of a pair.

The intervals are those of the sign test: the median of all pairs is between two of the n pairs, counted from both ends,
with a certainty that follows from n fair coins, whatever the distribution of the times (Conover, "Practical
Nonparametric Statistics", 1999, 3.2). So pauses in a minority of the pairs, of any length, do not move an end to where
no other pair is.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from engine.arrays import Float64

PAIRS: Final = 40
ERROR: Final = 0.001
"""Probability that the true median is below the lower end of its interval; as much for the upper end."""
_LEAST_S: Final = 1e-9
"""In the place of 0, where a clock is too coarse to see a list."""


def _outermost(pairs: int, error: float) -> int:
    """The largest number of heads with a probability of at most `error` of that many or fewer, of `pairs` coins."""
    probability, heads = 0.5**pairs, 0
    while probability <= error:
        heads += 1
        probability += math.comb(pairs, heads) * 0.5**pairs
    return heads - 1


OUTERMOST: Final = _outermost(PAIRS, ERROR)
"""Pairs below the lower end of an interval, and above the upper one."""


@dataclass(frozen=True, slots=True)
class MedianWithin:
    """A median and the ends of its interval."""

    value: float
    interval: tuple[float, float]

    @classmethod
    def of(cls, values: Float64) -> "MedianWithin":
        """The median of `values` [PAIRS]."""
        ordered = np.sort(values)
        return cls(float(np.median(ordered)), (float(ordered[OUTERMOST]), float(ordered[-1 - OUTERMOST])))


@dataclass(frozen=True, slots=True)
class Slowdown:
    """The time of a release's lists and of another release's."""

    list_s: tuple[float, float]
    """Median time of a list, of the release and of the other one."""
    ratio: MedianWithin
    """The release's time by the other one's."""
    added_s: MedianWithin
    """The release's time of a list less the other one's."""

    def report(self) -> dict[str, Any]:
        """`slowdown` of an evaluation: ratio, milliseconds that a list takes longer, both with their intervals."""
        return {
            "ratio": self.ratio.value,
            "ratio_interval": self.ratio.interval,
            "added_ms": 1000.0 * self.added_s.value,
            "added_ms_interval": tuple(1000.0 * end for end in self.added_s.interval),
            "pairs": PAIRS,
            "error": ERROR,
        }


def measure(
    make: Callable[[], object],
    make_other: Callable[[], object],
    lists: int,
    clock_s: Callable[[], float] = time.process_time,
) -> Slowdown:
    """Time `PAIRS` pairs of calls, after one that counts for nothing.

    Args:
        make: makes `lists` lists by the release.
        make_other: makes as many by the other one.
        lists: number of lists that a call makes.
        clock_s: seconds of processor time.
    """
    make(), make_other()
    times_s = np.empty((PAIRS, 2))  # of the release and the other one
    for pair in range(PAIRS):
        for side in (0, 1) if pair % 2 else (1, 0):
            started_s = clock_s()
            (make, make_other)[side]()
            times_s[pair, side] = clock_s() - started_s
    times_s = np.maximum(times_s / lists, _LEAST_S)
    return Slowdown(
        (float(np.median(times_s[:, 0])), float(np.median(times_s[:, 1]))),
        MedianWithin.of(times_s[:, 0] / times_s[:, 1]),
        MedianWithin.of(times_s[:, 0] - times_s[:, 1]),
    )
