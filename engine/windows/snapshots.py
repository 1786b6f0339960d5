"""Snapshots: the windows of one partition in a local file, so that a restart reads only the end of the changelog.

A file holds the windows as of one offset of the changelog. It is only ever a shortcut: what is damaged, of another
topic, beyond the changelog's end or too old is thrown away, and the changelog is read from its start.

"Too old" is a matter of forgotten users. A compacted topic drops the mark of a deletion after a while
(`delete.retention.ms`, 24 hours unless set); a snapshot from before the deletion would then bring the user back.

A file takes its name when it is complete. Numbers little-endian, every part padded to eight bytes:

    checksum     4 bytes     CRC-32 of all that follows
    head size    4 bytes
    head         JSON: what the snapshot is of, the names of the actions, and name, type and length of each column
    columns      one after the other
"""

import contextlib
import json
import logging
import os
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any, Final, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from engine.arrays import FIRST_SEARCH, NO_ACTION, Int32, Int64, UInt8
from engine.catalogue.actions import Actions
from engine.catalogue.ids import Catalogue
from engine.settings.sections import SnapshotSettings
from engine.windows.packed import PackedWindows

logger = logging.getLogger(__name__)

SCHEMA: Final = 1
_SUFFIX: Final = ".windows"
_CHECKSUM_BYTES: Final = 4
_ALIGNMENT: Final = 8
_HOUR_MS: Final = 3_600_000
_USERS_AT_ONCE: Final = 2_000
"""Windows handed over at a time when a snapshot is read: so few that their columns are made in memory that was used
before. With ten times as many the system has to clear fresh pages each time, which can take as long as all the rest."""

Refusal = Literal["damaged", "another_version", "another_topic", "too_new", "too_old"]


@dataclass(frozen=True, slots=True)
class SnapshotHeader:
    """What a snapshot is of."""

    topic: str
    """Identity of the changelog and its deployment (`Restorer.identity`)."""
    partition: int
    position: int
    """Offset of the changelog up to which it knows everything."""
    written_ms: int


class Snapshots:
    """The snapshots in one folder."""

    def __init__(self, settings: SnapshotSettings, catalogue: Catalogue, actions: Actions) -> None:
        self._folder = settings.folder
        self._max_age_ms = round(settings.max_age_h * _HOUR_MS)
        self._catalogue = catalogue
        self._actions = actions

    def write(self, header: SnapshotHeader, packed: PackedWindows) -> None:
        """Write the windows of a partition in place of its last snapshot; without a folder do nothing.

        Raises:
            OSError: the file cannot be written.
        """
        if self._folder is None:
            return
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = _path(self._folder, header.topic, header.partition)
        unfinished = path.with_suffix(".new")
        head = {"schema": SCHEMA, **asdict(header), "actions": self._actions.names}
        try:
            with unfinished.open("wb") as file:
                _dump(file, head, self._columns(packed))
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                unfinished.unlink()  # on a full disk it would take the room of the next
            raise

    def read(
        self, topic: str, partition: int, bounds: range, now_ms: int
    ) -> tuple[int, Iterator[PackedWindows]] | Refusal | None:
        """The changelog position and windows of a partition, in parts; None when there is no snapshot.

        A snapshot that cannot be used is deleted, and named by the reason why.

        Args:
            topic: identity of the changelog.
            partition: its partition.
            bounds: first offset and end of that partition.
            now_ms: the time it is.
        """
        path = None if self._folder is None else _path(self._folder, topic, partition)
        if path is None or not path.exists():
            return None
        refusal: Refusal | None = "damaged"
        if file := _load(path):
            head, columns = file
            refusal = _refusal(head, bounds, self._max_age_ms, now_ms)
            if (head["topic"], head["partition"]) != (topic, partition):
                refusal = "another_topic"
            if refusal is None:
                return head["position"], self._parts(columns, head["actions"])
        logger.warning("snapshot %s is thrown away (%s); the changelog is read from its start", path, refusal)
        with contextlib.suppress(OSError):
            path.unlink()
        return refusal

    def holding(self, user: str) -> list[Path]:
        """The snapshots of any partition in which a user has a window."""
        paths = [] if self._folder is None else sorted(self._folder.glob(f"*{_SUFFIX}"))
        return [path for path in paths if (file := _load(path)) and user in _strings("users", file[1])]

    def sweep(self, now_ms: int) -> None:
        """Delete what is too old to be used, whoever wrote it: it may tell of users who were forgotten since."""
        for path in [] if self._folder is None else self._folder.glob(f"*{_SUFFIX}"):
            with contextlib.suppress(OSError):  # another worker may have been quicker
                if now_ms - path.stat().st_mtime_ns // 1_000_000 > self._max_age_ms:
                    path.unlink()

    def _columns(self, packed: PackedWindows) -> dict[str, npt.NDArray[Any]]:
        searched = packed.items >= FIRST_SEARCH
        items, of_items = _distinct(packed.items[~searched])
        searches, of_searches = _distinct(packed.items[searched] - np.int32(FIRST_SEARCH))
        places = np.empty(len(searched), np.int32)  # of each event's item or search in the file's own list
        places[~searched], places[searched] = of_items, of_searches + np.int32(len(items))
        return {
            **_texts("users", packed.users),
            **_texts("ids", self._catalogue.ids([*items.tolist(), *(searches + FIRST_SEARCH).tolist()])),
            "counts": packed.counts,
            "items": places,
            "times_ms": packed.times_ms,
            "actions": packed.actions,
            "event_hashes": packed.event_hashes if packed.event_hashes.any() else np.empty(0, np.uint32),
            "input_positions": packed.known_positions(),
        }

    def _parts(self, columns: dict[str, npt.NDArray[Any]], actions: list[str]) -> Iterator[PackedWindows]:
        """The windows, some users at a time, in this process's numbers of items and codes of actions."""
        codes: UInt8 = np.array([NO_ACTION, *map(self._actions.code, actions[1:])], np.uint8)
        numbers = self._catalogue.numbers(_strings("ids", columns))
        hashes = columns["event_hashes"]
        written = PackedWindows(
            users=_strings("users", columns),
            counts=columns["counts"],
            items=columns["items"],
            times_ms=columns["times_ms"],
            actions=columns["actions"],
            event_hashes=hashes if len(hashes) else np.broadcast_to(np.uint32(0), len(columns["items"])),
            input_positions=columns.get("input_positions"),  # earlier versions wrote none
        )
        for part in written.parts(_USERS_AT_ONCE):
            yield replace(part, items=numbers[part.items], actions=codes[part.actions])


