"""Screen of the demo, rendered from a `Frame`: figures of all shoppers on top, one shopper below."""

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
from engine.quality.next_click import PLACES
from producers.demo.scoreboard import RankedClick

ROWS_SHOWN: Final = 10
"""Clicks, and items of the list, on the screen, which so fits a terminal of 80 by 24."""
_REASONS_SHOWN = 2
_BAR_LENGTH = 8
_COLOURS = ("cyan", "magenta", "yellow", "green", "blue", "red")
_LIKELY, _POSSIBLE = 0.02, 0.002
"""True probabilities of the next click from which an item of a list is shown bright, and not dim."""


@dataclass(frozen=True, slots=True)
class Spotlight:
    """The shopper shown."""

    user: str
    interests: Sequence[tuple[str, float]]
    """Hidden interests: category and weight, the heaviest first."""
    window: Sequence[RankedClick]
    """Clicks, oldest first."""
    recommendation: Recommendation
    chances: Mapping[str, float]
    """True probability, by item id, that the shopper's next click is on it; hidden from the engine."""
    categories: Mapping[str, str]
    """Category by item id."""

    def colours(self) -> dict[str, str]:
        """Colours of the shopper's categories, the same in every column: hidden interests first, then clicks."""
        clicked = Counter(self.categories[ranked.click.item] for ranked in self.window)
        names = dict.fromkeys([*(name for name, _ in self.interests), *(name for name, _ in clicked.most_common())])
        return dict(zip(names, _COLOURS, strict=False))


@dataclass(frozen=True, slots=True)
class Frame:
    """The content of the screen at one moment."""

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
    transport: str
    """The log that clicks and lists go through, in words: 'through Kafka at HOST:PORT'."""
    spotlight: Spotlight | None


def render(frame: Frame) -> RenderableType:
    """The screen for a frame."""
    shopper: RenderableType = Text(" waiting for the first lists ...", style="dim")
    if frame.spotlight:
        shopper = _shopper(frame.spotlight)
    footer = Text(
        f" {frame.elapsed_s:.0f} s {frame.transport}, release {frame.release}. Ctrl-C ends the demo.", style="dim"
    )
    return Group(_figures(frame), shopper, footer)


def _figures(frame: Frame) -> RenderableType:
    title = "[bold]HEADRACE[/]  clicks in, fresh lists out"
    table = Table(box=box.ROUNDED, expand=True, header_style="dim", title=title, title_style="")
    for heading in ("clicks/s", "lists/s", "freshness", f"next click in top {PLACES}", "dead letters"):
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
    """The two hit rates as bars on one scale, the higher one at full length."""
    best = max(frame.hit_rate, frame.popularity_hit_rate, 1e-9)
    lines = ((frame.hit_rate, "lists", "bold green"), (frame.popularity_hit_rate, "popular", "dim"))
    bars = [
        Text(f"{'━' * round(_BAR_LENGTH * rate / best):<{_BAR_LENGTH}} {rate:5.1%} {name:<7}", style)
        for rate, name, style in lines
    ]
    return Text("\n").join(bars)


def _shopper(spotlight: Spotlight) -> RenderableType:
    colours = spotlight.colours()
    columns = Table.grid(expand=True, padding=(0, 1))
    for _ in range(3):
        columns.add_column(ratio=1)
    columns.add_row(
        Group(Text("latest clicks", "dim"), _clicks(spotlight, colours)),
        Group(Text("interests, because of", "dim"), _interests(spotlight, colours)),
        Group(Text("list now, true chances", "dim"), _list(spotlight, colours)),
    )
    weights = "   ".join(f"[{colours[name]}]{name}[/] {weight:.0%}" for name, weight in spotlight.interests)
    return Panel(columns, title=f"[bold]{spotlight.user}[/]", subtitle=f"hidden interests: {weights}", box=box.ROUNDED)


def _clicks(spotlight: Spotlight, colours: Mapping[str, str]) -> Table:
    """Latest clicks, the newest on top, each with its rank in the list before it or else its action."""
    table = _grid(2)
    for ranked in reversed(spotlight.window[-ROWS_SHOWN:]):
        rank, action = ranked.rank, ranked.click.action
        note = Text(action if action != "view" else "", "dim")
        if rank is not None:
            note = Text(f"was no. {rank}", "bold green" if rank <= PLACES else "green")
        table.add_row(_item(ranked.click.item, spotlight, colours), note)
    return table


def _interests(spotlight: Spotlight, colours: Mapping[str, str]) -> Table:
    """Interests by their number of items in the list, each with the clicks that have most of its attention."""
    counts = Counter(listed.interest for listed in spotlight.recommendation.items)
    table = _grid(2)
    for number, reasons in sorted(enumerate(spotlight.recommendation.interests), key=lambda pair: -counts[pair[0]]):
        if reasons:
            table.add_row(Text(f"{counts[number]} of {counts.total()} items", "" if counts[number] else "dim"), "")
        for reason in reasons[:_REASONS_SHOWN]:
            name = Text(f'"{reason.item}"') if reason.kind == "search" else _item(reason.item, spotlight, colours)
            table.add_row(Text("  ").append(name), Text(f"{reason.share:.0%}", "dim"))
    return table


def _list(spotlight: Spotlight, colours: Mapping[str, str]) -> Table:
    """The list with the true probability of a click on each item, their sum, and the sum of the best list."""
    table = _grid(3)
    items = [listed.item for listed in spotlight.recommendation.items]
    for rank, item in enumerate(items[:ROWS_SHOWN], start=1):
        chance = spotlight.chances[item]
        style = "bold green" if chance >= _LIKELY else "" if chance >= _POSSIBLE else "dim"
        table.add_row(Text(f"{rank:>2}", "dim"), _item(item, spotlight, colours), Text(f"{chance:.1%}", style))
    listed_chance = sum(spotlight.chances[item] for item in items[:PLACES])
    best_chance = sum(sorted(spotlight.chances.values(), reverse=True)[:PLACES])
    table.add_row("", f"top {PLACES}: {listed_chance:.0%}", Text(f"best {best_chance:.0%}", "dim"))
    return table


def _item(item: str, spotlight: Spotlight, colours: Mapping[str, str]) -> Text:
    """Category and number of an item, in the category's colour."""
    name = spotlight.categories[item]
    return Text(f"{name} {item.removeprefix('item-')}", colours.get(name, "white"))


def _grid(columns: int) -> Table:
    """A table without lines whose cells do not wrap."""
    table = Table.grid(padding=(0, 1))
    for _ in range(columns):
        table.add_column(no_wrap=True)
    return table
