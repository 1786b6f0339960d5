"""Windows as bytes, many users at once: the value of a changelog record.

Numbers of items and codes of actions are valid in one process only, so a value spells both out. Version 1, all numbers
little-endian:

    version      1 byte
    flags        1 byte      1: every event carries the hash of its event id
    events       2 bytes     n
    legend size  2 bytes     bytes of the legend
    legend       for each action in use: code (1 byte), length of its name (1 byte), the name in UTF-8
    n events     oldest first: time in ms << 6 | action (6 bytes), length of the item id (2 bytes), [hash (4 bytes)]
    item ids     in UTF-8, one after the other

Both directions work on the columns of all users together; what remains per user is cutting and joining bytes.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from engine.arrays import MAX_ACTIONS, Int64, UInt8
from engine.catalogue.actions import Actions
from engine.catalogue.id_table import IdTable
from engine.catalogue.ids import Catalogue
from engine.errors import ChangelogError, NewerWindowError
from engine.windows import event_word
from engine.windows.packed import PackedWindows, concatenate

SCHEMA: Final = 1
_WITH_HASHES: Final = 1
_HEAD: Final = np.dtype([("schema", "u1"), ("flags", "u1"), ("events", "<u2"), ("legend", "<u2")])
_PLAIN: Final = np.dtype([("low", "<u4"), ("high", "<u2"), ("id", "<u2")])
_HASHED: Final = np.dtype([*_PLAIN.descr, ("hash", "<u4")])


class WindowCodec:
    """Windows to bytes and back, many users at once."""

    def __init__(self, catalogue: Catalogue, actions: Actions) -> None:
        self._actions = actions
        self._ids = IdTable(catalogue)
        self._legends: dict[int, bytes] = {}

    def encode(self, packed: PackedWindows) -> list[bytes]:
        """The values of B users."""
        if not len(packed):
            return []
        hashed = bool(packed.event_hashes.any())
        lengths, texts = self._ids.take(packed.items)
        events = np.empty(len(packed.items), _HASHED if hashed else _PLAIN)
        events["low"], events["high"] = event_word.halves(event_word.pack(packed.times_ms, packed.actions))
        events["id"] = lengths
        if hashed:
            events["hash"] = packed.event_hashes
        ends = np.cumsum(packed.counts)
        starts = ends - packed.counts
        legends = [self._legend(mask) for mask in _actions_in_use(packed.actions, starts).tolist()]
        heads = np.empty(len(packed), _HEAD)
        heads["schema"], heads["flags"], heads["events"] = SCHEMA, _WITH_HASHES * hashed, packed.counts
        heads["legend"] = list(map(len, legends))
        parts = zip(
            _cut(heads.tobytes(), np.arange(len(packed) + 1) * _HEAD.itemsize),
            legends,
            _cut(events.tobytes(), np.append(0, ends) * events.itemsize),
            _cut(texts, np.append(0, np.cumsum(lengths, dtype=np.int64)[ends - 1])),
            strict=True,
        )
        return list(map(b"".join, parts))

    def decode(self, users: list[str], values: Sequence[bytes], where: str) -> PackedWindows:
        """The windows of B users, each named once, in any order.

        Raises:
            NewerWindowError: a value is of a later version, or damaged in its first byte.
            ChangelogError: a value is damaged; `where` says where it came from.
        """
        heads = _heads(users, values, where)
        hashed = (heads["flags"] & _WITH_HASHES) > 0
        if hashed.all() or not hashed.any():
            return self._decode(users, values, heads, where)
        halves = (np.flatnonzero(hashed).tolist(), np.flatnonzero(~hashed).tolist())
        return concatenate(
            [
                self._decode([users[row] for row in rows], [values[row] for row in rows], heads[rows], where)
                for rows in halves
            ]
        )

    def _decode(self, users: list[str], values: Sequence[bytes], heads: npt.NDArray[Any], where: str) -> PackedWindows:
        """The windows of users whose events are laid out alike."""
        layout = _HASHED if heads["flags"][0] & _WITH_HASHES else _PLAIN
        counts = heads["events"].astype(np.int64)
        starts = _HEAD.itemsize + heads["legend"].astype(np.int64)
        ends = starts + counts * layout.itemsize
        starts_, ends_ = starts.tolist(), ends.tolist()  # [B] the events stand between these bytes of a value
        cut = b"".join([value[start:end] for value, start, end in zip(values, starts_, ends_, strict=True)])
        sizes = np.fromiter(map(len, values), np.int64, len(values))
        _check(users, bool((sizes >= ends).all() and (counts > 0).all()), where)
        events = np.frombuffer(cut, layout)
        lengths = np.add.reduceat(events["id"], np.cumsum(counts) - counts, dtype=np.int64)
        _check(users, np.array_equal(sizes - ends, lengths), where)
        texts = b"".join([value[end:] for value, end in zip(values, ends_, strict=True)])
        legends = [value[_HEAD.itemsize : start] for value, start in zip(values, starts_, strict=True)]
        words = event_word.join(events["low"], events["high"])
        try:
            items = self._ids.numbers(events["id"].astype(np.int64), texts)
            actions = self._codes(legends, counts, event_word.actions(words))
        except (UnicodeDecodeError, IndexError) as error:
            raise ChangelogError(f"{where}: the window of one of {len(users)} users is damaged: {error}") from error
        hashes = events["hash"] if layout is _HASHED else np.zeros(len(events), np.uint32)
        return PackedWindows(users, counts, items, event_word.times_ms(words), actions, hashes)

    def _codes(self, legends: list[bytes], counts: Int64, written: UInt8) -> UInt8:
        """[E] this process's codes of the actions that were written by each record's own legend [B]."""
        rows = {legend: row for row, legend in enumerate(dict.fromkeys(legends))}
        codes = np.array([self._meaning(legend) for legend in rows], np.uint8)  # [legends, codes]
        users = np.fromiter(map(rows.__getitem__, legends), np.int64, len(legends))
        actions: UInt8 = codes[np.repeat(users, counts), written]
        return actions

    def _legend(self, mask: int) -> bytes:
        """Names of the actions whose bits are set."""
        legend = self._legends.get(mask)
        if legend is None:
            names = ((code, name.encode()) for code, name in enumerate(self._actions.names) if mask >> code & 1)
            legend = b"".join(bytes([code, len(name)]) + name for code, name in names)
            self._legends[mask] = legend
        return legend

    def _meaning(self, legend: bytes) -> UInt8:
        """[codes] this process's code for each code of a legend; actions not in the settings count as the default."""
        codes = np.full(MAX_ACTIONS + 1, self._actions.code(None), np.uint8)
        place = 0
        while place < len(legend):
            code, size = legend[place], legend[place + 1]
            codes[code] = self._actions.code(legend[place + 2 : place + 2 + size].decode())
            place += 2 + size
        return codes


def _heads(users: list[str], values: Sequence[bytes], where: str) -> npt.NDArray[Any]:
    """[B] what stands at the beginning of each value."""
    _check(users, min(map(len, values)) >= _HEAD.itemsize, where)
    heads = np.frombuffer(b"".join([value[: _HEAD.itemsize] for value in values]), _HEAD)
    newest = int(heads["schema"].max())
    if newest > SCHEMA:
        raise NewerWindowError(
            f"{where}: a window was written in version {newest}, this engine knows up to {SCHEMA}; upgrade this worker"
        )
    return heads


def _check(users: list[str], fits: bool, where: str) -> None:
    if not fits:
        raise ChangelogError(
            f"{where}: the window of one of {len(users)} users is damaged: its length is not what its head says"
        )


def _actions_in_use(actions: UInt8, starts: Int64) -> Int64:
    """[B] for each user, a mask with the bits of all actions in the window."""
    masks: Int64 = np.bitwise_or.reduceat(np.int64(1) << actions.astype(np.int64), starts)
    return masks


def _cut(data: bytes, ends: Int64) -> Iterator[bytes]:
    """The pieces of `data` between these places."""
    places = ends.tolist()
    return (data[start:end] for start, end in pairwise(places))
