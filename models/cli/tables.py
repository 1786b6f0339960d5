"""Tables of evaluations, comparisons and re-scorings: figures with their intervals or their spread over seeds."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from rich.box import SIMPLE
from rich.table import Table

from models.evaluation.ranking_metrics import ACCURACY_METRICS, METRIC_TITLES, METRICS

_LEAD: Final = "* a lead whose interval does not contain 0"
_BACKTESTED: Final = {
    "retrained": "pushed, retraining",
    "first_release": "pushed, first release",
    "popularity_7d": "popularity",
    "item_knn": "item-kNN, live",
    "session_knn": "session-kNN, live",
}
"""Titles of the systems of a backtest by pushed lists."""
_AT_CLICK: Final = {
    "popularity_7d_at_click": "popularity, at the click",
    "item_knn_at_click": "item-kNN, at the click",
    "session_knn_at_click": "session-kNN, at the click",
}
"""Titles of its rivals by lists made at the click."""


def evaluation(title: str, split: Mapping[str, Any]) -> Table:
    """One split: a row for the release and one for each baseline, and the release's lead over each."""
    if split.get("reason"):
        return Table("", title=title, caption=f"no figures: {split['reason']}")
    caption = (
        f"{split['targets']} targets of {split['users']} users, {split['unknown_targets']} of them unknown to the"
        f" release{_item_filter(split)}; ± 95 % over users; {_LEAD}"
    )
    skipped = [f"{name} skipped: {reason}" for name, reason in split.get("skipped", {}).items()]
    verdict = [split["verdict"]] if "verdict" in split else []  # parts of a cold start have none
    caption = "\n".join([*verdict, caption, *skipped])
    table = _figures(title, caption)
    table.add_row("release", *_values(split, METRICS))
    if "pushed" in split:
        table.add_row("  as pushed, at the last click", *_values(split["pushed"], METRICS))
    for name, figures in split["baselines"].items():
        table.add_section()
        table.add_row(name, *_values(figures, METRICS))
        table.add_row("  release leads by", *_values(figures["lead"], ACCURACY_METRICS, star="*"))
    return table


def comparison(report: Mapping[str, Any]) -> Table:
    """A row for each system, and the lead of the reference over it."""
    rows = report["systems"]
    asked = [f"{row['targets']} targets of {row['users']} users{_item_filter(report)}" for row in rows.values()][:1]
    skipped = [f"{name} skipped: {reason}" for name, reason in report["skipped"].items()]
    times = "below the names: training by the clock and on the processor, diversity of the lists"
    read = f"± 95 % over users; of several seeds the mean, standard deviation σ, lowest and highest; {_LEAD}"  # noqa: RUF001
    early = [
        f"{name} ended early (seeds {_numbers(row['ended_early'])})" for name, row in rows.items() if row["ended_early"]
    ]
    table = _figures("", "\n".join([*asked, times, read, *early, *skipped]))
    for name, row in rows.items():
        seeds = f"\n  {len(row['seeds'])} seeds" if len(row["seeds"]) > 1 else ""
        trained = f"\n  {row['training_s']:.0f} s, CPU {row['training_cpu_s']:.0f} s"
        diversity = "" if row["diversity"] is None else f"\n  diversity {row['diversity']:.3f}"
        table.add_section()
        table.add_row(name + seeds + trained + diversity, *(_over_seeds(row["figures"][figure]) for figure in METRICS))
        if "lead" in row:
            table.add_row(f"  {report['reference']} leads by", *_leads(row["lead"]))
    return table


def rescoring(report: Mapping[str, Any]) -> Table:
    """A release without and with a re-scorer, and the lead of the second."""
    caption = f"{report['targets']} targets, {report['split'].replace('_', ' ')}; ± 95 % over users; {_LEAD}"
    table = _figures(f"{report['release']}, its best {report['settings']['candidates']} candidates re-scored", caption)
    table.add_row("without", *_values(report["without"], METRICS))
    table.add_row("with", *_values(report["with"], METRICS))
    table.add_section()
    table.add_row("  with leads by", *_values(report["lead"], ACCURACY_METRICS, star="*"))
    return table


