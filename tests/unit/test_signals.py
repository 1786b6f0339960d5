"""Signals that end a service."""

import signal
import subprocess
import sys

SCRIPT = """
import signal
from engine.cli.options import stop_on_signals

stop = stop_on_signals()
with stop._cond:  # what a main thread holds that waits for the event
    signal.raise_signal(signal.{name})
raise SystemExit(0 if stop.wait(30) else 1)
"""


def test_a_signal_that_comes_while_the_main_thread_waits_blocks_nobody() -> None:
    for name in ("SIGTERM", "SIGINT"):
        script = SCRIPT.format(name=name)
        done = subprocess.run([sys.executable, "-c", script], timeout=60, check=False)
        assert done.returncode == 0, signal.Signals[name]
