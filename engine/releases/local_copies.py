"""Local copies of the bundles that were served last, so that a way back is short.

To go back to a release nothing is fetched or tried in a child process again. The copies are in a temporary
folder of this process alone; a bundle is verified at every load in any case.
"""

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

_KEPT: Final = 3
"""The live release, the one before it, and a canary."""


class LocalCopies:
    """Bundles by the checksum of their manifest; of more than three the one used longest ago goes."""

    def __init__(self) -> None:
        self._home: TemporaryDirectory[str] | None = None
        self._used: dict[str, Path] = {}

    def find(self, checksum: str) -> Path | None:
        """The copy of the bundle whose manifest has this checksum, if there is one."""
        copy = self._used.pop(checksum, None)
        if copy is not None:
            self._used[checksum] = copy
        return copy

    def add(self, checksum: str, bundle: Path) -> Path:
        """Move a bundle that was verified and tried here; returns the copy."""
        if self._home is None:
            self._home = TemporaryDirectory(prefix="headrace-releases-")
        copy = Path(self._home.name) / checksum[:16] / bundle.name
        shutil.rmtree(copy.parent, ignore_errors=True)
        copy.parent.mkdir()
        shutil.move(bundle, copy)
        self._used[checksum] = copy
        for oldest in [*self._used][:-_KEPT]:
            shutil.rmtree(self._used.pop(oldest).parent, ignore_errors=True)
        return copy

    def drop(self, checksum: str) -> None:
        """Remove a copy that cannot be used."""
        copy = self._used.pop(checksum, None)
        if copy is not None:
            shutil.rmtree(copy.parent, ignore_errors=True)

    def close(self) -> None:
        """Remove all copies."""
        if self._home is not None:
            self._home.cleanup()
            self._home = None
        self._used.clear()
