"""A failing script made smaller: steps and faults are left out as long as it still fails."""

from collections.abc import Sequence
from dataclasses import replace

from tests.simulation.judge import run
from tests.simulation.world import Failure, Script

_MOST_RUNS = 400


def failure_of(chosen: Script) -> Failure | None:
    """How a script fails; None when it does not."""
    try:
        run(chosen)
    except Failure as failure:
        return failure
    return None


def shrink(chosen: Script) -> Script:
    """The smallest failing script that is found in a few hundred runs; any failure will do."""
    runs = _MOST_RUNS
    size = max(len(chosen.steps) // 2, 1)
    while size >= 1 and runs > 0:
        for start in range(0, len(chosen.steps), size):
            runs -= 1
            smaller = replace(chosen, steps=_without(chosen.steps, start, size))
            if len(smaller.steps) < len(chosen.steps) and failure_of(smaller):
                chosen = smaller
                break
        else:
            size //= 2
        if runs <= 0:
            break
    return _fewer_faults(chosen)


def _without(steps: Sequence[tuple[str, float, float]], start: int, size: int) -> tuple[tuple[str, float, float], ...]:
    return (*steps[:start], *steps[start + size :])


def _fewer_faults(chosen: Script) -> Script:
    """Leave out every fault that the failure does not need."""
    for index in fired(chosen):
        fewer = replace(chosen, muted=chosen.muted | {index})
        if failure_of(fewer):
            chosen = fewer
    return chosen


def fired(chosen: Script) -> list[int]:
    """The faults that happen in a failing run, by their opportunity."""
    failure = failure_of(chosen)
    return [] if failure is None else list(failure.fired)
