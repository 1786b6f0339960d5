"""A worker with pseudonyms: no id in what it writes, and users who are shown and forgotten by their ids."""

import json
import threading
import time
from pathlib import Path

from engine.eventlog import topic_plan
from engine.eventlog.base import Outgoing
from engine.eventlog.memory.log import MemoryLog
from engine.ingest.pseudonyms import Pseudonyms
from engine.metrics import Metrics
from engine.settings.sections import Settings
from engine.worker import forgetting, user_report
from engine.worker.loop import Worker
from producers.demo.bundled import DEMO_RELEASE
from tests.waiting import LIMIT_S, until

ANN = "ann-whose-id-nobody-may-read"


def test_no_id_is_written_and_the_id_still_shows_and_forgets(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("x" * 40)
    settings = Settings.model_validate(
        {
            "clicks": {"pseudonym_key_file": tmp_path / "key"},
            "windows": {"max_users": 100},
            "snapshots": {"folder": tmp_path / "snapshots"},
            "releases": {"path": DEMO_RELEASE},
        }
    )
    log, metrics, stop = MemoryLog(), Metrics(), threading.Event()
    log.ensure_topics([*topic_plan.whole(settings, 2)])
    thread = threading.Thread(target=Worker(settings, log, metrics).run, args=[stop])
    thread.start()
    try:
        click = {"user": ANN, "item": "i1", "ts": round(time.time() * 1000)}
        log.producer().send(Outgoing("clicks", [ANN.encode()], [json.dumps(click).encode()]))
        until(lambda: metrics.registry.get_sample_value("headrace_lists_total") == 1)
        report = user_report.of_user(log, settings, ANN)
        assert [len(window.events or ()) for window in report.windows] == [1]
        assert len(report.lists) == 1
        assert metrics.registry.get_sample_value("headrace_misplaced_clicks_total", {"sign": "other_key"}) == 0
        assert ids_in(log, settings) == set()
        assert forgetting.forget(log, settings, ANN, LIMIT_S).answered
        assert [window.events for window in user_report.of_user(log, settings, ANN).windows] == [None] * 2
    finally:
        stop.set()
        thread.join(LIMIT_S)
    assert ANN.encode() not in b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def ids_in(log: MemoryLog, settings: Settings) -> set[str]:
    """Topics of windows and lists that hold the id, and those that do not hold its pseudonym."""
    held_as, wrong = Pseudonyms(settings.clicks).of(ANN).encode(), set()
    for topic in (settings.windows.topic, settings.recommendations.topic):
        with log.reader([topic]) as reader:
            records = [records for records in reader.poll(0.0, 1000) if len(records)]
        keys = {key for each in records for key in each.keys}
        if held_as not in keys or any(ANN.encode() in (value or b"") for each in records for value in each.values):
            wrong.add(topic)
        wrong |= {topic for key in keys if ANN.encode() in (key or b"")}
    return wrong
