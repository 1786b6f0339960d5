"""`headrace serve` as a process: how it starts, ends, and says what is wrong."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.waiting import LIMIT_S, until

COMMAND = [sys.executable, "-c", "from engine.cli.serve import serve; from engine.cli.main import main, headrace;"]
COMMAND[-1] += " headrace.add_command(serve); import click; headrace.get_command = lambda *_: serve; main()"


@contextmanager
def process(*arguments: str, **settings: str) -> Iterator[subprocess.Popen[str]]:
    environ = os.environ | {"HEADRACE_SERVE__PORT": "0", "HEADRACE_KAFKA__CONNECT_TIMEOUT_S": "1"} | settings
    command = [*COMMAND, "serve", *arguments]
    with subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True) as running:
        try:
            yield running
        finally:
            running.kill()


def address_of(running: subprocess.Popen[str]) -> str:
    assert running.stderr is not None
    for line in running.stderr:
        if "listening on " in line:
            return line.rpartition("listening on ")[2].strip()
    raise AssertionError("it ended before it listened")


def test_it_answers_without_a_broker_says_what_it_waits_for_and_ends_in_order(tiny_release: Path) -> None:
    with process("--release", str(tiny_release), HEADRACE_KAFKA__BOOTSTRAP_SERVERS="127.0.0.1:1") as running:
        address = address_of(running)
        assert httpx.get(f"{address}healthz").status_code == 200
        assert httpx.get(f"{address}readyz").status_code == 503
        until(lambda: httpx.get(f"{address}v1/popular").status_code == 200)  # for which the release is enough
        running.send_signal(signal.SIGTERM)
        assert running.wait(LIMIT_S) == 0


def test_a_release_that_is_none_ends_it_with_a_sentence(tmp_path: Path) -> None:
    with process("--release", str(tmp_path), HEADRACE_KAFKA__BOOTSTRAP_SERVERS="127.0.0.1:1") as running:
        _, errors = running.communicate(timeout=LIMIT_S)
    assert running.returncode == 2
    assert errors.splitlines()[-1].startswith("headrace: ")
    assert str(tmp_path) in errors.splitlines()[-1]
