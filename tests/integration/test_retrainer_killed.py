"""Kill -9 of a retrainer's process: the next one goes on, and a release is announced once, whole.

    LONG_TESTS=1 pytest tests/integration/test_retrainer_killed.py

Every day `tests/unit/test_retraining.py` does the same in one process.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="training needs torch: pip install 'headrace[train]'")

from engine.releases import bundles
from engine.releases.announcements import FolderFeed
from engine.settings.loader import ENV_PREFIX
from tests.conftest import only_long
from tests.integration.test_first_release import TRAINING
from tests.unit.test_retraining import walked

LIMIT_S = 240.0
MODEL = "two-hop"


class Retrainer:
    """`headrace retrain --once` into a watched folder, as a process of its own each time."""

    def __init__(self, folder: Path) -> None:
        self._folder, self.releases, self.live = folder, folder / "releases", folder / "live"
        walked(folder / "clicks")
        (folder / "training.toml").write_text(TRAINING)
        plain = {name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)}
        self._environ = plain | {
            "HEADRACE_RETRAIN__TRAINING": str(folder / "training.toml"),
            "HEADRACE_RELEASES__MODEL": MODEL,
            "OMP_NUM_THREADS": "1",
        }

    def start(self) -> "subprocess.Popen[str]":
        program = [sys.executable, "-c", "from models.cli.retrain import retrain; retrain()", "--once", "--json"]
        places = ["--data", str(self._folder / "clicks"), "--out", str(self.releases), "--folder", str(self.live)]
        return subprocess.Popen(
            [*program, *places],
            env=self._environ,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def kill_when(self, is_time: Callable[[], bool]) -> bool:
        """Start it, and kill it and its children at that time; False where it had ended before."""
        process = self.start()
        deadline_s = time.monotonic() + LIMIT_S
        while process.poll() is None and not is_time():
            assert time.monotonic() < deadline_s
            time.sleep(0.002)
        alive = process.poll() is None
        if alive:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return alive

    def finish(self) -> dict[str, object]:
        """Run it to its end; returns what it prints."""
        process = self.start()
        out, err = process.communicate(timeout=LIMIT_S)
        assert process.returncode == 0, err[-3000:]
        outcome: dict[str, object] = json.loads(out)
        return outcome

    def bundle_names(self) -> list[str]:
        return sorted(path.name for path in self.releases.glob(f"{MODEL}-*"))

    def announced(self) -> str | None:
        """The live release as a worker would find it, after a look at all of its files."""
        if not self.live.is_dir():
            return None
        live = FolderFeed(self.live, MODEL).registry().live()
        for announcement in live:
            bundles.read(Path(announcement.bundle))
        return live[0].name if live else None

    def is_training(self) -> bool:
        return any(self.releases.glob(".runs/*/progress.jsonl"))

    def is_gating(self) -> bool:
        return bool(self.bundle_names())

    def is_publishing(self) -> bool:
        return any(self.releases.glob(".runs/*/gate.json"))

    def is_announced(self) -> bool:
        return (self.live / f"{MODEL}.json").exists()


def ends_well(retrainer: Retrainer, outcome: dict[str, object]) -> None:
    """One bundle, announced under its name, with the gate's report inside; nothing under way any more."""
    assert outcome["outcome"] == "published"
    assert retrainer.announced() == outcome["release"]
    assert retrainer.bundle_names() == [outcome["release"]]
    copies = [path.name for path in retrainer.live.iterdir() if path.is_dir() and not path.name.startswith(".")]
    assert copies == [outcome["release"]]
    manifest = bundles.read(retrainer.live / str(outcome["release"])).manifest
    assert manifest.provenance.gate["passed"] is True
    assert not (retrainer.releases / ".retrain" / f"{MODEL}.json").exists()


@only_long
@pytest.mark.parametrize("moment", ["is_training", "is_gating", "is_publishing", "is_announced"])
def test_killed_at_each_step_it_goes_on_and_publishes_once(tmp_path: Path, moment: str) -> None:
    retrainer = Retrainer(tmp_path)
    assert retrainer.kill_when(getattr(retrainer, moment))
    trained = retrainer.bundle_names()
    assert retrainer.announced() in (None, *trained)
    before = (retrainer.live / f"{MODEL}.json").read_bytes() if retrainer.is_announced() else None
    outcome = retrainer.finish()
    ends_well(retrainer, outcome)
    assert trained in ([], [outcome["release"]])  # not trained again
    if before is not None:
        assert (retrainer.live / f"{MODEL}.json").read_bytes() == before  # not a second time


@only_long
def test_killed_again_and_again_at_random_it_ends_with_one_release(tmp_path: Path) -> None:
    retrainer, rng = Retrainer(tmp_path), random.Random(0)
    for _ in range(12):
        started_s, pause_s = time.monotonic(), rng.uniform(0.5, 9.0)
        was_killed = retrainer.kill_when(lambda begin=started_s, pause=pause_s: time.monotonic() - begin > pause)  # type: ignore[misc]
        announced = retrainer.announced()
        assert announced is None or [announced] == retrainer.bundle_names()
        if announced is not None or not was_killed:
            break
    if not retrainer.is_announced():
        ends_well(retrainer, retrainer.finish())
    assert retrainer.announced() in retrainer.bundle_names()
