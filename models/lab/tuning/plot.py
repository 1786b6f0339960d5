"""How the trials of a tuning compare, in one picture that stands alone: with its own colours and letters as shapes."""

from collections.abc import Mapping
from itertools import accumulate
from pathlib import Path
from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from models.lab.tuning.search_space import Categories, Range, Searched
from models.lab.tuning.study import Trial, best

_COLUMNS = 4
_PLOT_WIDTH, _TOP_HEIGHT, _ROW_HEIGHT = 11.0, 3.4, 2.5
"""Inches."""
_TICKS, _LOG_TICKS = 5, (1.0, 3.0)
_MARGIN, _LOG_MARGIN = 0.05, 1.15
"""Beside a range: a share of it, or in logarithms a factor."""
_DONE, _STOPPED, _BEST = "#1f5fa8", "#8a8a8a", "#d1495b"
_GROUPS: Final = (("finished", _DONE, _DONE), ("stopped early", _STOPPED, "none"))
"""Name, colour and filling of each kind of trial: told apart without the colour, too."""


def plot(trials: list[Trial], searched: Mapping[str, Searched], path: Path) -> None:
    """The best so far over the time spent, and every searched setting against validation NDCG."""
    shown = [trial for trial in trials if trial.outcome.ndcg > 0.0]
    rows = -(-len(searched) // _COLUMNS)
    figure = Figure(figsize=(_PLOT_WIDTH, _TOP_HEIGHT + rows * _ROW_HEIGHT), layout="constrained")
    grid = figure.add_gridspec(1 + rows, _COLUMNS, height_ratios=[_TOP_HEIGHT] + [_ROW_HEIGHT] * rows)
    top = figure.add_subplot(grid[0, :])
    _over_time(top, trials)
    for place, (name, among) in enumerate(searched.items()):
        row, column = divmod(place, _COLUMNS)
        axes = figure.add_subplot(grid[1 + row, column], sharey=top)
        axes.tick_params(labelleft=column == 0)
        axes.set(xlabel=name, ylabel="" if column else "validation NDCG")
        _over_values(axes, name, among, shown)
    for axes in figure.axes:
        axes.grid(visible=True, axis="y", color="#e6e6e6")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def _over_time(axes: Axes, trials: list[Trial]) -> None:
    minutes = [seconds / 60.0 for seconds in accumulate(trial.outcome.elapsed_s for trial in trials)]
    so_far = list(accumulate((trial.outcome.ndcg for trial in trials), max))
    axes.step(minutes, so_far, where="post", color=_BEST, linewidth=1.5, label="best so far", zorder=1)
    shown = [(at, trial) for at, trial in zip(minutes, trials, strict=True) if trial.outcome.ndcg > 0.0]
    _points(axes, [at for at, _ in shown], [trial for _, trial in shown])
    axes.set(xlabel="minutes of training so far", ylabel="validation NDCG")
    axes.set_xlim(left=0.0)
    axes.set_title("Trials in order", loc="left")
    axes.legend(frameon=False, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=len(_GROUPS) + 2)


def _over_values(axes: Axes, name: str, among: Searched, trials: list[Trial]) -> None:
    if isinstance(among, Categories):
        axes.set_xticks(range(len(among.choices)), [str(choice) for choice in among.choices])
        axes.set_xlim(-0.5, len(among.choices) - 0.5)
        places = [float(among.choices.index(trial.values[name])) for trial in trials]
    else:
        _scale(axes, among)
        places = [float(trial.values[name]) for trial in trials]
    _points(axes, places, trials)


def _scale(axes: Axes, among: Range) -> None:
    """The whole range, with ticks in plain numbers."""
    if among.log:
        axes.set_xscale("log")
        axes.xaxis.set(major_locator=LogLocator(subs=_LOG_TICKS), minor_locator=NullLocator())
        axes.set_xlim(among.low / _LOG_MARGIN, among.high * _LOG_MARGIN)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(_TICKS, integer=isinstance(among.low, int)))
        margin = _MARGIN * (among.high - among.low)
        axes.set_xlim(among.low - margin, among.high + margin)
    axes.xaxis.set_major_formatter("{x:g}")


def _points(axes: Axes, places: list[float], trials: list[Trial]) -> None:
    """Trials at their places, those stopped early hollow, the best one marked."""
    for label, colour, filling in _GROUPS:
        among = [(at, trial.outcome.ndcg) for at, trial in zip(places, trials, strict=True) if _group(trial) == label]
        across, up = [at for at, _ in among], [ndcg for _, ndcg in among]
        axes.scatter(across, up, s=26, edgecolors=colour, facecolors=filling, label=label, zorder=2)
    leader = best(trials)
    if leader:
        at = places[trials.index(leader)]
        axes.scatter([at], [leader.outcome.ndcg], s=110, marker="*", color=_BEST, label="best", zorder=3)


def _group(trial: Trial) -> str:
    return "finished" if trial.outcome.end == "complete" else "stopped early"
