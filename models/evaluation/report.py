"""HTML report of an evaluation: figures, plots and the release's training, in one file that loads nothing else."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined

from engine.releases.bundles import Bundle
from engine.settings.sections import Settings
from models.evaluation import plots
from models.evaluation.list_evaluation import PUSHED, RELEASE
from models.evaluation.plots import Axis
from models.evaluation.ranking_metrics import ACCURACY_METRICS, METRIC_TITLES, METRICS
from models.evaluation.release_under_test import training_report

_TEMPLATE: Final = "report.html"
_PLOTTED: Final = ("hr10", "ndcg10")
_USED_SECTIONS: Final = ("windows", "index", "recommendations")
"""Sections of the engine's settings that lists depend on."""
_MINUTE_S: Final = 60.0
_LAST_EVENTS: Final = "Each user's newest event, from the window of all before it."


@dataclass(frozen=True, slots=True)
class Chart:
    """A plot with its title, a note, and its numbers as a table."""

    title: str
    note: str
    svg: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def render(evaluation: Mapping[str, Any], bundle: Bundle, settings: Settings) -> str:
    """The page for a report of `models.evaluation.evaluate.evaluate` about `bundle`."""
    trained, manifest = training_report(bundle), bundle.manifest
    page = Environment(
        loader=PackageLoader("models.evaluation", ""), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    ).get_template(_TEMPLATE)
    return page.render(
        manifest=manifest,
        created=_utc(manifest.created_ms),
        same_data=_same_data(evaluation, trained),
        fingerprints={"trained on": trained.get("data_fingerprint"), "evaluated on": evaluation["data_fingerprint"]},
        headings=[METRIC_TITLES[metric] for metric in METRICS],
        splits=[_split("Leave-last-out", evaluation), _split("Time split", evaluation["time_split"])],
        learning_curve=_learning_curve(trained.get("validations", [])),
        settings={
            "Training": dict(_flat(trained.get("settings", {}))),
            "Engine": dict(_flat(settings.model_dump(mode="json", include=set(_USED_SECTIONS)))),
        },
    )


def _same_data(evaluation: Mapping[str, Any], trained: Mapping[str, Any]) -> str:
    if "privacy" in trained:
        return "not known, as the training was private"
    return "yes" if evaluation["data_fingerprint"] == trained.get("data_fingerprint") else "no"


def _split(name: str, split: Mapping[str, Any]) -> dict[str, Any]:
    if split.get("reason"):
        return {"name": name, "figures": split}
    from_ms, least = split.get("from_ms"), split["min_item_events"]
    targets = f"Every event from {_utc(from_ms)} on, from the window of all before it." if from_ms else _LAST_EVENTS
    charts = [
        _lead_chart(name, split["baselines"]),
        _breakdown_chart(name, "length of history", "events of the user before the target", split["by_history"]),
        _breakdown_chart(
            name, "age of the item", "time since the item's first event (new: none before)", split["by_item_age"]
        ),
        _interests_chart(name, split["interests_in_use"]),
    ]
    if split["index"]["kind"] != "exact":
        charts.append(_recall_chart(name, split["index"]))
    return {
        "name": name,
        "figures": split,
        "targets": f"{targets} Only items with at least {least} training events." if least else targets,
        "rows": list(_table_rows(split)),
        "charts": charts,
    }


def _table_rows(split: Mapping[str, Any]) -> Iterator[tuple[str, str, list[tuple[str, str]]]]:
    """Rows of the table: name, kind of row, and value and interval of each metric."""
    yield RELEASE, "release", [_cell(split, metric) for metric in METRICS]
    if PUSHED in split:
        yield "as pushed, at the last click", "lead", [_cell(split[PUSHED], metric) for metric in METRICS]
    for name, baseline in split["baselines"].items():
        yield name, "baseline", [_cell(baseline, metric) for metric in METRICS]
        lead = [_cell(baseline["lead"], metric) for metric in ACCURACY_METRICS]
        yield "release leads by", "lead", [*lead, *[("", "")] * (len(METRICS) - len(ACCURACY_METRICS))]


def _lead_chart(split: str, baselines: Mapping[str, Any]) -> Chart:
    title = "Lead over each baseline"
    leads = {name: baseline["lead"] for name, baseline in baselines.items()}
    series = {METRIC_TITLES[metric]: [_point(lead, metric) for lead in leads.values()] for metric in _PLOTTED}
    x_axis = Axis("release minus baseline, on the same targets")
    return Chart(
        title,
        "With 95 % intervals over users: where one excludes 0, the difference is more than chance.",
        plots.leads(f"{split}: {title}", list(leads), series, x_axis),
        ["baseline", *series],
        [[name, *(_text(lead, metric) for metric in _PLOTTED)] for name, lead in leads.items()],
    )


