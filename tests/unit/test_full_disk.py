"""Disks that are full: what is evicted or saved is not lost, and the worker goes on. The limit on files is real."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

LIMITED = f"""
import logging, resource, signal, sys
from pathlib import Path
logging.basicConfig(format="%(levelname)s %(message)s")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4 << 20, {resource.RLIM_INFINITY}))
"""


def run(program: str, *arguments: str) -> str:
    """What the program writes, with files of four megabytes at most."""
    done = subprocess.run(
        [sys.executable, "-c", LIMITED + program, *arguments], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_windows_that_the_disk_does_not_take_stay_in_memory() -> None:
    said = run("""
from engine.windows.spill import SpillStore
store = SpillStore()
rows = [(f"user-{n}", n % 2, bytes([n % 256]) * 1000, n) for n in range(12_000)]
for start in range(0, len(rows), 500):
    store.put(rows[start : start + 500])
assert len(store) == 12_000 and 0 < store.unwritten < 12_000, (len(store), store.unwritten)
assert store.input_positions(["user-3", "user-11999", "nobody"]) == {"user-3": (1, 3), "user-11999": (1, 11_999)}
assert sorted(store.of(0)) == sorted(rows[0::2])
assert sorted(store.take([row[0] for row in rows[:100] + rows[-100:]])) == sorted(rows[:100] + rows[-100:])
store.drop_partition(1)
assert sorted(store.take([row[0] for row in rows])) == sorted(rows[100:-100:2])
assert (len(store), store.unwritten) == (0, 0)
""")
    assert "ERROR evicted windows cannot be written to the folder for temporary files (" in said
    assert "500 stay in memory" in said


def test_a_snapshot_that_does_not_fit_leaves_the_last_one(tmp_path: Path) -> None:
    run(
        """
from tests.unit.test_snapshots import BOUNDS, MOMENT, NOW_MS, snapshots, windows
folder = Path(sys.argv[1])
catalogue, packed, expected = windows(20)
snapshots(folder, catalogue).write(MOMENT, packed)
catalogue, packed, _ = windows(1000)
try:
    snapshots(folder, catalogue).write(MOMENT, packed)
except OSError:
    pass
else:
    raise SystemExit("there was room")
assert [path.suffix for path in folder.iterdir()] == [".windows"]
position, parts = snapshots(folder, catalogue).read("T1", 3, BOUNDS, NOW_MS)
assert position == 50 and sum(len(part.users) for part in parts) == 20
""",
        str(tmp_path),
    )


def test_a_worker_goes_on_without_its_snapshots(tmp_path: Path, tiny_release: Path) -> None:
    """In an orderly stop, too: the lists are out, and the last words say which folder has no room."""
    said = run(
        """
import threading
from engine.eventlog.base import Outgoing, TopicSpec
from engine.eventlog.memory.log import MemoryLog
from engine.metrics import Metrics
from engine.settings.sections import ReleaseSettings, Settings, SnapshotSettings, WindowSettings
from engine.worker.loop import Worker
from tests.waiting import LIMIT_S, until
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 24, resource.RLIM_INFINITY))
settings = Settings(
    windows=WindowSettings(max_users=100),
    releases=ReleaseSettings(path=Path(sys.argv[2])),
    snapshots=SnapshotSettings(folder=Path(sys.argv[1]), interval_s=0.2),
)
log, metrics, stop = MemoryLog(), Metrics(), threading.Event()
log.ensure_topics([TopicSpec("clicks"), TopicSpec("recommendations")])
worker = threading.Thread(target=Worker(settings, log, metrics).run, args=[stop])
worker.start()
value = metrics.registry.get_sample_value
def click(number):
    value = b'{"user":"ann","item":"i%d","ts":17000000%05d}' % (number, number)
    log.producer().send(Outgoing("clicks", [b"ann"], [value]))
click(1)
until(lambda: value("headrace_lists_total") == 1)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
until(lambda: value("headrace_failed_snapshots_total") >= 1)
click(2)
until(lambda: value("headrace_lists_total") == 2)
stop.set()
worker.join(LIMIT_S)
assert not worker.is_alive()
""",
        str(tmp_path),
        str(tiny_release),
    )
    assert f"a snapshot cannot be written to snapshots.folder {tmp_path}" in said
    assert "Traceback" not in said


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The programs import what the tests import."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