def _distinct(numbers: Int32) -> tuple[Int64, Int32]:
    """The different numbers [m] among these [n], ascending, and the place of each [n] among them; they are small."""
    places = np.zeros(int(numbers.max(initial=-1)) + 1, np.int32)
    places[numbers] = 1
    used = np.flatnonzero(places)
    places[used] = np.arange(len(used))
    return used, places[numbers]


def _refusal(head: dict[str, Any], bounds: range, max_age_ms: int, now_ms: int) -> Refusal | None:
    """Why a snapshot with this head cannot be used with a changelog of these bounds, if so."""
    if head["schema"] != SCHEMA:
        return "another_version"
    if head["position"] > bounds.stop:
        return "too_new"
    young = 0 <= now_ms - head["written_ms"] <= max_age_ms
    return None if young and head["position"] >= bounds.start else "too_old"


def _dump(file: IO[bytes], head: dict[str, Any], columns: dict[str, npt.NDArray[Any]]) -> None:
    layout = [(name, column.dtype.str, len(column)) for name, column in columns.items()]
    text = json.dumps(head | {"columns": layout}).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    checksum = 0
    file.write(bytes(_CHECKSUM_BYTES))
    parts: list[bytes | memoryview] = [
        len(text).to_bytes(_ALIGNMENT - _CHECKSUM_BYTES, "little"),
        text,
        *map(_padded, columns.values()),
    ]
    for part in parts:
        checksum = zlib.crc32(part, checksum)
        file.write(part)
    file.seek(0)
    file.write(checksum.to_bytes(_CHECKSUM_BYTES, "little"))


def _load(path: Path) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]] | None:
    """Head and columns of a file; None when its bytes are not those that were written."""
    try:
        data = np.fromfile(path, np.uint8).data
    except OSError:
        return None
    if len(data) < _ALIGNMENT or zlib.crc32(data[_CHECKSUM_BYTES:]) != int.from_bytes(data[:_CHECKSUM_BYTES], "little"):
        return None
    place = _ALIGNMENT + int.from_bytes(data[_CHECKSUM_BYTES:_ALIGNMENT], "little")
    head = json.loads(bytes(data[_ALIGNMENT:place]))
    columns = {}
    for name, kind, length in head["columns"]:
        columns[name] = np.frombuffer(data, kind, length, place)
        place += columns[name].nbytes + -columns[name].nbytes % _ALIGNMENT
    return head, columns


def _padded(column: npt.NDArray[Any]) -> memoryview:
    padded = np.zeros(column.nbytes + -column.nbytes % _ALIGNMENT, np.uint8)
    padded[: column.nbytes] = column.view(np.uint8)
    return padded.data


def _path(folder: Path, topic: str, partition: int) -> Path:
    return folder / f"{topic}-{partition}{_SUFFIX}"


def _texts(name: str, texts: list[str]) -> dict[str, npt.NDArray[Any]]:
    """Texts as two columns: where each ends, and all of them in UTF-8 one after the other."""
    column = pa.array(["", *texts], pa.large_string())  # never empty, because an empty column has no buffers
    ends = np.frombuffer(column.buffers()[1], np.int64, len(column) + 1)
    return {f"{name}_ends": ends[1:], f"{name}_utf8": np.frombuffer(column.buffers()[2] or b"", np.uint8)[: ends[-1]]}


def _strings(name: str, columns: dict[str, npt.NDArray[Any]]) -> list[str]:
    ends, data = columns[f"{name}_ends"], columns[f"{name}_utf8"]
    column = pa.LargeStringArray.from_buffers(len(ends) - 1, pa.py_buffer(ends), pa.py_buffer(data))
    texts: list[str] = column.to_numpy(zero_copy_only=False).tolist()  # several times quicker than to_pylist
    return texts