def _breakdown_chart(split: str, criterion: str, x_title: str, rows: Sequence[Mapping[str, Any]]) -> Chart:
    title = f"Accuracy by {criterion}"
    series = {METRIC_TITLES[metric]: [_point(row, metric) for row in rows] for metric in _PLOTTED}
    labels = [f"{row['label']}\n{row['targets']:,}" for row in rows]
    axes = Axis(f"{x_title},\nand number of targets"), Axis("accuracy (0 to 1)")
    return Chart(
        title,
        "With 95 % intervals over users.",
        plots.points(f"{split}: {title}", labels, series, *axes),
        [x_title, "targets", "users", *series],
        [
            [row["label"], f"{row['targets']:,}", f"{row['users']:,}", *(_text(row, metric) for metric in _PLOTTED)]
            for row in rows
        ],
    )


def _interests_chart(split: str, in_use: Mapping[str, Any]) -> Chart:
    title = "Interests in use"
    lists, positions = _shares(in_use["lists"]), _shares(in_use["positions"])
    counts, interests = [str(count) for count in range(len(lists))], [str(index) for index in range(len(positions))]
    panels = [
        (counts, lists, Axis("interests used in a list"), Axis("share of lists", share=True)),
        (interests, positions, Axis("interest"), Axis("share of positions", share=True)),
    ]
    effective = "none" if in_use["effective"] is None else f"{in_use['effective']:.2f}"
    return Chart(
        title,
        "Interests that found the items in the first ten positions. Effective number, mean over lists:"
        f" {effective} of {len(positions)}.",
        plots.bars(f"{split}: {title}", panels),
        ["number", "lists using this number of interests", "positions from the interest with this number"],
        [
            [count, f"{share:.1%}", f"{positions[row]:.1%}" if row < len(positions) else ""]
            for row, (count, share) in enumerate(zip(counts, lists, strict=True))
        ],
    )


def _recall_chart(split: str, index: Mapping[str, Any]) -> Chart:
    title = "Recall of the index"
    recalls = index["recall_by_rank"]
    ranks = list(range(1, len(recalls) + 1))
    panel = (ranks, recalls, Axis("share found by HNSW", share=True))
    recall = "not measured" if index["recall"] is None else f"{index['recall']:.2%}"
    return Chart(
        title,
        f"Share of the items nearest to an interest that the index finds, compared with an exact search: {recall} of"
        f" the first {len(recalls)}, over {index['searches']:,} searches of this evaluation.",
        plots.lines(f"{split}: {title}", Axis("rank of the item in the exact search"), [panel]),
        ["rank", "share found"],
        [[str(rank), f"{share:.2%}"] for rank, share in zip(ranks, recalls, strict=True)],
    )


def _learning_curve(rounds: Sequence[Mapping[str, Any]]) -> Chart | None:
    """The learning curve; None where the release's report has none."""
    if not rounds:
        return None
    title = "Learning curve"
    minutes = [entry["elapsed_s"] / _MINUTE_S for entry in rounds]
    losses, ndcgs = [entry["loss"] for entry in rounds], [entry["ndcg"] for entry in rounds]
    panels = [
        (minutes, losses, Axis("training loss (nats)")),
        (minutes, ndcgs, Axis("validation NDCG (0 to 1)")),
    ]
    return Chart(
        title,
        f"{len(rounds)} validations; the release has the weights of the best one.",
        plots.lines(title, Axis("minutes of training"), panels),
        ["step", "minutes", "loss", "validation NDCG"],
        [
            [f"{entry['step']:,}", f"{minute:.1f}", f"{entry['loss']:.3f}", f"{entry['ndcg']:.4f}"]
            for entry, minute in zip(rounds, minutes, strict=True)
        ],
    )


def _cell(figures: Mapping[str, Any], metric: str) -> tuple[str, str]:
    """A value and its interval, as text."""
    value, interval = figures[metric], figures["intervals"].get(metric)
    ends = f"{interval[0]:.4f} to {interval[1]:.4f}" if interval else ""
    return "–" if value is None else f"{value:.4f}", ends  # noqa: RUF001 - a dash for an undefined value


def _text(figures: Mapping[str, Any], metric: str) -> str:
    value, ends = _cell(figures, metric)
    return f"{value} ({ends})" if ends else value


def _point(figures: Mapping[str, Any], metric: str) -> tuple[float, tuple[float, float] | None]:
    return figures[metric], figures["intervals"].get(metric)


def _shares(counts: Sequence[int]) -> list[float]:
    return [count / max(sum(counts), 1) for count in counts]


def _utc(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Settings by their full names: `encoder.heads` and so on."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", "none" if value is None else str(value)
