"""Bundles fetched from where an announcement says they are: a folder of this host, or an address that fsspec knows."""

import socket
from pathlib import Path

from engine.errors import DamagedReleaseError, MissingExtraError, ReleaseError
from engine.releases import bundle_files
from engine.releases.announcements import copy_bundle

_SCHEME = "://"


def is_address(place: str) -> bool:
    """Whether a place is an address with a scheme, such as `s3://bucket/releases/two-hop-7`, and not a path."""
    return _SCHEME in place


def fetch(place: str, folder: Path) -> Path:
    """Copy the bundle at a path or an address into `folder`; returns the copy.

    Raises:
        DamagedReleaseError: there is no such folder on this host.
        ReleaseError: the address cannot be read, or fsspec does not know its scheme.
        MissingExtraError: fsspec, or what it needs for the scheme, is not installed.
    """
    if is_address(place):
        return _download(place, folder)
    if not Path(place).is_dir():
        raise DamagedReleaseError(
            f"release {place}: there is no such folder on this host ({socket.gethostname()}), expected one that every"
            " worker sees by this path; publish it from a shared folder, with --folder, or by an address"
            " (s3://bucket/MODEL-VERSION)"
        )
    return copy_bundle(Path(place), folder)


def _download(address: str, folder: Path) -> Path:
    try:
        import fsspec  # noqa: PLC0415 - only for addresses with a scheme
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"release {address} needs fsspec, which is not installed: pip install fsspec"
        ) from error
    copy = folder / (address.rstrip("/").rpartition("/")[2] or "bundle")
    try:
        file_system, path = fsspec.core.url_to_fs(address)
        files = [
            entry
            for entry in file_system.ls(path.rstrip("/"), detail=True)
            if entry["name"].strip("/") != path.strip("/")
        ]
        names = [entry["name"].rstrip("/").rpartition("/")[2] for entry in files]
        bundle_files.check_names(names, f"release {address}")
        bundle_files.check_total(sum(entry.get("size") or 0 for entry in files), f"release {address}")
        for entry, name in zip(files, names, strict=True):
            file_system.get_file(entry["name"], str(copy / name))
    except ReleaseError:
        raise
    except ImportError as error:
        raise MissingExtraError(f"release {address} cannot be fetched: {error}") from error
    except Exception as error:
        # Each file system of fsspec has errors of its own.
        raise ReleaseError(
            f"release {address} cannot be fetched: {type(error).__name__}: {error}; expected a folder with the files of"
            " one release, at an address that fsspec knows and this host may read"
        ) from error
    return copy
