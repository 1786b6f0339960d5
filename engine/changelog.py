"""The changelog: every changed window on a compacted topic, so that a worker can take over where another one ended.

A record's key is the user, its value the whole window, or null for a user who was forgotten; it stands in the partition
with the number of the user's clicks. Numbers of items and codes of actions live in one process only, so a record spells
both out. Version 1, all numbers little-endian:

    version      1 byte
    flags        1 byte      1: every event carries the hash of its event id
    events       2 bytes     n
    legend size  2 bytes     bytes of the legend
    legend       for each action in use: code (1 byte), length of its name (1 byte), the name in UTF-8
    n events     oldest first: time in ms << 6 | action (6 bytes), length of the item id (2 bytes), [hash (4 bytes)]
    item ids     in UTF-8, one after the other

Both ways work on the columns of many users at once; what remains per user is cutting and joining bytes.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby, pairwise
from operator import itemgetter
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from engine.actions import Actions
from engine.attic import Attic, Row
from engine.catalogue import Catalogue
from engine.columns import Int32, Int64, UInt8
from engine.errors import ChangelogError
from engine.eventlog.base import Outgoing, Partition, Records
from engine.id_table import IdTable
from engine.settings import Settings
from engine.window_store import ACTION_BITS, ACTION_MASK, PackedWindows, WindowStore

SCHEMA: Final = 1
_WITH_HASHES: Final = 1
_HEAD: Final = np.dtype([("schema", "u1"), ("flags", "u1"), ("events", "<u2"), ("legend", "<u2")])
_PLAIN: Final = np.dtype([("low", "<u4"), ("high", "<u2"), ("id", "<u2")])
_HASHED: Final = np.dtype([*_PLAIN.descr, ("hash", "<u4")])
_HALF_BITS: Final = 32
_LOW_HALF: Final = (1 << _HALF_BITS) - 1
_COLUMNS: Final = ("counts", "items", "times_ms", "actions", "event_hashes")


class Changelog:
    """A window store's changes as records, and records as changes to the store."""

    def __init__(self, settings: Settings, windows: WindowStore, codec: "WindowCodec") -> None:
        self._topic = settings.windows.topic
        self._windows = windows
        self._codec = codec
        self._attic = Attic()
        if settings.windows.on_return == "restore":
            windows.on_evict = self._put_away
        self.positions: dict[int, int] = {}
        """By partition, the offset of the changelog up to which the store knows everything."""

    def changes(self, slots: Int32, forgotten: Sequence[tuple[str, int]]) -> Outgoing:
        """The records that say what became of these windows, and of users who were forgotten, with their partitions."""
        packed = self._windows.pack(slots)
        values: list[bytes | None] = [*self._codec.encode(packed), *[None] * len(forgotten)]
        return Outgoing(
            topic=self._topic,
            keys=[*(user.encode() for user in packed.users), *(user.encode() for user, _ in forgotten)],
            values=values,
            partitions=[*self._windows.partitions(slots).tolist(), *(partition for _, partition in forgotten)],
        )

    def wrote(self, ends: Mapping[Partition, int]) -> None:
        """Changes were delivered up to these offsets."""
        for partition, end in ends.items():
            if partition.topic == self._topic:
                self.positions[partition.number] = end

    def apply(self, records: Records) -> int:
        """Bring the store to where these records lead; returns how many users they tell of.

        Raises:
            ChangelogError: a record cannot be read.
        """
        topic, number = records.partition
        where = f"topic {topic} partition {number}, offsets {records.offsets[0]} to {records.offsets[-1]}"
        newest = {_user(key, where): value for key, value in zip(records.keys, records.values, strict=True)}
        windows = {user: value for user, value in newest.items() if value is not None}
        for user in newest.keys() - windows.keys():
            self.forget(user)
        if windows:
            self.load(self._codec.decode([*windows], [*windows.values()], where), number)
        return len(newest)

    def load(self, packed: PackedWindows, partition: int) -> None:
        """Take over windows that were written elsewhere."""
        for part in packed.parts(self._windows.max_users):  # beyond that, the users loaded first make room
            self._windows.absent(part.users)
            self._attic.take(part.users)  # what is there is older
            self._windows.load(part, partition)

    def pack(self, partition: int) -> PackedWindows:
        """A copy of all windows of a partition."""
        slots = self._windows.held(partition)
        packed = self._windows.pack(slots[self._windows.known(slots)])
        away = [windows for windows, _ in self._decoded(self._attic.of(partition))]
        return _joined([packed, *away]) if away else packed

    def bring_back(self, users: Sequence[str]) -> None:
        """Give users who made room their windows again."""
        if len(self._attic):
            for packed, partition in self._decoded(self._attic.take(self._windows.absent(users))):
                self._windows.load(packed, partition)

    def forget(self, user: str) -> None:
        """Drop a user's window."""
        self._windows.forget(user)
        self._attic.take([user])

    def drop(self, partition: int) -> None:
        """Drop the windows of a partition that went to another worker."""
        self._windows.drop_partition(partition)
        self._attic.drop_partition(partition)
        self.positions.pop(partition, None)

    def clear(self) -> None:
        """Drop every window."""
        self._windows.clear()
        self._attic.clear()
        self.positions.clear()

    def _put_away(self, slots: Int32) -> None:
        packed = self._windows.pack(slots)
        partitions = self._windows.partitions(slots).tolist()
        self._attic.put(list(zip(packed.users, partitions, self._codec.encode(packed), strict=True)))

    def _decoded(self, rows: Iterable[Row]) -> Iterator[tuple[PackedWindows, int]]:
        """The windows of these rows, partition by partition."""
        for partition, some in groupby(sorted(rows, key=itemgetter(1)), itemgetter(1)):
            users, _, values = zip(*some, strict=True)
            yield self._codec.decode(list(users), values, "the attic"), partition


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
        words = packed.times_ms << ACTION_BITS | packed.actions
        events["low"], events["high"], events["id"] = words & _LOW_HALF, words >> _HALF_BITS, lengths
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
            ChangelogError: a value is of another version, or damaged; `where` says where it came from.
        """
        heads = _heads(users, values, where)
        hashed = (heads["flags"] & _WITH_HASHES) > 0
        if hashed.all() or not hashed.any():
            return self._decode(users, values, heads, where)
        halves = (np.flatnonzero(hashed).tolist(), np.flatnonzero(~hashed).tolist())
        return _joined(
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
        words = events["high"].astype(np.int64) << _HALF_BITS | events["low"]
        try:
            items = self._ids.numbers(events["id"].astype(np.int64), texts)
            actions = self._codes(legends, counts, words & ACTION_MASK)
        except (UnicodeDecodeError, IndexError) as error:
            raise ChangelogError(f"{where}: the window of one of {len(users)} users is damaged: {error}") from error
        hashes = events["hash"] if layout is _HASHED else np.zeros(len(events), np.uint32)
        return PackedWindows(users, counts, items, words >> ACTION_BITS, actions, hashes)

    def _codes(self, legends: list[bytes], counts: Int64, written: Int64) -> UInt8:
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
        codes = np.full(ACTION_MASK + 1, self._actions.code(None), np.uint8)
        place = 0
        while place < len(legend):
            code, size = legend[place], legend[place + 1]
            codes[code] = self._actions.code(legend[place + 2 : place + 2 + size].decode())
            place += 2 + size
        return codes


def _user(key: bytes | None, where: str) -> str:
    try:
        return (key or b"").decode()
    except UnicodeDecodeError as error:
        raise ChangelogError(f"{where}: key {key!r} is no user id; who wrote to this topic?") from error


def _heads(users: list[str], values: Sequence[bytes], where: str) -> npt.NDArray[Any]:
    """[B] what stands at the beginning of each value."""
    _check(users, min(map(len, values)) >= _HEAD.itemsize, where)
    heads = np.frombuffer(b"".join([value[: _HEAD.itemsize] for value in values]), _HEAD)
    newest = int(heads["schema"].max())
    if newest > SCHEMA:
        raise ChangelogError(
            f"{where}: a window was written in version {newest}, this engine knows up to {SCHEMA}; upgrade this worker"
        )
    return heads


def _check(users: list[str], fits: bool, where: str) -> None:
    if not fits:
        raise ChangelogError(
            f"{where}: the window of one of {len(users)} users (the first is {users[0]!r}) is damaged: its length is"
            " not what its head says; who wrote to this topic? A null value under the user's key takes the record out"
        )


def _actions_in_use(actions: UInt8, starts: Int64) -> Int64:
    """[B] for each user, a mask with the bits of all actions in the window."""
    masks: Int64 = np.bitwise_or.reduceat(np.int64(1) << actions.astype(np.int64), starts)
    return masks


def _cut(data: bytes, ends: Int64) -> Iterator[bytes]:
    """The pieces of `data` between these places."""
    places = ends.tolist()
    return (data[start:end] for start, end in pairwise(places))


def _joined(parts: list[PackedWindows]) -> PackedWindows:
    return PackedWindows(
        [user for part in parts for user in part.users],
        *(np.concatenate([getattr(part, name) for part in parts]) for name in _COLUMNS),
    )
