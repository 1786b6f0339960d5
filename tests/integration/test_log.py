"""The log of a worker: a line for an event of the session, one for a batch at debug, never one for a click, no ids."""

import json
import logging
import subprocess
import sys
import threading

import pytest

from engine.cli import log_lines
from engine.eventlog import topic_plan
from engine.eventlog.base import Outgoing
from engine.eventlog.memory.log import MemoryLog
from engine.metrics import Metrics
from engine.settings.sections import Settings
from engine.worker.loop import Worker
from producers.demo.bundled import DEMO_RELEASE
from tests.waiting import LIMIT_S, until

CLICKS = 600
USERS = 50


def message(click: int) -> bytes:
    return json.dumps({"user": f"person-{click % USERS}", "item": "i1", "ts": 1_700_000_000_000 + click}).encode()


@pytest.fixture
def metrics(caplog: pytest.LogCaptureFixture) -> Metrics:
    """Those of a worker that had clicks, some under a wrong key, garbage, and rubbish on its changelog."""
    caplog.set_level(logging.DEBUG, "engine")
    settings = Settings.model_validate({"windows": {"max_users": 100}, "releases": {"path": DEMO_RELEASE}})
    log, metrics, stop = MemoryLog(), Metrics(), threading.Event()
    log.ensure_topics([*topic_plan.whole(settings, 3)])
    log.producer().send(Outgoing("windows", [b"person-1"], [b"rubbish"], partitions=[1]))
    thread = threading.Thread(target=Worker(settings, log, metrics).run, args=[stop])
    thread.start()
    for start in range(0, CLICKS, 100):
        clicks = range(start, start + 100)
        keys: list[bytes | None] = [f"session-{click}".encode() for click in clicks]
        log.producer().send(Outgoing("clicks", keys, [message(click) for click in clicks]))
        log.producer().send(Outgoing("clicks", [b"person-2"], [b'{"user": "person-2", "ts": "person-2"}']))
    until(lambda: (metrics.registry.get_sample_value("headrace_clicks_total") or 0) >= CLICKS)
    stop.set()
    thread.join(LIMIT_S)
    return metrics


def test_lines_of_a_worker_at_work(metrics: Metrics, caplog: pytest.LogCaptureFixture) -> None:
    lines = [record for record in caplog.get_records("setup") if record.name.startswith("engine.")]
    above_debug = [record.getMessage() for record in lines if record.levelno > logging.DEBUG]
    assert [line for line in above_debug if "person-" in line] == []
    assert any("is set aside" in line for line in above_debug)
    assert any("are not keyed by user" in line for line in above_debug)
    assert any(line.startswith("assigned: ") for line in above_debug)
    assert len(above_debug) < 20
    batches = metrics.registry.get_sample_value("headrace_batch_clicks_count")
    assert sum(record.getMessage().startswith("batch: ") for record in lines) == batches
    assert len(lines) - len(above_debug) < 3 * (batches or 0) + 20 < CLICKS


def test_json_lines_are_objects_with_what_is_the_same_on_each() -> None:
    settings = Settings.model_validate(
        {"kafka": {"prefix": "shop", "static_member": "w-0"}, "telemetry": {"log_format": "json"}}
    )
    formatter = log_lines.formatter(settings)
    try:
        int("of no use")
    except ValueError:
        record = logging.LogRecord("engine.x", logging.WARNING, "x.py", 1, "%s\nis", ("é\u2028",), sys.exc_info())
    record.created = 1_700_000_000.25
    line = formatter.format(record)
    assert "\n" not in line
    fields = json.loads(line)
    assert fields.pop("error").endswith("with base 10: 'of no use'")
    assert fields == {
        "time": "2023-11-14T22:13:20.250+00:00",
        "level": "warning",
        "logger": "engine.x",
        "message": "é\u2028\nis",
        "deployment": "shop/shop.clicks",
        "worker": "w-0",
    }


def test_a_command_logs_as_the_settings_say() -> None:
    code = (
        "import logging; from engine.cli.options import log_to_stderr; from engine.settings import loader;"
        "log_to_stderr(loader.load()); logging.getLogger('engine.x').info('a line')"
    )
    environ = {"HEADRACE_TELEMETRY__LOG_FORMAT": "json", "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True)
    assert json.loads(done.stderr)["message"] == "a line"
