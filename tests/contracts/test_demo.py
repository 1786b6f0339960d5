"""Promises of `headrace demo`, tested on the command itself, in a process of its own, with the bundled release."""

import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress

import pytest

from engine.errors import ReleaseError
from engine.eventlog.memory.log import MemoryLog
from engine.settings.sections import Settings
from engine.worker.loop import Worker
from producers.demo.run import Demo, demo_settings, demo_topics
from producers.simulation.shoppers import SimulationSettings

FIGURES = {
    "clicks",
    "lists",
    "freshness_p50_ms",
    "freshness_p99_ms",
    "next_click_hit_rate",
    "popularity_hit_rate",
    "dead_letters",
}


def start(*arguments: str, stdout: int = subprocess.PIPE) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", "from engine.cli.main import main; main()", "demo", *arguments]
    return subprocess.Popen(command, stdout=stdout, stderr=subprocess.PIPE, text=True)


def test_json_prints_one_object_and_nothing_else() -> None:
    output, errors = start("--seconds", "5", "--json").communicate(timeout=60)

    figures = json.loads(output)
    assert errors == ""
    assert figures.keys() == FIGURES
    assert figures["clicks"] > 500
    assert 0 < figures["lists"] <= figures["clicks"]
    assert figures["dead_letters"] == 0
    assert 0 < figures["freshness_p50_ms"] <= figures["freshness_p99_ms"]
    assert figures["next_click_hit_rate"] > 2 * figures["popularity_hit_rate"]


def test_the_screen_shows_lists_within_seconds() -> None:
    output, _ = start("--seconds", "4").communicate(timeout=60)

    assert "next click in top 10" in output
    assert "hidden interests" in output
    assert "release two-hop" in output


def test_a_worker_that_fails_ends_the_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_worker: Worker, _stop: threading.Event) -> None:
        raise ReleaseError("the bundle is gone")

    monkeypatch.setattr(Worker, "run", fail)
    settings = demo_settings(Settings())

    with pytest.raises(ReleaseError, match="the bundle is gone"):
        Demo(settings, SimulationSettings(shoppers=5), MemoryLog()).run(seconds=None)


def test_the_demo_has_topics_and_a_group_of_its_own() -> None:
    shop, demo = Settings(), demo_settings(Settings())

    assert {*demo_topics(demo), demo.releases.topic}.isdisjoint({*demo_topics(shop), shop.releases.topic})
    assert demo.kafka.group != shop.kafka.group


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_in_order_when_interrupted(number: signal.Signals) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background of a shell ignores SIGINT
    terminal, screen = os.openpty()
    with os.fdopen(terminal, "rb", buffering=0) as shown, start("--rate", "50", stdout=screen) as process:
        os.close(screen)
        while b"HEADRACE" not in shown.read(4_096):
            pass
        process.send_signal(number)
        with suppress(OSError):  # raised when the last writer has closed the terminal
            while shown.read(4_096):
                pass

    assert process.returncode == 0
