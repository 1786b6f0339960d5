"""Local copies of the bundles that were served last, so that a way back is short.

To go back to a release nothing is fetched or tried in a child process again. The copies are in a temporary folder of
this process alone; a bundle is verified at every load in any case. A process that was killed leaves its folder behind,
and the next one removes it.
"""

import fcntl
import shutil
import tempfile
import time
from pathlib import Path
from typing import IO, Final

_KEPT: Final = 3
"""The live release, the one before it, and a canary."""
_PREFIX: Final = "headrace-releases-"
_LOCK_FILE: Final = "in-use"
_NEW_S: Final = 60.0
"""A folder that is younger may be about to be locked."""


class LocalCopies:
    """Bundles by the checksum of their manifest; of more than three the one used longest ago goes.

    An experiment keeps more, one for each release of its arms.
    """

    def __init__(self) -> None:
        self._kept = _KEPT
        self._home: Path | None = None
        self._lock: IO[str] | None = None
        self._used: dict[str, Path] = {}

    def find(self, checksum: str) -> Path | None:
        """The copy of the bundle whose manifest has this checksum, if there is one."""
        copy = self._used.pop(checksum, None)
        if copy is not None:
            self._used[checksum] = copy
        return copy

    def add(self, checksum: str, bundle: Path) -> Path:
        """Move a bundle that was verified and tried here; returns the copy."""
        copy = self._opened() / checksum[:16] / bundle.name
        shutil.rmtree(copy.parent, ignore_errors=True)
        copy.parent.mkdir()
        shutil.move(bundle, copy)
        self._used[checksum] = copy
        self._drop_oldest()
        return copy

    def keep(self, more: int) -> None:
        """Raise the number of kept copies by `more`, for the releases of an experiment."""
        self._kept = _KEPT + more
        self._drop_oldest()

    def drop(self, checksum: str) -> None:
        """Remove a copy that cannot be used, or is not needed."""
        copy = self._used.pop(checksum, None)
        if copy is not None:
            shutil.rmtree(copy.parent, ignore_errors=True)

    def close(self) -> None:
        """Remove all copies."""
        if self._home is not None:
            shutil.rmtree(self._home, ignore_errors=True)
        if self._lock is not None:
            self._lock.close()
        self._home = self._lock = None
        self._used.clear()

    def _drop_oldest(self) -> None:
        for oldest in [*self._used][: -self._kept]:
            self.drop(oldest)

    def _opened(self) -> Path:
        """The folder of this process; made, and locked as long as this process lives, where there is none yet."""
        if self._home is None or not self._home.is_dir():
            self.close()
            remove_abandoned(Path(tempfile.gettempdir()))
            self._home = Path(tempfile.mkdtemp(prefix=_PREFIX))
            self._lock = (self._home / _LOCK_FILE).open("w")
            fcntl.flock(self._lock, fcntl.LOCK_EX)
        return self._home


def remove_abandoned(temporary: Path) -> None:
    """Remove the folders of processes that were killed: those that nobody has locked any more."""
    for folder in temporary.glob(f"{_PREFIX}*"):
        try:
            if time.time() - folder.stat().st_mtime < _NEW_S:
                continue
            with (folder / _LOCK_FILE).open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            continue  # another process's, or gone meanwhile
