"""The folder of one training, from which it goes on after a kill.

    run.json            the settings, the code's version, the data and its fingerprint; the release, once there is one
    progress.jsonl      where training stood after each validation, a line each
    checkpoints/        the last two, as STEP-CHECKSUM.pt
    material/           what is learned from, mapped into memory; gone when the release is written

A checkpoint is written beside its place, brought to disk and then named after its own checksum, so a damaged one is
known by its name: it is thrown away, and the one before it is taken.
"""

import fcntl
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import torch

from engine.errors import RunFolderError
from engine.releases import bundles
from models.settings import TrainSettings
from models.training.trainer import TrainingProgress

LIMITS: Final = ("minutes", "epochs", "checkpoint_s", "device")
"""Settings that a training may go on with otherwise than it began: they do not say what is learned."""
_KEPT: Final = 2


class RunFolder:
    """One training's folder: its record, its log and its checkpoints."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.material = folder / "material"
        self._record = folder / "run.json"
        self._progress = folder / "progress.jsonl"
        self._checkpoints = folder / "checkpoints"
        self._saved_s = time.monotonic()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Make the folder, and keep other trainings out of it.

        Raises:
            RunFolderError: another one is in it.
        """
        self._checkpoints.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise RunFolderError(f"{self.folder} is in use by another training; name another --run") from error
            yield

    def begin(self, settings: TrainSettings, processes: int, wanted: str | None, otherwise: str) -> str:
        """Begin a training, or make sure that the one that was begun here can go on; the version of its release.

        Args:
            settings: how it is trained.
            processes: how many train it together.
            wanted: the version that is asked for; None asks for the one it was begun with.
            otherwise: the version of a new training that is not asked for any.

        Raises:
            RunFolderError: the folder's training is another one, or has ended.
        """
        ours = {
            "settings": settings.model_dump(mode="json"),
            "processes": processes,
            "code": {"version": version("headrace"), "commit": _commit(), "torch": torch.__version__},
            "data": None,
            "release_version": wanted or otherwise,
            "release": None,
        }
        if not self._record.exists():
            self._write(ours)
            return wanted or otherwise
        found: dict[str, Any] = json.loads(self._record.read_text())
        if found["release"]:
            raise RunFolderError(f"the training in {self.folder} has ended with {found['release']}; name another --run")
        if found["data"]:
            self._refuse_others(_fixed(found), _fixed(ours))
        else:  # it ended before it had read its data: nothing was learned with those settings
            shutil.rmtree(self.material, ignore_errors=True)
            found = ours | {"release_version": found["release_version"]}
        agreed: str = wanted or found["release_version"]
        self._write({**found, "settings": ours["settings"], "release_version": agreed})
        return agreed

    def add_data(self, address: str, stamp: Any, fingerprints: Mapping[str, str | None]) -> None:
        """Note what is learned from, each thing with its fingerprint, if it is there.

        Raises:
            RunFolderError: the training was begun with other data.
        """
        found = json.loads(self._record.read_text())
        if found["data"]:
            begun, ours = found["data"]["fingerprints"], dict(fingerprints)
            self._refuse_others(*({f"{name} fingerprint": one[name] for name in one} for one in (begun, ours)))
        self._write({**found, "data": {"address": address, "fingerprints": dict(fingerprints), "files": stamp}})

    def end(self, bundle: Path) -> None:
        """Note the release; what is only needed to go on is removed."""
        self._write({**json.loads(self._record.read_text()), "release": str(bundle)})
        for path in (self.material, self._checkpoints):
            shutil.rmtree(path)

    def log(self, rounds: list[TrainingProgress]) -> None:
        """Write where training stood after each validation."""
        lines = "".join(json.dumps(asdict(progress)) + "\n" for progress in rounds)
        _replace(self._progress, lines)

    def due(self, interval_s: float) -> bool:
        """Whether the last checkpoint is so old."""
        return time.monotonic() - self._saved_s >= interval_s

    def save(self, step: int, state: Mapping[str, Any]) -> None:
        """Write a checkpoint, and remove the oldest."""
        unfinished = self._checkpoints / ".unfinished"
        with unfinished.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        unfinished.rename(self._checkpoints / f"{step:010d}-{bundles.checksum(unfinished)[:16]}.pt")
        for path in self._found()[_KEPT:]:
            path.unlink()
        self._saved_s = time.monotonic()

    def newest(self, device: torch.device) -> dict[str, Any] | None:
        """The newest checkpoint that is whole; damaged ones are removed."""
        for path in self._found():
            if bundles.checksum(path)[:16] == path.stem.partition("-")[2]:
                state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
                return state
            path.unlink()
        return None

    def _found(self) -> list[Path]:
        """Checkpoints, newest first."""
        return sorted(self._checkpoints.glob("*.pt"), reverse=True)

    def _refuse_others(self, found: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
        names = sorted(name for name in found.keys() | ours.keys() if found.get(name) != ours.get(name))
        if names:
            differences = ", ".join(f"{name} {found.get(name)} (now {ours.get(name)})" for name in names)
            raise RunFolderError(
                f"{self.folder} holds a training that was begun with {differences}; give the same to go on with it,"
                " or name another --run"
            )

    def _write(self, record: Mapping[str, Any]) -> None:
        _replace(self._record, json.dumps(record, indent=1))


def _fixed(record: Mapping[str, Any]) -> dict[str, Any]:
    """All that must stay the same while a training goes on, by dotted name."""
    settings = {name: value for name, value in record["settings"].items() if name not in LIMITS}
    return dict(_leaves({**settings, "processes": record["processes"]}))


def _leaves(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, value in values.items():
        found += _leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else [(f"{prefix}{name}", value)]
    return found


def _replace(path: Path, text: str) -> None:
    """Write a file in the place of another, all at once."""
    unfinished = path.with_name(f".{path.name}")
    unfinished.write_text(text)
    unfinished.rename(path)


def _commit() -> str | None:
    """The commit of the checkout that this file belongs to, `-dirty` where it was changed; None outside of one."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        for arguments in (["ls-files", "--error-unmatch", Path(__file__).name], ["describe", "--always", "--dirty"]):
            done = subprocess.run([*git, *arguments], check=True, capture_output=True, text=True)  # noqa: S603 - no shell
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
