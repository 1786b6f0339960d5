"""Local copies of bundles: the three used last, and none of a process that was killed."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from engine.releases import local_copies
from engine.releases.local_copies import LocalCopies

PROGRAM = """
import sys, time
from pathlib import Path
from engine.releases.local_copies import LocalCopies
copies = LocalCopies()
bundle = Path(sys.argv[1]); bundle.mkdir()
print(copies.add("0" * 64, bundle), flush=True)
time.sleep(600)
"""


@pytest.fixture(autouse=True)
def _temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))


def bundle(folder: Path, name: str) -> Path:
    (folder / name).mkdir()
    (folder / name / "release.json").write_text(name)
    return folder / name


def test_the_three_used_last_are_kept(tmp_path: Path) -> None:
    copies = LocalCopies()
    for name in "abc":
        copies.add(name * 64, bundle(tmp_path, name))
    assert copies.find("a" * 64) is not None
    copies.add("d" * 64, bundle(tmp_path, "d"))
    kept = {name: copies.find(name * 64) for name in "abcd"}
    assert kept.pop("b") is None
    assert {path.read_text() for copy in kept.values() if copy for path in copy.iterdir()} == {"a", "c", "d"}
    copies.close()
    assert list((tmp_path / "tmp").iterdir()) == []


def test_the_folder_of_a_process_that_was_killed_is_removed_and_no_other(tmp_path: Path) -> None:
    environ = {**os.environ, "TMPDIR": str(tmp_path / "tmp")}
    processes = []
    for name in ("killed", "alive"):
        command = [sys.executable, "-c", PROGRAM, str(tmp_path / name)]
        process = subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        processes.append((process, Path(process.stdout.readline().strip()).parents[1]))
    (killed, left), (alive, used) = processes
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    foreign = tmp_path / "tmp" / "headrace-releases-foreign"
    foreign.mkdir()
    try:
        local_copies.remove_abandoned(tmp_path / "tmp")
        assert left.exists()  # too young to be sure of
        for folder in (left, used, foreign):
            os.utime(folder, (0, 0))
        local_copies.remove_abandoned(tmp_path / "tmp")
        assert not left.exists()
        assert used.exists()
        assert foreign.exists()  # without a lock file, it is nobody's that is known
    finally:
        alive.kill()
        alive.communicate()


def test_a_folder_that_somebody_cleaned_is_made_again(tmp_path: Path) -> None:
    copies = LocalCopies()
    first = copies.add("a" * 64, bundle(tmp_path, "a"))
    for path in sorted(first.parents[1].rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    first.parents[1].rmdir()
    again = copies.add("b" * 64, bundle(tmp_path, "b"))
    assert (again / "release.json").read_text() == "b"
    copies.close()