def rescoring_cost(report: Mapping[str, Any]) -> Table:
    """Time of a list without and with a re-scorer."""
    table = Table("users in a batch", "µs per user without", "with", "ratio", title="Features to list, one thread")
    for users, row in report["cost"].items():
        table.add_row(users, f"{row['without_us']:.1f}", f"{row['with_us']:.1f}", f"{row['ratio']:.2f}")
    return table


def _numbers(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def _figures(title: str, caption: str, figures: Sequence[str] = METRICS) -> Table:
    """An empty table with a column for each figure."""
    table = Table(title=title, caption=caption, box=SIMPLE, padding=0)
    table.add_column("", no_wrap=True)
    for figure in figures:
        table.add_column(METRIC_TITLES[figure].replace(" ", "\n"), justify="right", no_wrap=True)
    return table


def _values(figures: Mapping[str, Any], names: Sequence[str], star: str = "") -> Iterable[str]:
    return (_cell(figures[name], figures["intervals"].get(name), star) for name in names)


def _leads(lead: Mapping[str, Any]) -> Iterable[str]:
    """A lead with its interval over users, and of several seeds how far apart they put it."""
    cells = _values(lead, ACCURACY_METRICS, star="*")
    if "deviations" not in lead:
        return cells
    deviations = (lead["deviations"][figure] for figure in ACCURACY_METRICS)
    return (f"{cell}\nσ {deviation:.4f}" for cell, deviation in zip(cells, deviations, strict=True))  # noqa: RUF001


def _item_filter(report: Mapping[str, Any]) -> str:
    least = report.get("min_item_events")
    return f", items with {least} training events or more" if least else ""


def _over_seeds(figure: Mapping[str, Any]) -> str:
    """A figure's mean, and below it its spread (`models.lab.comparison.compare.summary`)."""
    if "deviation" not in figure:
        return _cell(figure["mean"], figure["interval"])
    return f"{figure['mean']:.4f}\nσ {figure['deviation']:.4f}\n{figure['min']:.4f}\n..{figure['max']:.4f}"  # noqa: RUF001 - a sigma


def _cell(value: float | None, interval: Sequence[float] | None, star: str = "") -> str:
    """A value, and below it the half-width of its interval; the star if the interval does not contain 0."""
    if value is None:
        return "-"
    if interval is None:
        return f"{value:.4f}"
    low, high = interval
    mark = "" if low <= 0.0 <= high else star
    return f"{value:.4f}{mark}\n±{max(high - value, value - low):.4f}"


def backtest(report: Mapping[str, Any]) -> Table:
    """Next-click rates over the whole stream, and the lead of the lists with retraining."""
    caption = f"{report['judged']} next clicks; ± 95 % over users; {_LEAD}"
    table = _figures("Next clicks", caption, ACCURACY_METRICS)
    for name, figures in report["systems"].items():
        table.add_section()
        table.add_row((_BACKTESTED | _AT_CLICK)[name], *_values(figures, ACCURACY_METRICS))
        if "lead" in figures:
            table.add_row("  retraining leads by", *_values(figures["lead"], ACCURACY_METRICS, star="*"))
    return table


def backtest_parts(report: Mapping[str, Any]) -> Table:
    """HR@10 part by part, and what became of the retraining before each part."""
    outcomes = {row["after_part"] + 1: row["outcome"] for row in report["retrainings"]}
    unknown = "unknown: share of the clicks on items that the release does not know, and that the first did not"
    table = Table(title="HR@10 by part", caption=unknown, box=SIMPLE, padding=0)
    for title in ("part", "clicks\njudged", *_BACKTESTED.values(), "unknown\n(first)", "retraining\nbefore it"):
        table.add_column(title.replace(" ", "\n"), justify="right")
    for part in report["parts"]:
        rates = (_rate(part["systems"][name]["hr10"]) for name in _BACKTESTED)
        shares = f"{_rate(part['unknown_share'])}\n({_rate(part['first_release_unknown_share'])})"
        table.add_row(str(part["part"]), str(part["judged"]), *rates, shares, outcomes.get(part["part"], ""))
    return table


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
