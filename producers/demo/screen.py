"""The demo's screen, drawn from a `Frame`: figures of all shoppers on top, one shopper below."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from rich import box
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from engine.messages.recommendation import Recommendation
from producers.demo.scoreboard import JUDGED, Judged

ROWS_SHOWN: Final = 10
"""Of clicks and of the list; the picture then fits a terminal of 80 by 24."""
_BECAUSE_SHOWN = 2
_BAR_LENGTH = 8
_COLOURS = ("cyan", "magenta", "yellow", "green", "blue", "red")
_LIKELY, _POSSIBLE = 0.02, 0.002
"""True chances from which an item of a list is shown bright, or at all."""


@dataclass(frozen=True, slots=True)
class Spotlight:
    """The shopper on show."""

    user: str
    truth: Sequence[tuple[str, float]]
    """Hidden interests: category and weight, the heaviest first."""
    window: Sequence[Judged]
    """Clicks, oldest first."""
    recommendation: Recommendation
    chances: Mapping[str, float]
    """Probability, by item, that the shopper's next click falls on it: the truth that the engine does not know."""
    categories: Mapping[str, str]
    """By item."""

    def colours(self) -> dict[str, str]:
        """A colour for each category that matters to the shopper, the same in every column."""
        clicked = Counter(self.categories[judged.click.item] for judged in self.window)
        names = dict.fromkeys([*(name for name, _ in self.truth), *(name for name, _ in clicked.most_common())])
        return dict(zip(names, _COLOURS, strict=False))


@dataclass(frozen=True, slots=True)
class Frame:
    """Everything that one picture shows."""

    elapsed_s: float
    clicks: int
    clicks_per_s: float
    lists_per_s: float
    freshness_p50_ms: float
    freshness_p99_ms: float
    hit_rate: float
    popularity_hit_rate: float
    dead_letters: int
    release: str
    where: str
    """What the clicks go through."""
    spotlight: Spotlight | None


def render(frame: Frame) -> RenderableType:
    """One picture."""
    shopper: RenderableType = Text(" waiting for the first lists ...", style="dim")
    if frame.spotlight:
        shopper = _shopper(frame.spotlight)
    footer = Text(
        f" {frame.elapsed_s:.0f} s {frame.where}, release {frame.release}. Ctrl-C ends the demo.", style="dim"
    )
    return Group(_figures(frame), shopper, footer)


def _figures(frame: Frame) -> RenderableType:
    title = "[bold]HEADRACE[/]  clicks in, fresh lists out"
    table = Table(box=box.ROUNDED, expand=True, header_style="dim", title=title, title_style="")
    for heading in ("clicks/s", "lists/s", "freshness", f"next click in top {JUDGED}", "dead letters"):
        table.add_column(heading, justify="center", no_wrap=True)
    table.add_row(
        f"[bold]{frame.clicks_per_s:,.0f}[/]\n[dim]of {frame.clicks:,}[/]",
        f"[bold]{frame.lists_per_s:,.0f}[/]",
        f"[bold]{frame.freshness_p50_ms:.0f} ms[/] [dim]p50[/]\n[bold]{frame.freshness_p99_ms:.0f} ms[/] [dim]p99[/]",
        _rates(frame),
        f"[{'red' if frame.dead_letters else 'dim'}]{frame.dead_letters}[/]",
    )
    return table


def _rates(frame: Frame) -> Text:
    """Two bars on one scale, the better one full."""
    best = max(frame.hit_rate, frame.popularity_hit_rate, 1e-9)
    lines = ((frame.hit_rate, "lists", "bold green"), (frame.popularity_hit_rate, "popular", "dim"))
    bars = [
        Text(f"{'━' * round(_BAR_LENGTH * rate / best):<{_BAR_LENGTH}} {rate:5.1%} {name:<7}", style)
        for rate, name, style in lines
    ]
    return Text("\n").join(bars)


def _shopper(shown: Spotlight) -> RenderableType:
    colours = shown.colours()
    columns = Table.grid(expand=True, padding=(0, 1))
    for _ in range(3):
        columns.add_column(ratio=1)
    columns.add_row(
        Group(Text("latest clicks", "dim"), _clicks(shown, colours)),
        Group(Text("interests, because of", "dim"), _interests(shown, colours)),
        Group(Text("list now, true chances", "dim"), _list(shown, colours)),
    )
    truth = "   ".join(f"[{colours[name]}]{name}[/] {weight:.0%}" for name, weight in shown.truth)
    return Panel(columns, title=f"[bold]{shown.user}[/]", subtitle=f"hidden interests: {truth}", box=box.ROUNDED)


def _clicks(shown: Spotlight, colours: Mapping[str, str]) -> Table:
    """The newest on top; a click whose item the list held shows its place there."""
    table = _rows(2)
    for judged in reversed(shown.window[-ROWS_SHOWN:]):
        place, action = judged.place, judged.click.action
        mark = Text(action if action != "view" else "", "dim")
        if place is not None:
            mark = Text(f"was no. {place}", "bold green" if place <= JUDGED else "green")
        table.add_row(_item(judged.click.item, shown, colours), mark)
    return table


def _interests(shown: Spotlight, colours: Mapping[str, str]) -> Table:
    """The clicks that weigh most in each interest, and how much of the list it found, the most fruitful first."""
    found = Counter(place.interest for place in shown.recommendation.items)
    table = _rows(2)
    for number, because in sorted(enumerate(shown.recommendation.interests), key=lambda pair: -found[pair[0]]):
        if because:
            table.add_row(Text(f"{found[number]} of {found.total()} places", "" if found[number] else "dim"), "")
        for click in because[:_BECAUSE_SHOWN]:
            what = Text(f'"{click.item}"') if click.kind == "search" else _item(click.item, shown, colours)
            table.add_row(Text("  ").append(what), Text(f"{click.share:.0%}", "dim"))
    return table


def _list(shown: Spotlight, colours: Mapping[str, str]) -> Table:
    table = _rows(3)
    items = [place.item for place in shown.recommendation.items]
    for number, item in enumerate(items[:ROWS_SHOWN], start=1):
        chance = shown.chances[item]
        style = "bold green" if chance >= _LIKELY else "" if chance >= _POSSIBLE else "dim"
        table.add_row(Text(f"{number:>2}", "dim"), _item(item, shown, colours), Text(f"{chance:.1%}", style))
    held = sum(shown.chances[item] for item in items[:JUDGED])
    best = sum(sorted(shown.chances.values(), reverse=True)[:JUDGED])
    table.add_row("", f"top {JUDGED}: {held:.0%}", Text(f"best {best:.0%}", "dim"))
    return table


def _item(item: str, shown: Spotlight, colours: Mapping[str, str]) -> Text:
    """Category and number, in the category's colour."""
    name = shown.categories[item]
    return Text(f"{name} {item.removeprefix('item-')}", colours.get(name, "white"))


def _rows(columns: int) -> Table:
    """A grid whose columns keep their words on one line."""
    table = Table.grid(padding=(0, 1))
    for _ in range(columns):
        table.add_column(no_wrap=True)
    return table
