"""Writes every generated file.

    python -m deploy.monitoring

Grafana's dashboards, Prometheus' rules, and the tables of docs/metrics.md.
"""

import json
from pathlib import Path
from typing import Any, Final

import yaml

from deploy.monitoring import metrics_page, rules
from deploy.monitoring.dashboards import DASHBOARDS, EVERY_WORKER, RELEASE_CHANGES

ROOT: Final = Path(__file__).parents[2]
_HEAD: Final = "# Made by `python -m deploy.monitoring` from deploy/monitoring/rules.py; change it there.\n"
_PAGE: Final = Path("docs/metrics.md")


def generated(root: Path = ROOT) -> dict[Path, str]:
    """The text of every generated file, by its path in the checkout at `root`."""
    files = {
        Path(f"deploy/grafana/dashboards/{dashboard.slug}.json"): json.dumps(
            dashboard.rendered(EVERY_WORKER, RELEASE_CHANGES), indent=1
        )
        + "\n"
        for dashboard in DASHBOARDS
    }
    return files | {
        Path("deploy/prometheus/recorded.yml"): _as_yaml(rules.recording_rules()),
        Path("deploy/prometheus/alerts.yml"): _as_yaml(rules.alert_rules()),
        _PAGE: metrics_page.rendered((root / _PAGE).read_text(encoding="utf-8")),
    }


def _as_yaml(value: dict[str, Any]) -> str:
    return f"{_HEAD}{yaml.safe_dump(value, sort_keys=False, width=1000)}"


if __name__ == "__main__":
    for path, text in generated().items():
        (ROOT / path).write_text(text, encoding="utf-8")
