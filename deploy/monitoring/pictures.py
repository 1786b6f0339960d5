"""Pictures of dashboards from a Prometheus' own data, where there is no Grafana to take a screenshot of.

Each panel is where Grafana has it, with the data of its own queries and its colours; fonts and details are not
Grafana's. Needs matplotlib, from the extra `report`.
"""

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from deploy.monitoring.panels import Colour, Dashboard, Panel

Series = Sequence[tuple[Mapping[str, str], Sequence[tuple[float, float]]]]
"""Labels, and times (Unix seconds) with values."""
Ask = Callable[[str], Series]
"""The series of a query over the time of the picture."""

_INCHES_A_COLUMN: Final = 0.58
_INCHES_A_ROW: Final = 0.36
_GAP: Final = 0.12
_COLOURS: Final[dict[Colour, str]] = {"green": "#2f7d4f", "yellow": "#b58900", "red": "#b3302b", "blue": "#2b5f9e"}
_BACKGROUND, _PANEL, _INK = "#f4f5f5", "#ffffff", "#24292e"
_SCALES: Final = ((1e9, "G"), (1e6, "M"), (1e3, "k"))
_MOST_LINES: Final = 8


def draw(dashboard: Dashboard, ask: Ask, path: Path) -> None:
    """Write a picture of a dashboard, row headings left out."""
    boxes = [box for box in dashboard.places() if box[0] is not None]
    height = max(top + rows for _, (_, top, _, rows) in boxes)
    figure = Figure(figsize=(24 * _INCHES_A_COLUMN, height * _INCHES_A_ROW), facecolor=_BACKGROUND, dpi=72)
    for panel, (left, top, width, rows) in boxes:
        if panel is not None:
            area = (left / 24, 1 - (top + rows) / height, width / 24, rows / height)
            _draw_panel(figure, panel, area, [ask(query.text) for query in panel.queries])
    figure.savefig(path, facecolor=_BACKGROUND, pil_kwargs={"optimize": True}, metadata={"Software": None})


def _draw_panel(figure: Figure, panel: Panel, area: tuple[float, float, float, float], answers: list[Series]) -> None:
    width_in, height_in = figure.get_size_inches()
    left, bottom, width, height = area
    gap_x, gap_y = _GAP / width_in / 2, _GAP / height_in / 2
    box = figure.add_axes((left + gap_x, bottom + gap_y, width - 2 * gap_x, height - 2 * gap_y), facecolor=_PANEL)
    box.set(xticks=[], yticks=[])
    for spine in box.spines.values():
        spine.set_color("#d8dbde")
    title_y = 1 - 0.16 / (height * height_in)
    box.text(0.02 * 8 / panel.width, title_y, panel.title, size=10, weight="bold", color=_INK, va="center")
    if panel.kind == "stat":
        _draw_stat(box, panel, answers)
    elif panel.kind == "table":
        _draw_table(box, panel, answers)
    else:
        inner = (left + 0.55 / width_in, bottom + 0.95 / height_in, width - 0.75 / width_in, height - 1.4 / height_in)
        _draw_lines(figure.add_axes(inner, facecolor=_PANEL), panel, answers)


def _draw_stat(box: Axes, panel: Panel, answers: list[Series]) -> None:
    values = [points[-1][1] for series in answers for _, points in series if points]
    texts = [
        panel.texts[f"{value:g}"][0] if f"{value:g}" in panel.texts else shown(value, panel.unit) for value in values
    ]
    box.set_facecolor(_COLOURS[_colour(panel, values[0])] if values else _PANEL)
    box.text(
        0.5, 0.42, " of ".join(texts) or "no data", size=26, color="white", ha="center", va="center", weight="bold"
    )
    box.texts[0].set_color("white")


def _draw_table(box: Axes, panel: Panel, answers: list[Series]) -> None:
    columns = [query.legend for query in panel.queries]
    rows: dict[tuple[str, ...], list[str]] = {}
    for column, series in enumerate(answers):
        for labels, points in series:
            row = rows.setdefault(tuple(labels.values()), [""] * len(columns))
            row[column] = shown(points[-1][1], panel.unit)
    head = " " * 32 + "".join(f"{column:>12}" for column in columns)
    lines = [f"{' '.join(key):32}" + "".join(f"{cell:>12}" for cell in row) for key, row in sorted(rows.items())]
    box.text(0.02, 0.8, "\n".join([head, *lines]), family="monospace", size=9, va="top", color=_INK)


def _draw_lines(axes: Axes, panel: Panel, answers: list[Series]) -> None:
    lines = [
        (_legend(query.legend, labels), points)
        for query, series in zip(panel.queries, answers, strict=True)
        for labels, points in series
    ][:_MOST_LINES]
    total = [0.0] * max((len(points) for _, points in lines), default=0)
    for name, points in lines:
        times, values = [time_s for time_s, _ in points], [value for _, value in points]
        if panel.stacked and len(values) == len(total):
            lower, total = total, [below + value for below, value in zip(total, values, strict=True)]
            axes.fill_between(times, lower, total, alpha=0.5, label=name, linewidth=0)
        else:
            axes.plot(times, values, label=name, linewidth=1.3)
    axes.set_ylim(bottom=0, top=panel.top)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: shown(value, panel.unit)))
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda time_s, _: dt.datetime.fromtimestamp(time_s, dt.UTC).strftime("%H:%M:%S"))
    )
    axes.tick_params(labelsize=8, colors=_INK)
    axes.grid(visible=True, axis="y", color="#e6e8ea")
    axes.spines[["top", "right"]].set_visible(False)
    if lines:
        axes.legend(loc="upper left", bbox_to_anchor=(-0.05, -0.14), ncols=2, fontsize=8, frameon=False)


def _colour(panel: Panel, value: float) -> Colour:
    return [panel.base, *(colour for limit, colour in panel.limits if value >= limit)][-1]


def _legend(text: str, labels: Mapping[str, str]) -> str:
    for label, value in labels.items():
        text = text.replace(f"{{{{{label}}}}}", value)
    return text


def shown(value: float, unit: str) -> str:
    """A value with its unit, in three digits."""
    if unit == "percentunit":
        return f"{value:.3g}" if value > 1 else f"{100 * value:.3g} %"
    if unit == "s" and 0 < value < 1:
        return f"{1000 * value:.3g} ms"
    for scale, letter in _SCALES:
        if abs(value) >= scale:
            return f"{value / scale:.3g} {letter}{_UNITS[unit]}"
    return f"{value:.3g} {_UNITS[unit]}".rstrip()


_UNITS: Final = {"short": "", "s": "s", "cps": "/s", "bytes": "B", "percentunit": ""}
