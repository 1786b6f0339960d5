"""The report of a gate's decision: JSON for programs, a page for people."""

import html
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from engine.releases.bundles import Bundle
from engine.settings.sections import Settings
from models.evaluation.list_evaluation import RELEASE
from models.jobs.release_gate import GateDecision

logger = logging.getLogger(__name__)

REPORT: Final = "gate.json"
PAGE: Final = "gate.html"
_BODY: Final = "<body>"
_METRICS: Final = ("hr10", "ndcg10", "coverage")


def write(
    folder: Path, evaluation: Mapping[str, Any], decision: GateDecision, bundle: Bundle, settings: Settings
) -> None:
    """Write both; the page first, and only where matplotlib and jinja2 are installed, so that the JSON is the end."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        from models.evaluation import report  # noqa: PLC0415 - the decision needs no extra
    except ModuleNotFoundError as error:
        logger.info("no %s without %s: pip install 'headrace[report]'", PAGE, error.name)
    else:
        page = report.render(evaluation, bundle, settings)
        head, mark, rest = page.partition(_BODY)
        (folder / PAGE).write_text(f"{head}{mark}{_table(decision)}{rest}", encoding="utf-8")
    content = {**evaluation, "gate": {**msgspec.to_builtins(decision), "passed": decision.passed}}
    partial = folder / f".{REPORT}"
    partial.write_text(json.dumps(content, indent=1))
    partial.replace(folder / REPORT)


def summary(report: Mapping[str, Any], *, forced: bool) -> dict[str, Any]:
    """The part of gate.json that a bundle's manifest has under `provenance.gate`.

    Args:
        report: the content of gate.json.
        forced: whether the release goes live in spite of the gate.
    """
    split = report["time_split"]
    systems = {RELEASE: split, **split["baselines"]}
    return {
        "passed": report["gate"]["passed"],
        "forced": forced and not report["gate"]["passed"],
        "live_release": report["live_release"],
        "from_ms": split["from_ms"],
        "targets": split["targets"],
        "users": split["users"],
        "systems": {name: {metric: figures[metric] for metric in _METRICS} for name, figures in systems.items()},
        "leads": split["leads"],
        "checks": report["gate"]["checks"],
    }


def _table(decision: GateDecision) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(check.name)}</td><td>{'passed' if check.passed else 'refused'}</td>"
        f"<td style='text-align:left'>{html.escape(check.sentence)}</td></tr>"
        for check in decision.checks
    )
    answer = "may go live" if decision.passed else "does not go live"
    return f"<h2>Gate: this release {answer}</h2><table><tbody>{rows}</tbody></table>"
