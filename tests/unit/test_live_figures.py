"""Figures of the live page: judged by the list from before the click, with the interval of the share."""

import json

import pytest

from engine.view.live_figures import EDGES_MS, LiveFigures, ServerState, wilson

SERVER = ServerState(time_ms=0, status="ok", release="two-hop-1", users=0, releases=[], can_click=False)


def message(user: str, event_ms: int, *items: str, release: str = "two-hop-1") -> bytes:
    listed = [{"item": item, "score": 1.0, "source": "interest"} for item in items]
    return json.dumps({"user": user, "release": release, "event_ms": event_ms, "items": listed}).encode()


def test_a_click_is_judged_by_the_newest_list_from_before_it() -> None:
    figures = LiveFigures()
    figures.add_list(message("ann", 1000, "a", release="two-hop-1"), 1005)
    figures.add_list(message("ann", 2000, "b", release="two-hop-2"), 2005)  # is there before the window with its click
    figures.add_clicks(["ann", "ann", "bob"], ["a", "b", "c"], [2000, 3000, 3000])
    judged = {counts.release: (counts.clicks, counts.hits) for counts in figures.at(SERVER).next_clicks}
    assert judged == {"two-hop-1": (1, 1), "two-hop-2": (1, 1)}


def test_only_the_first_ten_items_count() -> None:
    figures = LiveFigures()
    figures.add_list(message("ann", 1000, *map(str, range(20))), 1005)
    figures.add_clicks(["ann", "ann"], ["9", "10"], [2000, 2000])
    assert [(counts.clicks, counts.hits) for counts in figures.at(SERVER).next_clicks] == [(2, 1)]


def test_freshness_is_counted_in_bins_and_the_last_has_no_end() -> None:
    figures = LiveFigures()
    for freshness_ms in (0, 1, 2, 3, 5000, 90_000):
        figures.add_list(message("ann", 1000, "a"), 1000 + freshness_ms)
    counts = dict(zip([*EDGES_MS, "more"], figures.at(SERVER).freshness_counts, strict=True))
    assert {edge: count for edge, count in counts.items() if count} == {1: 2, 2: 1, 5: 1, 5000: 1, "more": 1}
    assert figures.at(SERVER).freshness_p50_ms == 2.5


def test_users_who_clicked_last_are_named_once_and_newest_first() -> None:
    figures = LiveFigures()
    figures.add_clicks(["ann", "bob", "ann"], ["a", "b", "c"], [1, 2, 3])
    assert figures.at(SERVER).recent_users == ["ann", "bob"]
    assert (figures.at(SERVER).clicks, figures.at(SERVER).lists) == (3, 0)


def test_what_is_no_list_is_passed_over() -> None:
    figures = LiveFigures()
    for rubbish in (b"", b"{", b"[]", b"\xff", b"[" * 100_000):
        figures.add_list(rubbish, 0)
    assert figures.at(SERVER).lists == 0


@pytest.mark.parametrize(
    ("hits", "count", "low", "high"),
    [(0, 0, 0.0, 1.0), (0, 10, 0.0, 0.278), (5, 10, 0.237, 0.763), (50, 100, 0.404, 0.596), (10, 10, 0.722, 1.0)],
)
def test_the_interval_is_that_of_wilson(hits: int, count: int, low: float, high: float) -> None:
    assert wilson(hits, count) == pytest.approx((low, high), abs=1e-3)
