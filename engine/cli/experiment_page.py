"""The report of an experiment as a page that needs nothing else: a table, and the lifts over time with intervals."""

import html
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from engine.messages.experiment_messages import ArmLook, ExperimentLook
from engine.quality.experiment_report import ArmReport, ExperimentReport, Interval, look_of

_WIDTH, _HEIGHT = 860.0, 360.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 64.0, 16.0, 16.0, 40.0
_COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9", "#7a5195")
"""Of the arms after the control; distinct for people with any colour vision (Okabe and Ito, 2008)."""
_TICKS: Final = 5
_ROUNDING: Final = 1.0 + 1e-9
_UNITS: Final = (("days", 86_400_000.0), ("hours", 3_600_000.0), ("minutes", 60_000.0))
_MARGIN: Final = 1.15
_LEAST_SPAN: Final = 0.05
_WIDEST_SPAN: Final = 2.0
"""Bounds beyond this multiple of the last intervals are cut off, so that the first looks do not hide the later ones."""
_STYLE: Final = """
:root { color-scheme: light dark; --ink: #1c1c1c; --paper: #fff; --line: #c9c9c9; --alarm: #b00020; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e6e6; --paper: #161616; --line: #4a4a4a; --alarm: #ff7b8a; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto;
  max-width: 60rem; padding: 0 1rem; }
.table { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem .3rem 0; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child, th:nth-child(2), td:nth-child(2), th:last-child, td:last-child { text-align: left; }
.alarm { color: var(--alarm); font-weight: 600; border: 2px solid var(--alarm); padding: .6rem .8rem; }
svg { width: 100%; height: auto; }
svg text { fill: var(--ink); font-size: 12px; }
.axis { stroke: var(--line); fill: none; }
.zero { stroke: var(--ink); fill: none; }
.key { display: inline-block; width: .8em; height: .8em; margin-right: .4em; }
"""


@dataclass(frozen=True, slots=True)
class _Scale:
    """Places in the picture of times and lifts."""

    started_ms: int
    until_ms: int
    lowest: float
    highest: float

    def x(self, time_ms: float) -> float:
        span = max(1, self.until_ms - self.started_ms)
        return _LEFT + (time_ms - self.started_ms) / span * (_WIDTH - _LEFT - _RIGHT)

    def y(self, lift: float) -> float:
        within = min(max(lift, self.lowest), self.highest)
        return _TOP + (self.highest - within) / (self.highest - self.lowest) * (_HEIGHT - _TOP - _BOTTOM)


def render(report: ExperimentReport) -> str:
    """The page of a report."""
    title = html.escape(f"Experiment {report.experiment}")
    times = f"{report.state}, from {_time(report.started_ms)} to {_time(report.until_ms)} UTC"
    reason = f" ({html.escape(report.reason)})" if report.reason else ""
    return "\n".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            f'<meta name="viewport" content="width=device-width"><title>{title}</title><style>{_STYLE}</style></head>',
            f"<body><h1>{title}</h1><p>Model {html.escape(report.model)}, {times}{reason}.</p>",
            _ratio(report),
            "<h2>Arms</h2>",
            _table(report),
            "<h2>Lift over the control</h2>",
            _plot(report),
            _notes(report),
            "</body></html>\n",
        ]
    )


def _ratio(report: ExperimentReport) -> str:
    ratio = report.sample_ratio
    if ratio.mismatch:
        return (
            f'<p class="alarm" role="alert">Not to be read: the arms do not have the users that their shares promise'
            f" (sample-ratio check, p = {ratio.p_value:.1g}).</p>"
        )
    p_value = "too few users yet" if ratio.p_value is None else f"p = {ratio.p_value:.3f}"
    return f"<p>Users are as the shares promise (sample-ratio check: {p_value}).</p>"


def _table(report: ExperimentReport) -> str:
    is_over = report.state != "running"
    fixed = ["fixed horizon", "p"] if is_over else []
    heads = ["arm", "verdict", "lift", "always valid", *fixed, "users", "share", "clicks", "hits", "gain", "served by"]
    rows = [_row(heads, "th"), *(_row(_cells(arm, is_over=is_over), "td") for arm in report.arms)]
    return f'<div class="table"><table>{"".join(rows)}</table></div>'


def _row(cells: Sequence[str], tag: str) -> str:
    return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"


def _cells(arm: ArmReport, *, is_over: bool) -> list[str]:
    changes = ", ".join(f"{key} {value}" for key, value in arm.settings.items())
    refused = f"; {'; '.join(arm.refused)}" if arm.refused else ""
    fixed = [_bounds(arm.fixed_horizon), "" if arm.p_value is None else f"{arm.p_value:.4f}"]
    return [
        arm.arm,
        f"{arm.verdict}{refused}",
        "" if arm.lift is None else f"{arm.lift:+.1%}",
        _bounds(arm.always_valid),
        *(fixed if is_over else []),
        f"{arm.users:,}",
        f"{arm.share:.1%}",
        f"{arm.clicks:,}",
        "" if arm.hit_rate is None else f"{arm.hit_rate:.1%}",
        "" if arm.gain is None else f"{arm.gain:.4f}",
        f"{arm.release}{f' with {changes}' if changes else ''}",
    ]


def _bounds(interval: Interval | None) -> str:
    if interval is None:
        return ""
    return f"{interval.lower:+.1%} to {'any' if interval.upper is None else f'{interval.upper:+.1%}'}"


