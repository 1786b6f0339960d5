"""The gate's condition on latency, on a clock that the test moves: no test here depends on a machine's pace."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.settings.sections import RetrainSettings
from models.evaluation import slowdown
from models.evaluation.list_evaluation import LIVE, RELEASE
from models.evaluation.slowdown import OUTERMOST, PAIRS, Slowdown
from models.jobs import release_gate
from models.jobs.release_gate import Check

LISTS = 64
NEEDED = PAIRS - OUTERMOST
"""Pairs that have to show a slowdown before it is certain."""
Pauses = dict[int, float]
"""Seconds that a call takes longer, by its number: the pairs' calls are 0 to 2 * PAIRS - 1, in order."""
pauses_s = st.floats(0.0, 1e6)


def measured(list_s: float, live_s: float, pauses: Pauses | None = None, drift: float = 1.0) -> Slowdown:
    """The measurement of two releases on a machine with pauses, each of whose calls takes `drift` as long as before."""
    now_s, calls = 0.0, -2  # two calls count for nothing

    def call(seconds: float) -> None:
        nonlocal now_s, calls
        now_s += LISTS * seconds * drift ** max(calls, 0) + (pauses or {}).get(calls, 0.0)
        calls += 1

    return slowdown.measure(lambda: call(list_s), lambda: call(live_s), LISTS, lambda: now_s)


def judged(measurement: Slowdown, **settings: Any) -> Check:
    list_ms = {name: 1000.0 * list_s for name, list_s in zip((RELEASE, LIVE), measurement.list_s, strict=True)}
    split = {"list_ms": list_ms, "slowdown": measurement.report()}
    return release_gate.latency(split, RetrainSettings(**settings))


def test_the_ends_of_an_interval_are_those_of_coins() -> None:
    """10 heads at most in 40 throws have a probability of 0.0011, 9 at most 0.00034 (Pascal's triangle)."""
    assert (PAIRS, slowdown.ERROR, OUTERMOST) == (40, 0.001, 9)


def test_a_slower_release_is_refused_by_its_ratio_and_by_what_a_list_takes_longer() -> None:
    check = judged(measured(0.004, 0.002))
    assert not check.passed
    assert check.sentence.startswith(
        "a list takes 4.000 ms of processor time, of the live release 2.000 ms: 2.00 times as long (2.00 to 2.00), at"
        " least 2.000 ms more; expected not to be certainly more than 1.5 times (retrain.max_slowdown) and 0.25 ms more"
    )


@pytest.mark.parametrize(
    ("list_s", "live_s", "settings"),
    [
        (0.0028, 0.002, {}),  # longer, and within the ratio
        (0.0003, 0.0001, {}),  # three times as long, and 0.2 ms more
        (0.003, 0.001, {"slowdown_floor_s": 0.0025}),
        (0.003, 0.001, {"max_slowdown": 3.1}),
        (0.001, 0.01, {}),
        (0.0, 0.0, {"slowdown_floor_s": 0.0}),  # a clock too coarse to see a list
    ],
)
def test_one_of_the_two_is_not_enough(list_s: float, live_s: float, settings: dict[str, Any]) -> None:
    assert judged(measured(list_s, live_s), **settings).passed


def test_without_a_floor_the_ratio_alone_decides() -> None:
    assert not judged(measured(0.0003, 0.0001), slowdown_floor_s=0.0).passed


@given(
    hit=st.sets(st.integers(0, PAIRS - 1), max_size=NEEDED - 1),
    pauses=st.lists(st.tuples(pauses_s, pauses_s), min_size=PAIRS, max_size=PAIRS),
    list_s=st.floats(1e-6, 1.0),
)
def test_an_identical_release_passes_whatever_pauses_most_of_its_pairs_have(
    hit: set[int], pauses: list[tuple[float, float]], list_s: float
) -> None:
    by_call = {2 * pair + half: pauses[pair][half] for pair in hit for half in (0, 1)}
    assert judged(measured(list_s, list_s, by_call), slowdown_floor_s=0.0).passed


@given(drift=st.floats(0.8, 1.25), list_s=st.floats(1e-6, 1.0))
def test_an_identical_release_passes_on_a_machine_that_becomes_slower_or_faster(drift: float, list_s: float) -> None:
    measurement = measured(list_s, list_s, drift=drift)
    assert measurement.ratio.interval[0] <= 1.0 + 1e-6
    assert measurement.ratio.interval[1] >= 1.0 - 1e-6
    assert judged(measurement, slowdown_floor_s=0.0, max_slowdown=1.0 + 1e-6).passed


@given(
    hit=st.sets(st.integers(0, PAIRS - 1), max_size=OUTERMOST),
    pauses=st.lists(st.tuples(pauses_s, pauses_s), min_size=PAIRS, max_size=PAIRS),
)
def test_a_slower_release_is_refused_whatever_pauses_a_few_of_its_pairs_have(
    hit: set[int], pauses: list[tuple[float, float]]
) -> None:
    by_call = {2 * pair + half: pauses[pair][half] for pair in hit for half in (0, 1)}
    assert not judged(measured(0.02, 0.01, by_call)).passed
