"""Recorded interactions, read into columns.

A data folder holds `interactions.csv.gz` (or `.csv`) with the columns `user`, `item`, `ts` (Unix seconds, fractions
allowed) and perhaps `event`, the name of the action. Other columns are not read: a rating says how much was liked,
not how often something was clicked.

Events are sorted by time with a stable sort: the file's order decides ties. Ratings entered in one go share a second,
and a sort that shuffles them would change a quarter of all next-item targets of MovieLens.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from engine.columns import Bool, Int32, Int64
from engine.errors import DataError

FILE_NAMES = ("interactions.csv.gz", "interactions.csv")
_COLUMNS = {"user": pa.string(), "item": pa.string(), "ts": pa.float64()}
_ACTION_COLUMN = "event"


@dataclass(frozen=True, slots=True)
class Interactions:
    """n events of U users with V items, in order of time."""

    users: Int32
    """[n] user numbers, 0 to U - 1."""
    items: Int32
    """[n] item numbers, 0 to V - 1."""
    times_ms: Int64
    """[n] event times, Unix milliseconds, ascending."""
    actions: Int32
    """[n] action numbers."""
    user_ids: list[str]
    """U ids, by user number."""
    item_ids: list[str]
    """V ids, by item number."""
    action_names: list[str]
    """Names, by action number; the empty name where the data has none."""

    def __len__(self) -> int:
        return len(self.users)

    def select(self, mask: Bool) -> Self:
        """The events under `mask` [n]; numbers and ids stay as they are."""
        return replace(
            self,
            users=self.users[mask],
            items=self.items[mask],
            times_ms=self.times_ms[mask],
            actions=self.actions[mask],
        )

    def by_user(self) -> Int64:
        """[n] order that puts the events of each user together, oldest first."""
        return np.argsort(self.users, kind="stable")

    def actions_among(self, names: Sequence[str], default: str) -> Int32:
        """[n] place of each event's action among `names`; one that they lack counts as the `default` among them."""
        places = {name: place for place, name in enumerate(names)}
        by_action = [places.get(name, places[default]) for name in self.action_names]
        return np.array(by_action, np.int32)[self.actions]

    def fingerprint(self) -> str:
        """SHA-256 over all columns and ids: two datasets with the same one (and the same items file) train alike."""
        digest = hashlib.sha256()
        for column in (self.users, self.items, self.times_ms, self.actions):
            digest.update(np.ascontiguousarray(column).tobytes())
        for ids in (self.user_ids, self.item_ids, self.action_names):
            digest.update("\0".join(ids).encode())
        return digest.hexdigest()


def read(folder: Path) -> Interactions:
    """Read the interactions in `folder`.

    Raises:
        DataError: there is no such file, it cannot be parsed, lacks a column, has empty fields, or too little in it.
    """
    path = _find(folder)
    table = _read_table(path)
    for name in table.column_names:
        _refuse_missing(table.column(name), name, path)
    seconds = table.column("ts").to_numpy()
    order = np.argsort(seconds, kind="stable")
    users, user_ids = _encode(table.column("user"))
    items, item_ids = _encode(table.column("item"))
    actions, action_names = _actions(table)
    _refuse_trivial(user_ids, "user", path)
    _refuse_trivial(item_ids, "item", path)
    return Interactions(
        users=users[order],
        items=items[order],
        times_ms=np.rint(seconds[order] * 1000.0).astype(np.int64),
        actions=actions[order],
        user_ids=user_ids,
        item_ids=item_ids,
        action_names=action_names,
    )


def _find(folder: Path) -> Path:
    for name in FILE_NAMES:
        if (folder / name).is_file():
            return folder / name
    raise DataError(f"{folder} holds no {FILE_NAMES[0]}; name a folder with such a file (columns user, item, ts)")


def _read_table(path: Path) -> pa.Table:
    try:
        with csv.open_csv(path) as reader:
            found = reader.schema.names
        missing = [name for name in _COLUMNS if name not in found]
        if missing:
            raise DataError(f"{path} has no column {', '.join(missing)}; found {', '.join(found)}")
        wanted = _COLUMNS | ({_ACTION_COLUMN: pa.string()} if _ACTION_COLUMN in found else {})
        options = csv.ConvertOptions(
            column_types=wanted,
            include_columns=list(wanted),
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        )
        return csv.read_csv(path, convert_options=options)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path} cannot be read: {error}; expected CSV with the columns user, item, ts") from error


def _refuse_missing(column: pa.ChunkedArray, name: str, path: Path) -> None:
    bad = pc.is_null(column)
    if pa.types.is_floating(column.type):
        bad = pc.or_kleene(bad, pc.invert(pc.is_finite(column)))
    count = pc.sum(pc.fill_null(bad, True)).as_py() or 0
    if count:
        line = pc.index(pc.fill_null(bad, True), True).as_py() + 2
        raise DataError(
            f"{path}: {count} empty or unreadable values in column {name}, first in line {line}; mend the file"
        )


def _encode(column: pa.ChunkedArray) -> tuple[Int32, list[str]]:
    encoded = column.combine_chunks().dictionary_encode()
    return encoded.indices.to_numpy(zero_copy_only=False).astype(np.int32), encoded.dictionary.to_pylist()


def _actions(table: pa.Table) -> tuple[Int32, list[str]]:
    if _ACTION_COLUMN in table.column_names:
        return _encode(table.column(_ACTION_COLUMN))
    return np.zeros(table.num_rows, np.int32), [""]


def _refuse_trivial(ids: list[str], what: str, path: Path) -> None:
    if len(ids) < 2:  # noqa: PLR2004 - one of a kind leaves nothing to tell apart
        raise DataError(f"{path} has {len(ids)} {what}s; at least 2 are needed to learn anything")
