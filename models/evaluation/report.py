"""An evaluation as one HTML page: figures, plots, and what the release was made of. Nothing outside it is needed."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined

from engine.releases.bundles import Bundle
from engine.settings.sections import Settings
from models.evaluation import plots
from models.evaluation.evaluate import training_report
from models.evaluation.plots import Axis
from models.evaluation.ranking_metrics import ACCURACY, FIGURES, HEADINGS
from models.evaluation.release_under_test import RELEASE

_TEMPLATE: Final = "report.html"
_PLOTTED: Final = ("hr10", "ndcg10")
_USED_SECTIONS: Final = ("windows", "index", "recommendations")
"""Settings of the engine that the answers depend on."""
_MINUTE_S: Final = 60.0
_LAST: Final = "Each user's newest event, from the window of all before it."


@dataclass(frozen=True, slots=True)
class Chart:
    """A plot with its title, what to see in it, and its numbers."""

    title: str
    note: str
    svg: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def render(evaluation: Mapping[str, Any], bundle: Bundle, settings: Settings) -> str:
    """The page for what `models.evaluation.evaluate.evaluate` found out about `bundle`."""
    trained, manifest = training_report(bundle), bundle.manifest
    page = Environment(
        loader=PackageLoader("models.evaluation", ""), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    ).get_template(_TEMPLATE)
    return page.render(
        manifest=manifest,
        created=_utc(manifest.created_ms),
        same_data=_same_data(evaluation, trained),
        fingerprints={"trained on": trained.get("data_fingerprint"), "asked about": evaluation["data_fingerprint"]},
        headings=[HEADINGS[figure] for figure in FIGURES],
        splits=[_split("Leave-last-out", evaluation), _split("Time split", evaluation["time_split"])],
        learning=_learning(trained.get("validations", [])),
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
    question = f"Every event from {_utc(from_ms)} on, from the window of all before it." if from_ms else _LAST
    charts = [
        _leads(name, split["baselines"]),
        _by(name, "length of history", "events of the user before the target", split["by_history"]),
        _by(name, "age of the item", "time since the item's first event (new: none before)", split["by_item_age"]),
        _interests(name, split["interests_in_use"]),
    ]
    if split["index"]["kind"] != "exact":
        charts.append(_recall(name, split["index"]))
    return {
        "name": name,
        "figures": split,
        "question": f"{question} Only items with {least} events to learn from." if least else question,
        "systems": list(_contestants(split)),
        "charts": charts,
    }


def _contestants(split: Mapping[str, Any]) -> Iterator[tuple[str, str, list[tuple[str, str]]]]:
    """Rows of the table: name, kind of row, and value and interval of each figure."""
    yield RELEASE, "ours", [_cell(split, figure) for figure in FIGURES]
    for name, baseline in split["baselines"].items():
        yield name, "baseline", [_cell(baseline, figure) for figure in FIGURES]
        lead = [_cell(baseline["lead"], figure) for figure in ACCURACY]
        yield "release leads by", "lead", [*lead, *[("", "")] * (len(FIGURES) - len(ACCURACY))]


def _leads(split: str, baselines: Mapping[str, Any]) -> Chart:
    title = "Lead over each baseline"
    series = {HEADINGS[figure]: [_point(one["lead"], figure) for one in baselines.values()] for figure in _PLOTTED}
    along = Axis("release minus baseline, on the same targets")
    return Chart(
        title,
        "With the 95 % interval over users: where it leaves out 0, the difference is more than chance.",
        plots.leads(f"{split}: {title}", list(baselines), series, along),
        ["baseline", *series],
        [[name, *(_text(one["lead"], figure) for figure in _PLOTTED)] for name, one in baselines.items()],
    )


def _by(split: str, what: str, across: str, rows: Sequence[Mapping[str, Any]]) -> Chart:
    title = f"Accuracy by {what}"
    series = {HEADINGS[figure]: [_point(row, figure) for row in rows] for figure in _PLOTTED}
    labels = [f"{row['label']}\n{row['targets']:,}" for row in rows]
    axes = Axis(f"{across},\nand number of targets"), Axis("accuracy (0 to 1)")
    return Chart(
        title,
        "With 95 % intervals over users.",
        plots.points(f"{split}: {title}", labels, series, *axes),
        [across, "targets", "users", *series],
        [
            [row["label"], f"{row['targets']:,}", f"{row['users']:,}", *(_text(row, figure) for figure in _PLOTTED)]
            for row in rows
        ],
    )


def _interests(split: str, in_use: Mapping[str, Any]) -> Chart:
    title = "Interests in use"
    lists, places = _shares(in_use["lists"]), _shares(in_use["places"])
    counts, numbers = [str(count) for count in range(len(lists))], [str(place) for place in range(len(places))]
    panels = [
        (counts, lists, Axis("interests behind a list"), Axis("share of lists", share=True)),
        (numbers, places, Axis("number of the interest"), Axis("share of places", share=True)),
    ]
    effective = "none" if in_use["effective"] is None else f"{in_use['effective']:.2f}"
    return Chart(
        title,
        f"Which interests found the first ten places. Effective number, mean over lists: {effective} of {len(places)}.",
        plots.bars(f"{split}: {title}", panels),
        ["number", "lists with so many interests", "places of the interest so numbered"],
        [
            [count, f"{share:.1%}", f"{places[row]:.1%}" if row < len(places) else ""]
            for row, (count, share) in enumerate(zip(counts, lists, strict=True))
        ],
    )


def _recall(split: str, index: Mapping[str, Any]) -> Chart:
    title = "Recall of the index"
    found = index["recall_by_rank"]
    ranks = list(range(1, len(found) + 1))
    panel = (ranks, found, Axis("share found by HNSW", share=True))
    recall = "not measured" if index["recall"] is None else f"{index['recall']:.2%}"
    return Chart(
        title,
        f"How many of the items nearest to an interest the index finds, against an exact search: {recall} of the first"
        f" {len(found)}, over {index['searches']:,} searches of this evaluation.",
        plots.lines(f"{split}: {title}", Axis("rank of the item by exact search"), [panel]),
        ["rank", "share found"],
        [[str(rank), f"{share:.2%}"] for rank, share in zip(ranks, found, strict=True)],
    )


def _learning(rounds: Sequence[Mapping[str, Any]]) -> Chart | None:
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
        f"{len(rounds)} validations; the weights of the best one were kept.",
        plots.lines(title, Axis("minutes of training"), panels),
        ["step", "minutes", "loss", "validation NDCG"],
        [
            [f"{entry['step']:,}", f"{minute:.1f}", f"{entry['loss']:.3f}", f"{entry['ndcg']:.4f}"]
            for entry, minute in zip(rounds, minutes, strict=True)
        ],
    )


def _cell(figures: Mapping[str, Any], figure: str) -> tuple[str, str]:
    """A value and its interval, as text."""
    value, interval = figures[figure], figures["intervals"].get(figure)
    ends = f"{interval[0]:.4f} to {interval[1]:.4f}" if interval else ""
    return "–" if value is None else f"{value:.4f}", ends  # noqa: RUF001 - a dash for nothing


def _text(figures: Mapping[str, Any], figure: str) -> str:
    value, ends = _cell(figures, figure)
    return f"{value} ({ends})" if ends else value


def _point(figures: Mapping[str, Any], figure: str) -> tuple[float, tuple[float, float] | None]:
    return figures[figure], figures["intervals"].get(figure)


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
