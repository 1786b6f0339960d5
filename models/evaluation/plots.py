"""Plots of an evaluation as SVG elements of an HTML page.

Colours are CSS variables of the page (`var(--ink)`), so that a plot follows it from light to dark; labels stay text in
the page's own font, which a reader can select and a screen reader can read.
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
"""Colour and marker of each series; the marker distinguishes them without colour."""
_STYLE: Final[dict[Any, Any]] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "svg.hashsalt": "headrace",  # equal plots are equal text
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
"""Above the panel, outside its data area."""
_WIDTH, _HEIGHT = 6.4, 3.0
"""Inches; the page scales them."""

Points = Sequence[tuple[float, tuple[float, float] | None]]
"""Values, each with its interval where it has one."""


@dataclass(frozen=True, slots=True)
class Axis:
    """Title and number format of an axis."""

    title: str
    """With its unit."""
    share: bool = False
    """Values from 0 to 1, written as percentages."""


def points(description: str, labels: Sequence[str], series: Mapping[str, Points], x_axis: Axis, y_axis: Axis) -> str:
    """Values with their intervals by category, one marker per series.

    Args:
        description: read out by screen readers.
        labels: of the categories, from left to right.
        series: values by name, one per category.
        x_axis: of the categories.
        y_axis: of the values.
    """
    with rc_context(_STYLE):
        figure, (axes,) = _panels(1)
        for title, values, shift, style in _side_by_side(series):
            xs = [index + shift for index in range(len(labels))]
            axes.errorbar(xs, [value for value, _ in values], yerr=_error_bars(values), label=title, **style)
        axes.set_xticks(range(len(labels)), labels)
        axes.set_xlim(-0.5, len(labels) - 0.5)
        axes.set_ylim(bottom=0.0)
        axes.legend(**_LEGEND)
        _finish(axes, x_axis, y_axis)
        return _svg(figure, description)


def leads(description: str, labels: Sequence[str], series: Mapping[str, Points], x_axis: Axis) -> str:
    """Differences with their intervals, one row per label, around a line at 0."""
    with rc_context(_STYLE | {"axes.grid.axis": "x"}):
        figure, (axes,) = _panels(1, max(_HEIGHT, 0.9 + 0.4 * len(labels)))
        for title, values, shift, style in _side_by_side(series):
            ys = [index + shift for index in range(len(labels))]
            axes.errorbar([value for value, _ in values], ys, xerr=_error_bars(values), label=title, **style)
        axes.axvline(0.0, color=_INK, linewidth=1)
        axes.set_yticks(range(len(labels)), labels)
        axes.set_ylim(len(labels) - 0.5, -0.5)
        axes.set_xlabel(x_axis.title)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.tick_params(length=0)
        axes.legend(**_LEGEND)
        return _svg(figure, description)


def bars(description: str, panels: Sequence[tuple[Sequence[str], Sequence[float], Axis, Axis]]) -> str:
    """Shares as bars; each panel: labels, shares, x axis, y axis."""
    with rc_context(_STYLE):
        figure, all_axes = _panels(len(panels))
        for axes, (labels, shares, x_axis, y_axis) in zip(all_axes, panels, strict=True):
            axes.bar(range(len(labels)), shares, color=_FIRST, width=0.7)
            axes.set_xticks(range(len(labels)), labels)
            _finish(axes, x_axis, y_axis)
        return _svg(figure, description)


def lines(description: str, x_axis: Axis, panels: Sequence[tuple[Sequence[float], Sequence[float], Axis]]) -> str:
    """Curves; each panel: x values, y values, y axis."""
    with rc_context(_STYLE):
        figure, all_axes = _panels(len(panels))
        for axes, (xs, ys, y_axis) in zip(all_axes, panels, strict=True):
            axes.plot(xs, ys, color=_FIRST, linewidth=2, marker="o", markersize=3)
            _finish(axes, x_axis, y_axis)
        return _svg(figure, description)


def _panels(count: int, height: float = _HEIGHT) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    return figure, [figure.add_subplot(1, count, index) for index in range(1, count + 1)]


def _side_by_side(series: Mapping[str, Points]) -> Iterator[tuple[str, Points, float, dict[str, Any]]]:
    """Each series with its name, its shift from the category's position, and its style."""
    for index, ((title, values), (colour, marker)) in enumerate(zip(series.items(), _SERIES, strict=False)):
        style = {"color": colour, "marker": marker, "linestyle": "none", "elinewidth": 2}
        yield title, values, 0.18 * (index - (len(series) - 1) / 2), style


def _error_bars(values: Points) -> tuple[list[float], list[float]]:
    """Lengths of each value's error bar below and above it."""
    ends = [interval or (value, value) for value, interval in values]
    below = [max(value - low, 0.0) for (value, _), (low, _) in zip(values, ends, strict=True)]
    return below, [max(high - value, 0.0) for (value, _), (_, high) in zip(values, ends, strict=True)]


def _finish(axes: Axes, x_axis: Axis, y_axis: Axis) -> None:
    axes.set_xlabel(x_axis.title)
    axes.set_ylabel(y_axis.title)
    axes.tick_params(length=0)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    if y_axis.share:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _index: f"{100.0 * value:g}%"))


def _svg(figure: Figure, description: str) -> str:
    """The figure as an SVG element; its ids start with the description, as a page holds several plots."""
    buffer = StringIO()
    figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    document = buffer.getvalue()
    width, height = (72.0 * inches for inches in figure.get_size_inches())
    body = document[document.index(">", document.index("<svg")) + 1 :]
    body = re.sub(r"<style.*?</style>|font-family: [^;\"]*;? ?", "", body, flags=re.DOTALL)  # the page has its own
    prefix = re.sub(r"[^a-z0-9]+", "-", description.lower())
    body = body.replace('id="', f'id="{prefix}-').replace("url(#", f"url(#{prefix}-")
    body = body.replace('xlink:href="#', f'href="#{prefix}-')
    for colour, page_colour in _PAGE_COLOURS.items():
        body = body.replace(colour, f"var(--{page_colour})")
    return f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(description)}">{body}'
