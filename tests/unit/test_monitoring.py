"""Dashboards, rules and alerts: up to date, complete, and right in what fires them."""

import json
import re
import shutil
import subprocess
from typing import Any

import pytest
import yaml
from prometheus_client import generate_latest

from deploy.monitoring import rules
from deploy.monitoring.__main__ import ROOT, generated
from deploy.monitoring.dashboards import DASHBOARDS, OVERVIEW
from deploy.monitoring.metrics_page import metrics_of
from deploy.monitoring.panels import Dashboard
from deploy.monitoring.series import PROCESS, SOURCES, M, name

PROMETHEUS = ROOT / "deploy" / "prometheus"
CASES = sorted(PROMETHEUS.glob("tests*.yml"))
GRAFANA = ROOT / "deploy" / "grafana"

needs_promtool = pytest.mark.skipif(not shutil.which("promtool"), reason="needs promtool: apt-get install prometheus")
each_dashboard = pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda dashboard: dashboard.slug)


def every_query() -> list[str]:
    panels = [query.text for dashboard in DASHBOARDS for panel in dashboard.panels for query in panel.queries]
    return [*panels, *(rule.query for rule in rules.RECORDED), *(alert.query for alert in rules.ALERTS)]


def test_generated_files_are_up_to_date() -> None:
    for path, text in generated().items():
        assert (ROOT / path).read_text() == text, f"{path} is out of date: python -m deploy.monitoring"


def test_every_series_in_a_query_is_one_of_a_metric() -> None:
    known = {name(metric) for source in SOURCES.values() for metric in metrics_of(source)}
    for query in every_query():
        plain = re.sub(r"[\w]+:headrace_[\w:]+", "", query)
        for series in re.findall(r"\bheadrace_\w+", plain):
            assert re.sub(r"_(bucket|sum|count)$", "", series) in known or series in known, series
        assert set(re.findall(r"\bprocess_\w+", plain)) <= {*PROCESS}


def test_every_metric_is_on_a_dashboard() -> None:
    text = "\n".join(every_query())
    metrics = [metric for source in SOURCES.values() for metric in metrics_of(source)]
    missing = [name(metric) for metric in metrics if name(metric) not in text]
    assert missing == []


@each_dashboard
def test_a_dashboard_says_what_it_shows(dashboard: Dashboard) -> None:
    titles = [panel.title for panel in dashboard.panels]
    assert len(titles) == len(set(titles)) >= 8
    for panel in dashboard.panels:
        assert panel.description.endswith("."), panel.title
        assert panel.queries
        assert panel.unit in {"short", "s", "cps", "percentunit", "bytes"}
    plain: dict[str, Any] = json.loads((GRAFANA / "dashboards" / f"{dashboard.slug}.json").read_text())
    places = [(box["x"], box["y"], box["w"], box["h"]) for box in (panel["gridPos"] for panel in plain["panels"])]
    cells = [(x + i, y + j) for x, y, width, height in places for i in range(width) for j in range(height)]
    assert len(cells) == len(set(cells)), "panels cover one another"
    assert max(x for x, _ in cells) < 24
    assert len({panel["id"] for panel in plain["panels"]}) == len(plain["panels"])


def test_the_first_row_answers_an_operators_first_questions() -> None:
    first = OVERVIEW.rows[0].panels
    assert sum(panel.width for panel in first) == 24
    assert all(panel.kind == "stat" for panel in first)


def test_grafana_finds_the_dashboards_and_the_source() -> None:
    (provider,) = yaml.safe_load((GRAFANA / "provisioning/dashboards/headrace.yaml").read_text())["providers"]
    (source,) = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yaml").read_text())["datasources"]
    scrapes = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    assert provider["type"] == "file"
    assert source["jsonData"]["timeInterval"] == scrapes["global"]["scrape_interval"]
    assert {job["job_name"] for job in scrapes["scrape_configs"]} == {rules.JOB}


def test_every_alert_has_a_case_and_an_entry_in_the_runbook() -> None:
    cases = [case for path in CASES for case in yaml.safe_load(path.read_text())["tests"]]
    fired = {case["alertname"] for group in cases for case in group["alert_rule_test"] if case["exp_alerts"]}
    headings = re.findall(r"^### (\w+)$", (ROOT / "docs" / "runbook.md").read_text(), re.MULTILINE)
    names = [alert.name for alert in rules.ALERTS]
    assert fired == set(names)
    assert headings == names


@needs_promtool
def test_alerts_fire_when_they_should_and_only_then() -> None:
    done = promtool("test", "rules", *map(str, CASES))
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_prometheus_takes_its_settings() -> None:
    done = promtool("check", "config", str(PROMETHEUS / "prometheus.yml"))
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_promtool_finds_nothing_wrong_with_the_metrics() -> None:
    M.dead_letters.labels("unparsable").inc()
    done = promtool("check", "metrics", text=generate_latest(M.registry).decode())
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def promtool(*arguments: str, text: str | None = None) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["promtool", *arguments], input=text, capture_output=True, text=True, check=False)
