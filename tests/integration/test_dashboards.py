"""A real Prometheus scrapes a worker at work by the shipped settings, and every panel's query has data."""

import dataclasses
import json
import os
import shutil
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import pytest
import yaml

from deploy.monitoring import pictures, rules
from deploy.monitoring.__main__ import ROOT
from deploy.monitoring.dashboards import DASHBOARDS, RELEASE_CHANGES
from engine.eventlog.base import Outgoing, TopicSpec
from engine.eventlog.memory.log import MemoryLog
from engine.metrics import Metrics
from engine.settings.sections import Settings, TelemetrySettings, WindowSettings
from engine.worker import vitals
from engine.worker.loop import Worker
from engine.worker.telemetry import Telemetry
from producers.demo.run import demo_settings, demo_topics
from producers.replay.click_encoder import ClickEncoder
from producers.simulation.shoppers import Simulation, SimulationSettings
from producers.simulation.stream import events
from tests.conftest import Report, only_long
from tests.integration.broker import free_ports
from tests.waiting import LIMIT_S, until

pytestmark = pytest.mark.skipif(not shutil.which("prometheus"), reason="needs prometheus: apt-get install prometheus")

TICK_S = 0.1


UNEVENTFUL = {
    "Clicks, and as usual": "this run is minutes old, and knows no other day",
    "Canary under judgement": "there is no canary here",
    "Gain of the canary": "there is no canary here",
    "Gain by arm": "there is no canary here",
    "Lift by arm": "there is no experiment here",
    "Users by arm": "there is no experiment here",
    "Sample ratio": "there is no experiment here",
    "Last training that succeeded": "no retrainer is scraped here",
    "Next training": "no retrainer is scraped here",
}
"""Panels for which this run has no data, or not for each query, and why."""


class Prometheus:
    """A server with the shipped rules and scrape settings, but for addresses and intervals."""

    def __init__(self, folder: Path, target: int) -> None:
        self._folder = folder
        (self._port,) = free_ports(1)
        settings = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
        settings["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
        settings["rule_files"] = [str(ROOT / "deploy/prometheus" / name) for name in settings["rule_files"]]
        (job,) = settings["scrape_configs"]
        del job["dns_sd_configs"]
        job["static_configs"] = [{"targets": [f"127.0.0.1:{target}"]}]
        (folder / "prometheus.yml").write_text(yaml.safe_dump(settings))

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={self._folder}/prometheus.yml",
                f"--storage.tsdb.path={self._folder}/data",
                f"--web.listen-address=127.0.0.1:{self._port}",
                "--log.level=error",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._process.terminate()
        self._process.wait(20)

    def series(self, query: str, seconds: float) -> list[tuple[dict[str, str], list[tuple[float, float]]]]:
        """Labels, and times with values, over the last seconds."""
        end_s = time.time()
        parameters = {"query": query, "start": end_s - seconds, "end": end_s, "step": 1}
        address = f"http://127.0.0.1:{self._port}/api/v1/query_range?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(address, timeout=30) as answer:
            data: dict[str, Any] = json.load(answer)["data"]
        return [(each["metric"], [(at, float(value)) for at, value in each["values"]]) for each in data["result"]]

    def values(self, query: str) -> list[tuple[dict[str, str], float]]:
        """Labels and values of a query at this moment; none while the server is starting."""
        address = f"http://127.0.0.1:{self._port}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
        try:
            with urllib.request.urlopen(address, timeout=5) as answer:
                data: dict[str, Any] = json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            if error.code == 503:
                return []  # it reads its storage first
            raise AssertionError(f"{query}: {error.read().decode()}") from error
        except OSError:
            return []
        return [(series["metric"], float(series["value"][1])) for series in data["result"]]


@contextmanager
def running(metrics: Metrics) -> Iterator[int]:
    """A worker with shoppers, garbage and requests to forget on its topic; yields the port of its metrics."""
    plain = Settings(telemetry=TelemetrySettings(port=0), windows=WindowSettings(max_users=10_000))
    settings = demo_settings(plain)
    log, stop = MemoryLog(), threading.Event()
    log.ensure_topics([*(TopicSpec(topic, 2) for topic in demo_topics(settings)), TopicSpec(settings.releases.topic)])
    worker = Worker(settings, log, metrics)
    vitals.watch(worker, metrics)
    threads = [
        threading.Thread(target=worker.run, args=[stop]),
        threading.Thread(target=click, args=[settings, log, worker, stop]),
    ]
    with Telemetry(settings.telemetry, metrics.registry, lambda: None, lambda: worker.not_ready) as telemetry:
        for thread in threads:
            thread.start()
        try:
            until(lambda: worker.not_ready is None)
            yield telemetry.port
        finally:
            stop.set()
            for thread in threads:
                thread.join(LIMIT_S)


def click(settings: Settings, log: MemoryLog, worker: Worker, stop: threading.Event) -> None:
    """Send what is due, and with it a record that is no click, a click once more and a request to forget."""
    while worker.not_ready is not None and not stop.wait(TICK_S):
        pass
    shoppers = SimulationSettings(shoppers=100, clicks_per_s=200.0, new_items=0.0)
    simulation = Simulation(dataclasses.replace(shoppers, start_ms=round(time.time() * 1000)))
    encoder = ClickEncoder(settings.clicks)
    with log.producer() as producer:
        while not stop.wait(TICK_S):
            batch = simulation.advance_to(round(time.time() * 1000))
            if len(batch):
                outgoing = encoder.encode(events(simulation, batch))
                producer.send(outgoing)
                producer.send(Outgoing(outgoing.topic, outgoing.keys[:1], outgoing.values[:1]))
                producer.send(Outgoing(outgoing.topic, [outgoing.keys[-1], b"u"], [None, b"not a click"]))


def in_place(query: str) -> str:
    """A query as Grafana sends it when everything is selected."""
    values = {"$deployment": ".+", "$worker": ".+", "$__rate_interval": "15s", "$__interval": "15s"}
    for variable, value in values.items():
        query = query.replace(variable, value)
    return query


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    with ExitStack() as stack:
        port = stack.enter_context(running(Metrics()))
        server = stack.enter_context(Prometheus(tmp_path_factory.mktemp("prometheus"), port))
        until(lambda: server.values(rules.POPULAR.name) and server.values(rules.FRESHNESS_P99.name))
        yield server


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda dashboard: dashboard.slug)
def test_every_panel_has_data(prometheus: Prometheus, dashboard: Any, report: Report) -> None:
    with suppress(AssertionError):  # two scrapes or more, and the rules upon them
        until(lambda: not without_data(prometheus, dashboard))
    assert without_data(prometheus, dashboard, report) == []


