"""Plots of an evaluation as SVG, to stand inside a page.

Colours are names that the page gives a value (`var(--ink)`), so that a plot follows it from light to dark; letters stay
text in the page's own font, which a reader can select and a screen reader can read.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from io import StringIO
from typing import Any, Final

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

_INK, _MUTED, _GRID, _FIRST, _SECOND = "#000001", "#000002", "#000003", "#000004", "#000005"
_PAGE_COLOURS: Final = {_INK: "ink", _MUTED: "muted", _GRID: "grid", _FIRST: "first", _SECOND: "second"}
_SERIES: Final = ((_FIRST, "o"), (_SECOND, "D"))
"""Colour and mark of each series: told apart without the colour too."""
_STYLE: Final[dict[Any, Any]] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "svg.hashsalt": "headrace",  # the same plot is the same text
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _MUTED,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "figure.facecolor": "none",
    "legend.frameon": False,
}
_LEGEND: Final[dict[str, Any]] = {"loc": "lower right", "bbox_to_anchor": (1.0, 1.0), "ncols": 2}
"""Above the panel, where nothing is drawn."""
_WIDE, _HIGH = 6.4, 3.0
"""Inches; the page scales them."""

Points = Sequence[tuple[float, tuple[float, float] | None]]
"""Values, each with its interval where it has one."""


@dataclass(frozen=True, slots=True)
class Axis:
    """What stands at an axis."""

    title: str
    """With its unit."""
    share: bool = False
    """Values from 0 to 1, written as percentages."""


def points(about: str, labels: Sequence[str], series: Mapping[str, Points], across: Axis, up: Axis) -> str:
    """Values with their intervals over named places, one mark a series."""
    with rc_context(_STYLE):
        figure, (axes,) = _panels(1)
        for title, values, shift, style in _side_by_side(series):
            places = [place + shift for place in range(len(labels))]
            axes.errorbar(places, [value for value, _ in values], yerr=_reach(values), label=title, **style)
        axes.set_xticks(range(len(labels)), labels)
        axes.set_xlim(-0.5, len(labels) - 0.5)
        axes.set_ylim(bottom=0.0)
        axes.legend(**_LEGEND)
        _finish(axes, across, up)
        return _svg(figure, about)


def leads(about: str, labels: Sequence[str], series: Mapping[str, Points], along: Axis) -> str:
    """Values with their intervals, one row a label, beside a line at 0."""
    with rc_context(_STYLE | {"axes.grid.axis": "x"}):
        figure, (axes,) = _panels(1, max(_HIGH, 0.9 + 0.4 * len(labels)))
        for title, values, shift, style in _side_by_side(series):
            places = [place + shift for place in range(len(labels))]
            axes.errorbar([value for value, _ in values], places, xerr=_reach(values), label=title, **style)
        axes.axvline(0.0, color=_INK, linewidth=1)
        axes.set_yticks(range(len(labels)), labels)
        axes.set_ylim(len(labels) - 0.5, -0.5)
        axes.set_xlabel(along.title)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.tick_params(length=0)
        axes.legend(**_LEGEND)
        return _svg(figure, about)


def bars(about: str, panels: Sequence[tuple[Sequence[str], Sequence[float], Axis, Axis]]) -> str:
    """Shares as bars; each panel: labels, shares, axis across, axis up."""
    with rc_context(_STYLE):
        figure, all_axes = _panels(len(panels))
        for axes, (labels, shares, across, up) in zip(all_axes, panels, strict=True):
            axes.bar(range(len(labels)), shares, color=_FIRST, width=0.7)
            axes.set_xticks(range(len(labels)), labels)
            _finish(axes, across, up)
        return _svg(figure, about)


def lines(about: str, across: Axis, panels: Sequence[tuple[Sequence[float], Sequence[float], Axis]]) -> str:
    """Curves; each panel: values across, values up, axis up."""
    with rc_context(_STYLE):
        figure, all_axes = _panels(len(panels))
        for axes, (left, values, up) in zip(all_axes, panels, strict=True):
            axes.plot(left, values, color=_FIRST, linewidth=2, marker="o", markersize=3)
            _finish(axes, across, up)
        return _svg(figure, about)


def _panels(count: int, high: float = _HIGH) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(_WIDE, high), layout="constrained")
    return figure, [figure.add_subplot(1, count, place + 1) for place in range(count)]


def _side_by_side(series: Mapping[str, Points]) -> Iterator[tuple[str, Points, float, dict[str, Any]]]:
    """Each series with its name, how far from its place it is drawn, and how it looks."""
    for number, ((title, values), (colour, mark)) in enumerate(zip(series.items(), _SERIES, strict=False)):
        style = {"color": colour, "marker": mark, "linestyle": "none", "elinewidth": 2}
        yield title, values, 0.18 * (number - (len(series) - 1) / 2), style


def _reach(values: Points) -> tuple[list[float], list[float]]:
    """How far each value's interval reaches below and above it."""
    ends = [interval or (value, value) for value, interval in values]
    below = [max(value - low, 0.0) for (value, _), (low, _) in zip(values, ends, strict=True)]
    return below, [max(high - value, 0.0) for (value, _), (_, high) in zip(values, ends, strict=True)]


def _finish(axes: Axes, across: Axis, up: Axis) -> None:
    axes.set_xlabel(across.title)
    axes.set_ylabel(up.title)
    axes.tick_params(length=0)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    if up.share:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _place: f"{100.0 * value:g}%"))


def _svg(figure: Figure, about: str) -> str:
    """The figure as an element of a page, read out as `about`; its ids begin with that, for a page has many plots."""
    buffer = StringIO()
    figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    whole = buffer.getvalue()
    wide, high = (72.0 * inches for inches in figure.get_size_inches())
    body = whole[whole.index(">", whole.index("<svg")) + 1 :]
    body = re.sub(r"<style.*?</style>|font-family: [^;\"]*;? ?", "", body, flags=re.DOTALL)  # the page has its own
    name = re.sub(r"[^a-z0-9]+", "-", about.lower())
    body = body.replace('id="', f'id="{name}-').replace("url(#", f"url(#{name}-")
    body = body.replace('xlink:href="#', f'href="#{name}-')
    for colour, page_colour in _PAGE_COLOURS.items():
        body = body.replace(colour, f"var(--{page_colour})")
    return f'<svg viewBox="0 0 {wide:g} {high:g}" role="img" aria-label="{escape(about)}">{body}'
