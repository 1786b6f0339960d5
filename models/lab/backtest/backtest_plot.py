"""Plot of a backtest, as an SVG file: next-click rate of each system over the parts of the stream."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from models.lab.backtest.backtest_report import PUSHED

_SIZE: Final = (7.5, 3.6)
"""Inches."""
_STYLES: Final = (
    ("pushed, with retraining", "#1f5fa8", "-", "o"),
    ("pushed, first release kept", "#1f5fa8", "--", "o"),
    ("popularity of seven days", "#8a8a8a", "-", "s"),
    ("item-kNN, updated by each click", "#d1495b", "-", "^"),
    ("session-kNN, updated by each click", "#e0a030", "-", "v"),
)
"""Label, colour, line and marker of each of `PUSHED`."""


def plot(report: Mapping[str, Any], path: Path) -> None:
    """Draw HR@10 by part."""
    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.add_subplot()
    numbers = [part["part"] for part in report["parts"]]
    for name, (label, color, line, marker) in zip(PUSHED, _STYLES, strict=True):
        rates = [part["systems"][name]["hr10"] for part in report["parts"]]
        axes.plot(numbers, rates, color=color, linestyle=line, marker=marker, markersize=4, label=label)
    axes.set(xlabel="part of the stream", ylabel="next clicks in the first ten places")
    axes.set_ylim(bottom=0.0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(visible=True, axis="y", color="#e6e6e6")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False)
    figure.savefig(path)