def without_data(prometheus: Prometheus, dashboard: Any, report: Report = lambda *_: None) -> list[str]:
    empty = []
    for panel in dashboard.panels:
        for query in panel.queries:
            series = prometheus.values(in_place(query.text))
            report(f"{panel.title} | {query.legend}: {[round(value, 4) for _, value in series][:6]}", {})
            if not series and panel.title not in UNEVENTFUL:
                empty.append(f"{panel.title}: {query.text}")
    return empty


def test_what_the_first_row_says_is_so(prometheus: Prometheus) -> None:
    (ready,), (share,) = (
        [value for _, value in prometheus.values(query)] for query in ("sum(headrace_ready)", rules.DEAD_SHARE.name)
    )
    assert ready == 1
    assert 0 < share < 0.2
    until(lambda: prometheus.values(rules.LAG.name)[0][1] < 10)
    assert prometheus.values(in_place(RELEASE_CHANGES)) == []  # the release was there from the start


def test_choices_of_deployment_and_worker_come_from_labels_that_are_there(prometheus: Prometheus) -> None:
    ((labels, _),) = prometheus.values("headrace_ready")
    assert labels["deployment"] == "headrace"
    assert labels["instance"].startswith("127.0.0.1:")


def test_rules_are_evaluated_without_errors_and_no_alert_is_about_this_run(prometheus: Prometheus) -> None:
    failures = prometheus.values("sum(prometheus_rule_evaluation_failures_total)")
    assert sum(value for _, value in failures) == 0
    firing = {labels["alertname"] for labels, _ in prometheus.values('ALERTS{alertstate="firing"}')}
    assert firing == set()


@only_long
def test_pictures(prometheus: Prometheus, tmp_path: Path) -> None:
    """With PICTURES=FOLDER they are of two minutes, and stay there: PICTURES=docs/images."""
    folder = Path(os.environ.get("PICTURES", tmp_path))
    seconds = 120.0 if folder != tmp_path else 5.0
    time.sleep(seconds - 5.0)
    for dashboard in DASHBOARDS[:: 2 if folder != tmp_path else 4]:
        pictures.draw(
            dashboard, lambda query: prometheus.series(in_place(query), seconds), folder / f"{dashboard.slug}.png"
        )
        assert (folder / f"{dashboard.slug}.png").read_bytes().startswith(b"\x89PNG")
