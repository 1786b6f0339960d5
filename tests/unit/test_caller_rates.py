"""Rates of callers go by the clock they are given."""

import pytest

from engine.view import caller_rates
from engine.view.caller_rates import BURST_S, MOST_WAIT_S, CallerRates
from tests.unit.test_announcements import Clock


@pytest.mark.parametrize("rate_per_s", [0.01, 0.4, 0.5, 0.7, 1.0, 2.0, 50.0])
def test_a_bucket_holds_a_burst_and_says_when_it_has_one_more(rate_per_s: float) -> None:
    clock = Clock()
    rates = CallerRates(clock)
    burst = max(1, int(rate_per_s * BURST_S))
    assert [rates.wait_s("ann", rate_per_s) for _ in range(burst)] == [0.0] * burst
    wait_s = rates.wait_s("ann", rate_per_s)
    assert 0.0 < wait_s <= 1.0 / rate_per_s
    assert rates.wait_s("bob", rate_per_s) == 0.0
    clock.now_s += 0.5 * wait_s
    assert rates.wait_s("ann", rate_per_s) == pytest.approx(0.5 * wait_s)
    clock.now_s += 0.51 * wait_s
    assert rates.wait_s("ann", rate_per_s) == 0.0
    clock.now_s += 10_000.0
    assert [rates.wait_s("ann", rate_per_s) == 0.0 for _ in range(burst + 1)] == [True] * burst + [False]


def test_a_wait_is_a_day_at_most() -> None:
    rates = CallerRates(Clock())
    assert [rates.wait_s("ann", 1e-310) for _ in range(2)] == [0.0, MOST_WAIT_S]


def test_refused_requests_take_nothing_from_the_bucket() -> None:
    clock = Clock()
    rates = CallerRates(clock)
    admitted = 0
    for _ in range(1_000):
        admitted += rates.wait_s("ann", 1.0) == 0.0
        clock.now_s += 0.01
    assert admitted == 11  # a burst of two, and one for each of nine whole seconds


def test_only_so_many_callers_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caller_rates, "MOST_CALLERS", 2)
    rates = CallerRates(Clock())
    assert [rates.wait_s(caller, 0.1) == 0.0 for caller in ("ann", "bob", "ann", "cyd", "bob")] == [
        True,
        True,
        False,
        True,
        True,
    ]
