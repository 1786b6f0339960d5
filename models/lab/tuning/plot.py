"""Plot of the trials of a tuning, as an SVG file that needs neither styles nor fonts."""

from collections.abc import Mapping
from itertools import accumulate
from pathlib import Path
from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from models.lab.tuning.search_space import Categories, Domain, Range
from models.lab.tuning.study import Trial, best

_COLUMNS = 4
_PLOT_WIDTH, _TOP_HEIGHT, _ROW_HEIGHT = 11.0, 3.4, 2.5
"""Inches."""
_TICKS, _LOG_TICKS = 5, (1.0, 3.0)
_MARGIN, _LOG_MARGIN = 0.05, 1.15
"""Room on both sides of a range: a share of it, or a factor on a log scale."""
_DONE, _STOPPED, _BEST = "#1f5fa8", "#8a8a8a", "#d1495b"
_GROUPS: Final = (("finished", _DONE, _DONE), ("stopped early", _STOPPED, "none"))
"""Label, edge colour and fill colour of each kind of trial; the fill distinguishes them without colour."""


def plot(trials: list[Trial], searched: Mapping[str, Domain], path: Path) -> None:
    """Draw the best validation NDCG over the training time so far, and validation NDCG by every searched setting."""
    scored = [trial for trial in trials if trial.outcome.ndcg > 0.0]
    rows = -(-len(searched) // _COLUMNS)
    figure = Figure(figsize=(_PLOT_WIDTH, _TOP_HEIGHT + rows * _ROW_HEIGHT), layout="constrained")
    grid = figure.add_gridspec(1 + rows, _COLUMNS, height_ratios=[_TOP_HEIGHT] + [_ROW_HEIGHT] * rows)
    top = figure.add_subplot(grid[0, :])
    _over_time(top, trials)
    for index, (name, domain) in enumerate(searched.items()):
        row, column = divmod(index, _COLUMNS)
        axes = figure.add_subplot(grid[1 + row, column], sharey=top)
        axes.tick_params(labelleft=column == 0)
        axes.set(xlabel=name, ylabel="" if column else "validation NDCG")
        _over_values(axes, name, domain, scored)
    for axes in figure.axes:
        axes.grid(visible=True, axis="y", color="#e6e6e6")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def _over_time(axes: Axes, trials: list[Trial]) -> None:
    minutes = [seconds / 60.0 for seconds in accumulate(trial.outcome.elapsed_s for trial in trials)]
    so_far = list(accumulate((trial.outcome.ndcg for trial in trials), max))
    axes.step(minutes, so_far, where="post", color=_BEST, linewidth=1.5, label="best so far", zorder=1)
    scored = [(x, trial) for x, trial in zip(minutes, trials, strict=True) if trial.outcome.ndcg > 0.0]
    _points(axes, [x for x, _ in scored], [trial for _, trial in scored])
    axes.set(xlabel="minutes of training so far", ylabel="validation NDCG")
    axes.set_xlim(left=0.0)
    axes.set_title("Trials in order", loc="left")
    axes.legend(frameon=False, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=len(_GROUPS) + 2)


def _over_values(axes: Axes, name: str, domain: Domain, trials: list[Trial]) -> None:
    if isinstance(domain, Categories):
        axes.set_xticks(range(len(domain.choices)), [str(choice) for choice in domain.choices])
        axes.set_xlim(-0.5, len(domain.choices) - 0.5)
        xs = [float(domain.choices.index(trial.values[name])) for trial in trials]
    else:
        _scale(axes, domain)
        xs = [float(trial.values[name]) for trial in trials]
    _points(axes, xs, trials)


def _scale(axes: Axes, domain: Range) -> None:
    """Show the whole range, with ticks in plain numbers."""
    if domain.log:
        axes.set_xscale("log")
        axes.xaxis.set(major_locator=LogLocator(subs=_LOG_TICKS), minor_locator=NullLocator())
        axes.set_xlim(domain.low / _LOG_MARGIN, domain.high * _LOG_MARGIN)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(_TICKS, integer=isinstance(domain.low, int)))
        margin = _MARGIN * (domain.high - domain.low)
        axes.set_xlim(domain.low - margin, domain.high + margin)
    axes.xaxis.set_major_formatter("{x:g}")


def _points(axes: Axes, xs: list[float], trials: list[Trial]) -> None:
    """Draw trials at their x values, those stopped early hollow, the best one marked."""
    for label, edge, fill in _GROUPS:
        points = [(x, trial.outcome.ndcg) for x, trial in zip(xs, trials, strict=True) if _group(trial) == label]
        group_xs, ndcgs = [x for x, _ in points], [ndcg for _, ndcg in points]
        axes.scatter(group_xs, ndcgs, s=26, edgecolors=edge, facecolors=fill, label=label, zorder=2)
    best_trial = best(trials)
    if best_trial:
        x = xs[trials.index(best_trial)]
        axes.scatter([x], [best_trial.outcome.ndcg], s=110, marker="*", color=_BEST, label="best", zorder=3)


def _group(trial: Trial) -> str:
    return "finished" if trial.outcome.end == "complete" else "stopped early"
