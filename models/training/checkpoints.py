"""The run folder of one training, from which it is resumed after a kill.

    run.json            the settings, the code's version, the data and its fingerprint; the release, once there is one
    progress.jsonl      progress at each validation, a line each
    checkpoints/        the last two, as STEP-CHECKSUM.pt
    training_data/      the training data, mapped into memory; removed when the release is written

A checkpoint is written to a temporary file, synced to disk and then named after its own checksum, so a damaged one is
recognised by its name: it is removed, and the one before it is loaded.
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
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import torch

from engine.errors import RunFolderError
from engine.releases import bundles
from models.settings import TrainSettings
from models.training.trainer import TrainingProgress

_CHANGEABLE: Final = ("minutes", "epochs", "checkpoint_s", "device")
"""Settings that may change when a training is resumed, as no step depends on them."""
_KEPT_CHECKPOINTS: Final = 2


class RunFolder:
    """One training's folder: its record, its log, its checkpoints and its training data."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.training_data = folder / "training_data"
        self._record = folder / "run.json"
        self._progress = folder / "progress.jsonl"
        self._checkpoints = folder / "checkpoints"
        self._saved_s = time.monotonic()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Create the folder, and keep other trainings out of it.

        Raises:
            RunFolderError: another training is using it.
        """
        self._checkpoints.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise RunFolderError(f"{self.folder} is in use by another training; name another --run") from error
            yield

    def begin(self, settings: TrainSettings, processes: int, version: str | None, default_version: str) -> str:
        """Record a new training, or check that the recorded one can be resumed; returns its release version.

        Args:
            settings: of the training.
            processes: that train together.
            version: of the release; None takes the recorded one.
            default_version: of the release, if `version` is None and nothing is recorded.

        Raises:
            RunFolderError: the folder's training is another one, or has ended.
        """
        record = {
            "settings": settings.model_dump(mode="json"),
            "processes": processes,
            "code": {"version": metadata.version("headrace"), "commit": _commit(), "torch": torch.__version__},
            "data": None,
            "release_version": version or default_version,
            "release": None,
        }
        if not self._record.exists():
            self._write(record)
            return version or default_version
        recorded: dict[str, Any] = json.loads(self._record.read_text())
        if recorded["release"]:
            raise RunFolderError(
                f"the training in {self.folder} has ended with {recorded['release']}; name another --run"
            )
        if recorded["data"]:
            self._refuse_differences(_unchangeable(recorded), _unchangeable(record))
        else:  # it ended before it had read its data, so nothing was learned with those settings
            shutil.rmtree(self.training_data, ignore_errors=True)
            recorded = record | {"release_version": recorded["release_version"]}
        release_version: str = version or recorded["release_version"]
        self._write({**recorded, "settings": record["settings"], "release_version": release_version})
        return release_version

    def record_data(self, address: str, stamp: Any, fingerprints: Mapping[str, str | None]) -> None:
        """Record the address, file stamp and fingerprints of the data, or check that they are the recorded ones.

        Raises:
            RunFolderError: the training was begun with other data.
        """
        recorded = json.loads(self._record.read_text())
        if recorded["data"]:
            self._refuse_differences(_by_full_name(recorded["data"]["fingerprints"]), _by_full_name(fingerprints))
        self._write({**recorded, "data": {"address": address, "fingerprints": dict(fingerprints), "files": stamp}})

    def finish(self, bundle: Path) -> None:
        """Record the release, and remove what only a resumed training needs."""
        self._write({**json.loads(self._record.read_text()), "release": str(bundle)})
        for path in (self.training_data, self._checkpoints):
            shutil.rmtree(path)

    def log(self, validations: list[TrainingProgress]) -> None:
        """Write the progress at each validation so far."""
        lines = "".join(json.dumps(asdict(progress)) + "\n" for progress in validations)
        _replace(self._progress, lines)

    def is_due(self, interval_s: float) -> bool:
        """Whether the last checkpoint is `interval_s` old or older."""
        return time.monotonic() - self._saved_s >= interval_s

    def save(self, step: int, state: Mapping[str, Any]) -> None:
        """Write a checkpoint, and remove the oldest."""
        unfinished = self._checkpoints / ".unfinished"
        with unfinished.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        unfinished.rename(self._checkpoints / f"{step:010d}-{bundles.checksum(unfinished)[:16]}.pt")
        for path in self._newest_first()[_KEPT_CHECKPOINTS:]:
            path.unlink()
        self._saved_s = time.monotonic()

    def load_newest(self, device: torch.device) -> dict[str, Any] | None:
        """The newest undamaged checkpoint; damaged ones are removed."""
        for path in self._newest_first():
            if bundles.checksum(path)[:16] == path.stem.partition("-")[2]:
                state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
                return state
            path.unlink()
        return None

    def _newest_first(self) -> list[Path]:
        return sorted(self._checkpoints.glob("*.pt"), reverse=True)

    def _refuse_differences(self, recorded: Mapping[str, Any], current: Mapping[str, Any]) -> None:
        """Raise a RunFolderError that names each value that differs."""
        names = sorted(name for name in recorded.keys() | current.keys() if recorded.get(name) != current.get(name))
        if names:
            differences = ", ".join(f"{name} {recorded.get(name)} (now {current.get(name)})" for name in names)
            raise RunFolderError(
                f"{self.folder} holds a training that was begun with {differences}; give the same to resume it, or name"
                " another --run"
            )

    def _write(self, record: Mapping[str, Any]) -> None:
        _replace(self._record, json.dumps(record, indent=1))


def _unchangeable(record: Mapping[str, Any]) -> dict[str, Any]:
    """All that must be the same when a training is resumed, by dotted name."""
    settings = {name: value for name, value in record["settings"].items() if name not in _CHANGEABLE}
    return dict(_leaves({**settings, "processes": record["processes"]}))


def _by_full_name(fingerprints: Mapping[str, str | None]) -> dict[str, Any]:
    return {f"{name} fingerprint": fingerprint for name, fingerprint in fingerprints.items()}


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested tables, by dotted name."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _replace(path: Path, text: str) -> None:
    """Replace a file in one step as others see it."""
    unfinished = path.with_name(f".{path.name}")
    unfinished.write_text(text)
    unfinished.rename(path)


def code_version() -> str:
    """The version of Headrace, and the commit of its checkout where there is one."""
    return "+".join(filter(None, [metadata.version("headrace"), _commit()]))


def _commit() -> str | None:
    """The commit of the checkout that this file belongs to, `-dirty` if it has changes; None outside of a checkout."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        for arguments in (["ls-files", "--error-unmatch", Path(__file__).name], ["describe", "--always", "--dirty"]):
            output = subprocess.run([*git, *arguments], check=True, capture_output=True, text=True).stdout  # noqa: S603 - no shell
    except (OSError, subprocess.CalledProcessError):
        return None
    return output.strip()
