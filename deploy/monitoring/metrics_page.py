"""The tables of docs/metrics.md: every metric of each program, and the rules and alerts that read them."""

import re
from collections.abc import Iterator
from typing import Final

from prometheus_client import Counter, Histogram

from deploy.monitoring.rules import ALERTS, RECORDED
from deploy.monitoring.series import SOURCES, AnyMetric, M, name

_TABLE: Final = re.compile(r"(<!-- table ([\w ]+) -->\n)(?:\n?\|.*\n)*")


def rendered(page: str) -> str:
    """A page with all of its tables up to date; a line `<!-- table NAME -->` comes before each."""
    return _TABLE.sub(lambda match: f"{match[1]}\n{_tables()[match[2]]}\n", page)


def metrics_of(source: object) -> list[AnyMetric]:
    """The metrics among the attributes of an object, by name."""
    return sorted((value for value in vars(source).values() if isinstance(value, AnyMetric)), key=name)


def _tables() -> dict[str, str]:
    sources = {program: "\n".join(_metric_rows(source)) for program, source in SOURCES.items()}
    recorded = ["| series | query |", "|---|---|", *(f"| `{rule.name}` | `{rule.query}` |" for rule in RECORDED)]
    alerts = ["| alert | fires when | for | severity |", "|---|---|---|---|", *_alert_rows()]
    return sources | {"recording rules": "\n".join(recorded), "alerts": "\n".join(alerts)}


def _metric_rows(source: object) -> Iterator[str]:
    yield from ("| metric | kind | labels | |", "|---|---|---|---|")
    for metric in metrics_of(source):
        if source is not M and name(metric) in {name(shared) for shared in metrics_of(M)}:
            continue
        labels = ", ".join(f"`{label}`" for label in metric._labelnames)  # noqa: SLF001
        yield f"| `{name(metric)}` | {_kind(metric)} | {labels} | {metric._documentation} |"  # noqa: SLF001


def _kind(metric: AnyMetric) -> str:
    if isinstance(metric, Counter):
        return "counter"
    return "histogram" if isinstance(metric, Histogram) else "gauge"


def _alert_rows() -> Iterator[str]:
    for alert in ALERTS:
        link = f"[{alert.name}](runbook.md#{alert.name.lower()})"
        query = alert.query.replace("|", "\\|")
        yield f"| {link} | `{query}` | {alert.lasts} | {alert.severity} |"
