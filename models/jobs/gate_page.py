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
from models.jobs.release_gate import GateDecision

logger = logging.getLogger(__name__)

REPORT: Final = "gate.json"
PAGE: Final = "gate.html"
_BODY: Final = "<body>"


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


def _table(decision: GateDecision) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(check.name)}</td><td>{'passed' if check.passed else 'refused'}</td>"
        f"<td style='text-align:left'>{html.escape(check.sentence)}</td></tr>"
        for check in decision.checks
    )
    answer = "may go live" if decision.passed else "does not go live"
    return f"<h2>Gate: this release {answer}</h2><table><tbody>{rows}</tbody></table>"
