"""The files of a bundle: regular files with known names and bounded sizes in one folder, and nothing else.

A bundle comes from wherever an announcement says. Nothing in it may make a host read or write outside of its folder:
neither a link, nor a name with a path in it, nor a name that nobody expects.
"""

import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from engine import contract
from engine.errors import DamagedReleaseError, UnfitReleaseError

SIGNATURE_FILE: Final = "release.sig"
KNOWN_FILES: Final = frozenset(
    {
        contract.ENCODER_FILE,
        contract.ITEMS_FILE,
        contract.CONTENT_FILE,
        contract.VECTORS_FILE,
        contract.NEIGHBOURS_FILE,
        contract.NEIGHBOUR_WEIGHTS_FILE,
        contract.LABEL_NAMES_FILE,
        contract.LABELS_FILE,
        contract.POPULARITY_FILE,
        contract.IDS_FILE,
        contract.REPORT_FILE,
        contract.MANIFEST_FILE,
        SIGNATURE_FILE,
    }
)
MAX_BUNDLE_BYTES: Final = 32 << 30
"""Of all files of a bundle together: some fifty million items of 64 dimensions."""
_CHUNK_BYTES: Final = 1 << 20


def check_names(names: Iterable[str], where: str) -> None:
    """Refuse names that no file of a bundle has.

    Raises:
        UnfitReleaseError: names the first of them.
    """
    unknown = sorted({*names} - KNOWN_FILES)
    if unknown:
        raise UnfitReleaseError(
            f"{where}: found a file {unknown[0]!r}, expected only {', '.join(sorted(KNOWN_FILES))}; remove it, or"
            " export the release again"
        )


def check_total(size: int, where: str) -> None:
    """Refuse a bundle of so many bytes that no release has them.

    Raises:
        UnfitReleaseError: it has.
    """
    if size > MAX_BUNDLE_BYTES:
        raise UnfitReleaseError(
            f"{where}: found {size} bytes, at most {MAX_BUNDLE_BYTES} are expected; train it with fewer items or"
            " dimensions"
        )


def check_folder(folder: Path) -> list[Path]:
    """The files of a bundle; refuses links, folders, devices, unknown names, and too many bytes.

    Raises:
        DamagedReleaseError: the folder cannot be read.
        UnfitReleaseError: something in it is no file of a bundle.
    """
    where = f"release {folder}"
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        states = [entry.stat(follow_symlinks=False) for entry in entries]
    except (OSError, ValueError) as error:  # a path with a null byte is a ValueError
        reason = error.strerror if isinstance(error, OSError) else error
        raise DamagedReleaseError(
            f"{where}: its files cannot be listed ({reason}), expected the folder of a release, RELEASES/MODEL-VERSION;"
            " name another, or copy the bundle again"
        ) from error
    check_names((entry.name for entry in entries), where)
    for entry, state in zip(entries, states, strict=True):
        if not stat.S_ISREG(state.st_mode):
            kind = "a link" if stat.S_ISLNK(state.st_mode) else "a folder or a device"
            raise UnfitReleaseError(
                f"{where}: {entry.name} is {kind}, expected a file: nothing outside of a bundle is read; put the file"
                " itself there, or export the release again"
            )
    check_total(sum(state.st_size for state in states), where)
    return [Path(entry.path) for entry in entries]


def copy(bundle: Path, target: Path) -> None:
    """Copy the files of a bundle into the new folder `target`.

    Raises:
        DamagedReleaseError: the folder cannot be read.
        UnfitReleaseError: something in it is no file of a bundle.
    """
    files = check_folder(bundle)
    target.mkdir(parents=True)
    for file in files:
        # Not followed even where a link has taken the file's place since the check.
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW)
        with os.fdopen(descriptor, "rb") as source, (target / file.name).open("xb") as copied:
            while chunk := source.read(_CHUNK_BYTES):
                copied.write(chunk)
