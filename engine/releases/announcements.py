"""How a release is announced and found: on the topic `releases`, or in a watched folder.

An announcement says which state a release is in and where its bundle lies. Both ways carry the same message. In a
folder, `MODEL.json` is the newest announcement and the bundles lie beside it.
"""

import os
import shutil
from pathlib import Path
from typing import Final, Literal, Protocol

import msgspec

from engine import contract
from engine.errors import DamagedReleaseError
from engine.eventlog.base import Outgoing, Producer, Reader
from engine.messages.announcement import Announcement
from engine.releases import bundles

_READ_AT_ONCE: Final = 1000


def announce(bundle: Path, state: Literal["candidate", "canary", "live", "retired"], now_ms: int) -> Announcement:
    """The announcement of a verified bundle.

    Raises:
        ReleaseError: the bundle is damaged or does not fit.
    """
    manifest = bundles.read(bundle).manifest
    return Announcement(
        model=manifest.model,
        version=manifest.version,
        state=state,
        bundle=str(bundle.resolve()),
        manifest_checksum=bundles.checksum(bundle / contract.MANIFEST_FILE),
        announced_ms=now_ms,
        figures=manifest.figures,
    )


def copy_bundle(bundle: Path, folder: Path) -> Path:
    """Copy a bundle below `folder` in one step as others see it; a copy already there is left alone."""
    target = folder / bundle.resolve().name
    if not target.exists():
        partial = folder / f".{target.name}.partial-{os.getpid()}"
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(bundle, partial)
        partial.rename(target)
    return target


def send(announcement: Announcement, producer: Producer, topic: str) -> None:
    """Announce on a topic, and wait until the log has it."""
    producer.send(Outgoing(topic, [announcement.key], [msgspec.json.encode(announcement)]))
    producer.flush()


def write(announcement: Announcement, folder: Path) -> Path:
    """Announce in a folder, in one step as others see it."""
    path = folder / f"{announcement.model}.json"
    partial = folder / f".{path.name}.partial-{os.getpid()}"
    partial.write_bytes(msgspec.json.format(msgspec.json.encode(announcement), indent=1))
    partial.replace(path)
    return path


class Feed(Protocol):
    """Where announcements come from."""

    def newest(self) -> Announcement | None:
        """The live announcement made last, of the model that is followed; None while there is none."""
        ...

    def close(self) -> None:
        """Free what the feed holds."""
        ...


class FolderFeed:
    """Announcements in a watched folder."""

    def __init__(self, folder: Path, model: str) -> None:
        self._path = folder / f"{model}.json"

    def newest(self) -> Announcement | None:
        """See `Feed.newest`."""
        try:
            raw = self._path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            announcement = msgspec.json.decode(raw, type=Announcement)
        except msgspec.DecodeError as error:
            raise DamagedReleaseError(
                f"{self._path} is not an announcement: {error}; expected what `headrace publish --folder` writes;"
                " publish the release again"
            ) from error
        return announcement if announcement.state == "live" else None

    def close(self) -> None:
        """See `Feed.close`."""


class TopicFeed:
    """Announcements on the topic `releases`; what cannot be read there is passed over."""

    def __init__(self, reader: Reader, model: str) -> None:
        self._reader = reader
        self._model = model
        self._by_version: dict[str, Announcement] = {}

    def newest(self) -> Announcement | None:
        """See `Feed.newest`."""
        while polled := self._reader.poll(0.0, _READ_AT_ONCE):
            for records in polled:
                for key, value in zip(records.keys, records.values, strict=True):
                    self._take(key, value)
        live = [one for one in self._by_version.values() if one.state == "live"]
        return max(live, key=lambda one: one.announced_ms, default=None)

    def close(self) -> None:
        """See `Feed.close`."""
        self._reader.close()

    def _take(self, key: bytes | None, value: bytes | None) -> None:
        if value is None:
            version = (key or b"").decode(errors="replace").rpartition("/")[2]
            self._by_version.pop(version, None)
            return
        try:
            announcement = msgspec.json.decode(value, type=Announcement)
        except msgspec.DecodeError:
            return
        if announcement.model == self._model:
            self._by_version[announcement.version] = announcement
