"""The probes' server under connections that say nothing."""

import socket
import threading
import urllib.request
from contextlib import ExitStack
from pathlib import Path

from engine.metrics import Metrics
from engine.settings.sections import TelemetrySettings
from engine.worker.telemetry import Telemetry
from tests.waiting import LIMIT_S, until

IDLE = 500


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_500_idle_connections_take_neither_descriptors_nor_threads() -> None:
    settings = TelemetrySettings(host="127.0.0.1", port=0)
    with ExitStack() as stack:
        telemetry = stack.enter_context(Telemetry(settings, Metrics().registry, lambda: None, lambda: None))
        threads, files = threading.active_count(), open_files()
        for _ in range(IDLE):
            stack.enter_context(socket.create_connection(("127.0.0.1", telemetry.port), timeout=LIMIT_S))
        for path in ("metrics", "healthz"):
            with urllib.request.urlopen(f"http://127.0.0.1:{telemetry.port}/{path}", timeout=LIMIT_S) as answer:
                assert answer.status == 200
        until(lambda: open_files() - files - IDLE <= 40 and threading.active_count() - threads <= 40)
