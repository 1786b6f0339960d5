"""Requests a second and latency of `headrace serve` on one core, measured by wrk on another one.

    LONG_TESTS=1 pytest -s tests/benchmarks/test_serve_load.py

2,000 shoppers of the demo, its release (1,998 items), lists of twenty. Computed lists are measured at saturation, at
half of it, and with ten times the connections that saturate.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import Report

IS_LONG = os.environ.get("LONG_TESTS") == "1"
SECONDS = 10 if IS_LONG else 2
SERVER_CORE, CLIENT_CORE = 0, 1
pytestmark = [
    pytest.mark.skipif(not IS_LONG, reason="a measurement of a minute: LONG_TESTS=1"),
    pytest.mark.skipif(not shutil.which("wrk"), reason="measures with wrk: apt-get install wrk"),
]

USERS = """
users = {}
for user in io.lines("%s") do table.insert(users, user) end
"""
STORED = """
request = function()
  return wrk.format("GET", "/v1/list?user=" .. users[math.random(#users)])
end
"""
COMPUTED = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
request = function()
  return wrk.format(nil, "/v1/lists", nil, '{"user": "' .. users[math.random(#users)] .. '"}')
end
"""
COUNTED = """
local threads = {}
function setup(thread) table.insert(threads, thread) end
function init(args) shed = 0; failed = 0; served = 0 end
function response(status)
  if status == 200 then served = served + 1 elseif status == 503 then shed = shed + 1 else failed = failed + 1 end
end
function done()
  for _, thread in ipairs(threads) do
    local counts = { thread:get("served"), thread:get("shed"), thread:get("failed") }
    io.write(string.format("served %d shed %d failed %d\\n", unpack(counts)))
  end
end
"""


@dataclass(frozen=True)
class Target:
    """A server, and a file with the users that it knows."""

    address: str
    users: Path
    process: int

    def cpu_s(self) -> float:
        """CPU time of the server so far."""
        fields = Path(f"/proc/{self.process}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    users = tmp_path_factory.mktemp("load") / "users"
    command = [sys.executable, "-m", "tests.benchmarks.serve_process", str(20 * SECONDS + 60), str(SERVER_CORE)]
    with subprocess.Popen([*command, users], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield Target(process.stdout.readline().strip(), users, process.pid)
        process.terminate()


class Load:
    """One run of wrk."""

    def __init__(self, folder: Path, target: Target, script: str, connections: int, delay_ms: int = 0) -> None:
        file = folder / "load.lua"
        delay = f"function delay() return math.random(0, {2 * delay_ms}) end" if delay_ms else ""
        file.write_text("\n".join([USERS % target.users, script, delay, COUNTED]))
        command = ["taskset", "-c", str(CLIENT_CORE), "wrk", "-t1", f"-c{connections}", f"-d{SECONDS}s", "--latency"]
        began_s = target.cpu_s()
        self.text = subprocess.run(
            [*command, "-s", str(file), target.address], capture_output=True, text=True, check=True, timeout=120
        ).stdout
        self.cpu_s = target.cpu_s() - began_s

    @property
    def per_cpu_s(self) -> float:
        """Requests that a core of the server's own would have answered in a second."""
        return round((self.served + self.shed) / self.cpu_s)

    @property
    def per_s(self) -> float:
        return self._number(r"Requests/sec:\s+([\d.]+)")

    @property
    def served(self) -> int:
        return int(self._number(r"served (\d+)"))

    @property
    def shed(self) -> int:
        return int(self._number(r"shed (\d+)"))

    @property
    def failed(self) -> int:
        return int(self._number(r"failed (\d+)"))

    def percentile_ms(self, percent: int) -> float:
        match = re.search(rf"^\s+{percent}%\s+([\d.]+)(us|ms|s)$", self.text, re.MULTILINE)
        assert match, self.text
        return float(match[1]) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[match[2]]

    def _number(self, pattern: str) -> float:
        match = re.search(pattern, self.text)
        assert match, self.text
        return float(match[1])


def test_stored_lists(target: Target, tmp_path: Path, report: Report) -> None:
    load = Load(tmp_path, target, STORED, connections=16)
    figures = {
        "per_s": load.per_s,
        "per_cpu_s": load.per_cpu_s,
        "p50_ms": load.percentile_ms(50),
        "p99_ms": load.percentile_ms(99),
    }
    report(f"stored lists: {figures}", figures)
    assert load.failed == load.shed == 0


def test_computed_lists(target: Target, tmp_path: Path, report: Report) -> None:
    full = Load(tmp_path, target, COMPUTED, connections=64)
    connections = 64
    half = Load(tmp_path, target, COMPUTED, connections, delay_ms=round(1000 * connections / (full.per_s / 2)))
    flood = Load(tmp_path, target, COMPUTED, connections=640)
    after = Load(tmp_path, target, COMPUTED, connections=4)
    figures = {
        "saturated_per_s": full.per_s,
        "saturated_per_cpu_s": full.per_cpu_s,
        "half_per_s": half.per_s,
        "half_p50_ms": half.percentile_ms(50),
        "half_p99_ms": half.percentile_ms(99),
        "flood_served_per_s": flood.served / SECONDS,
        "flood_shed_per_s": flood.shed / SECONDS,
        "after_flood_p99_ms": after.percentile_ms(99),
    }
    report(f"computed lists: {figures}", figures)
    assert full.failed == half.failed == flood.failed == after.failed == 0
    assert flood.shed > 0
    assert half.shed == after.shed == 0
