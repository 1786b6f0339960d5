import io
from dataclasses import replace

import pytest
from rich.console import Console

from engine.messages.recommendation import ListedItem, Reason, Recommendation
from producers.demo.scoreboard import Click, RankedClick
from producers.demo.screen import Frame, Spotlight, render

CATEGORIES = {f"item-{number:05}": "tents" if number < 50 else "maps" for number in range(100)}
SPOTLIGHT = Spotlight(
    user="shopper-00017",
    interests=[("tents", 0.7), ("maps", 0.3)],
    window=[
        RankedClick(Click("shopper-00017", "item-00001", 1, "view", 1), None),
        RankedClick(Click("shopper-00017", "item-00060", 2, "buy", 2), None),
        RankedClick(Click("shopper-00017", "item-00002", 3, "view", 3), 4),
    ],
    recommendation=Recommendation(
        id="0-0-r",
        user="shopper-00017",
        release="r",
        event_ms=3,
        computed_ms=4,
        items=[ListedItem(f"item-{number:05}", 1.0, "interest", number % 2) for number in range(10, 30)],
        interests=[[Reason("item-00002", 0.6), Reason("item-00001", 0.2)], [Reason("item-00060", 0.9)]],
    ),
    chances=dict.fromkeys(CATEGORIES, 0.01),
    categories=CATEGORIES,
)
FRAME = Frame(
    elapsed_s=12.3,
    clicks=2_460,
    clicks_per_s=201.0,
    lists_per_s=199.0,
    freshness_p50_ms=3.0,
    freshness_p99_ms=11.0,
    hit_rate=0.4,
    popularity_hit_rate=0.05,
    dead_letters=2,
    release="two-hop-7",
    transport="through a log",
    spotlight=SPOTLIGHT,
)


def text(frame: Frame, width: int = 80) -> str:
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(render(frame))
    return console.export_text()


@pytest.mark.parametrize("width", [80, 120])
def test_every_figure_is_on_the_screen(width: int) -> None:
    screen = text(FRAME, width)

    for part in ("201", "199", "2,460", "3 ms p50", "11 ms p99", "40.0% lists", "5.0% popular", "two-hop-7", "12 s"):
        assert part in screen


@pytest.mark.parametrize("width", [80, 120])
def test_the_screen_shows_a_shoppers_window_interests_and_list(width: int) -> None:
    lines = text(FRAME, width).splitlines()

    def has_line(*parts: str) -> bool:
        return any(all(part in line for part in parts) for line in lines)

    assert has_line("shopper-00017")
    assert has_line("hidden interests: tents 70%   maps 30%")
    assert has_line("tents 00002 was no. 4", "10 of 20 items", " 1 tents 00010 1.0%")
    assert has_line("maps 00060", "buy", "tents 00002", "60%")
    assert has_line("top 10: 10%", "best 10%")


def test_the_screen_fits_a_terminal_of_24_lines() -> None:
    full = replace(SPOTLIGHT, window=[SPOTLIGHT.window[0]] * 100)

    assert len(text(replace(FRAME, spotlight=full)).splitlines()) <= 24


def test_before_the_first_list_the_screen_says_that_it_waits() -> None:
    empty = replace(FRAME, spotlight=None, hit_rate=0.0, popularity_hit_rate=0.0, clicks_per_s=0.0)

    assert "waiting for the first lists" in text(empty)
