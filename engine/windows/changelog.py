"""The changelog: every changed window on a compacted topic, so that another worker can go on.

A record's key is the user, its value the whole window (`engine.windows.codec`), or null for a user who was forgotten.
It goes to the partition with the number of the user's clicks.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from operator import itemgetter

from engine.arrays import Int32
from engine.errors import ChangelogError
from engine.eventlog.base import Outgoing, Partition, Records
from engine.settings.sections import Settings
from engine.windows.codec import WindowCodec, _joined
from engine.windows.packed import PackedWindows
from engine.windows.spill import Row, SpillStore
from engine.windows.store import WindowStore


class Changelog:
    """A window store's changes as records, and records as changes to the store."""

    def __init__(self, settings: Settings, windows: WindowStore, codec: "WindowCodec") -> None:
        self._topic = settings.windows.topic
        self._windows = windows
        self._codec = codec
        self._attic = SpillStore()
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

    def reload(self, users: Sequence[str]) -> None:
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


def _user(key: bytes | None, where: str) -> str:
    try:
        return (key or b"").decode()
    except UnicodeDecodeError as error:
        raise ChangelogError(f"{where}: key {key!r} is no user id; who wrote to this topic?") from error