def _plot(report: ExperimentReport) -> str:
    """The lifts of all arms at all looks, the last of which is the report itself."""
    looks = [*report.looks, look_of(report)]
    curves = [_points(looks, arm.arm) for arm in report.arms[1:]]
    if not any(curves):
        return "<p>No arm has enough users yet for a lift.</p>"
    scale = _scale(report, curves)
    parts = [*_axes(scale)]
    for points, colour in zip(curves, _COLOURS, strict=False):
        parts += _curve(points, colour, scale)
    keys = "".join(
        f'<span style="margin-right:1.5em"><span class="key" style="background:{colour}"></span>'
        f"{html.escape(arm.arm)}</span>"
        for arm, colour in zip(report.arms[1:], _COLOURS, strict=False)
    )
    label = "Lift of each arm over the control by time, with its always-valid interval"
    svg = f'<svg viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}" role="img" aria-label="{label}">{"".join(parts)}</svg>'
    return f"{svg}<p>{keys}</p>"


def _points(looks: Sequence[ExperimentLook], name: str) -> list[tuple[int, ArmLook]]:
    return [(look.looked_ms, arm) for look in looks for arm in look.arms if arm.arm == name and arm.lift is not None]


def _scale(report: ExperimentReport, curves: Sequence[Sequence[tuple[int, ArmLook]]]) -> _Scale:
    """Room for the last intervals of all arms, for zero, and for what was before, up to twice as much."""
    last = [value for points in curves if points for value in _values(points[-1][1])]
    span = max(_LEAST_SPAN, *(abs(value) for value in last)) * _MARGIN
    widest = [value for points in curves for _, arm in points for value in _values(arm)]
    reach = min(span * _WIDEST_SPAN, max(span, *(abs(value) for value in widest)))
    return _Scale(report.started_ms, report.until_ms, max(-1.0, -reach), reach)


def _values(arm: ArmLook) -> list[float]:
    """The lift and its bounds, as far as there are any."""
    return [value for value in (arm.lift, arm.lower, arm.upper) if value is not None]


def _axes(scale: _Scale) -> Iterator[str]:
    step = _round_step(scale.highest - scale.lowest)
    for tick in range(math.ceil(scale.lowest / step), math.floor(scale.highest / step) + 1):
        y = scale.y(tick * step)
        yield f'<path class="axis" d="M{_LEFT:g} {y:.1f}H{_WIDTH - _RIGHT:g}"/>'
        yield f'<text x="{_LEFT - 8:g}" y="{y + 4:.1f}" text-anchor="end">{100.0 * tick * step:+.3g}%</text>'
    yield f'<path class="zero" d="M{_LEFT:g} {scale.y(0.0):.1f}H{_WIDTH - _RIGHT:g}"/>'
    span_ms = scale.until_ms - scale.started_ms
    unit, unit_ms = next(known for known in _UNITS if span_ms >= known[1] or known is _UNITS[-1])
    step = _round_step(max(1, span_ms) / unit_ms)
    for tick in range(math.floor(span_ms / unit_ms / step) + 1):
        x = scale.x(scale.started_ms + tick * step * unit_ms)
        yield f'<text x="{x:.1f}" y="{_HEIGHT - 18:g}" text-anchor="middle">{tick * step:g}</text>'
    yield f'<text x="{_WIDTH - _RIGHT:g}" y="{_HEIGHT - 3:g}" text-anchor="end">{unit} since the start</text>'


def _round_step(span: float) -> float:
    """A step of 1, 2 or 5 times a power of ten, of which some five are in the span."""
    rough = span / _TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1.0, 2.0, 5.0, 10.0) if rough <= factor * power * _ROUNDING)


def _curve(points: Sequence[tuple[int, ArmLook]], colour: str, scale: _Scale) -> Iterator[str]:
    """The lift of an arm as a line, on the band of its interval."""
    if not points:
        return
    x = [f"{scale.x(time_ms):.1f}" for time_ms, _ in points]
    lines = [
        [f"{scale.y(default if value is None else value):.1f}" for value in values]
        for values, default in (
            ([arm.upper for _, arm in points], scale.highest),
            ([arm.lower for _, arm in points], scale.lowest),
            ([arm.lift for _, arm in points], 0.0),
        )
    ]
    upper, lower, lift = ([f"{left},{top}" for left, top in zip(x, line, strict=True)] for line in lines)
    band = " ".join([*upper, *reversed(lower)])
    yield f'<polygon points="{band}" fill="{colour}" fill-opacity="0.1" stroke="{colour}" stroke-opacity="0.35"/>'
    yield f'<polyline points="{" ".join(lift)}" fill="none" stroke="{colour}" stroke-width="2"/>'
    last_x, last_y = lift[-1].split(",")
    yield f'<circle cx="{last_x}" cy="{last_y}" r="3.5" fill="{colour}"/>'


def _notes(report: ExperimentReport) -> str:
    confidence = f"{1.0 - report.error:.0%}"
    fixed = (
        f" The fixed-horizon intervals and p-values are of the last look alone ({confidence} for all arms together,"
        " Dunnett): they hold only where the end was settled before the start, and not where somebody stopped at a look"
        " that pleased."
    )
    return (
        "<p>Gain is 1 / log2(1 + rank) of the next click in the list that its user had been sent, on one of the first"
        f" ten places, and 0 for another. The bands hold at all looks and for all arms together with {confidence}, so"
        f" that one may look at any time.{fixed if report.state != 'running' else ''}</p>"
    )


def _time(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")
