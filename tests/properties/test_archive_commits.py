"""The archive against a model of it: each click of the topic once, whatever is killed when, whoever archives beside it.

The files are on a file system without rename, in this process, which kills the archiver before or after any of its
operations. What the archive holds is read through the same reader as training.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import pytest
from fsspec import register_implementation
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import DataError
from engine.eventlog.base import Outgoing, TopicSpec
from engine.eventlog.memory.log import MemoryLog
from engine.eventlog.time_source import TimeSource
from engine.interactions import archive_files
from engine.interactions.archive_compaction import CompactionSettings, Compactor
from engine.interactions.archive_folder import ArchiveFolder
from engine.interactions.archive_table import ArchiveTable
from engine.metrics import Metrics
from engine.settings.sections import ArchiveSettings, Settings, WorkerSettings
from engine.worker.archiver import Archiver, archive_once

LONG = os.environ.get("LONG_TESTS") == "1"
PARTITIONS = 3
NOON_MS = 1_764_072_000_000
HOUR_MS = 3_600_000
ADDRESS = "mortal://shop/clicks"
Row = tuple[int, int, str, str]
"""Partition, offset, user, item."""


class Death(BaseException):
    """As kill -9: nothing in an archiver catches it."""


class MortalFileSystem(MemoryFileSystem):  # type: ignore[misc]
    """A store of objects that are put and deleted whole, and never renamed; it kills at the operation it is told."""

    protocol = "mortal"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    until_death: float = float("inf")
    deadly_after = False

    def pipe_file(self, path: str, value: bytes, **options: Any) -> None:
        self._live_through(lambda: super(MortalFileSystem, self).pipe_file(path, value, **options))

    def rm(self, path: str, *args: Any, **options: Any) -> None:
        self._live_through(lambda: super(MortalFileSystem, self).rm(path, *args, **options))

    def find(self, *args: Any, **options: Any) -> Any:
        return self._live_through(lambda: super(MortalFileSystem, self).find(*args, **options))

    def mv(self, *_args: Any, **_options: Any) -> None:
        raise AssertionError("an object store has no rename")

    def _live_through(self, operation: Callable[[], Any]) -> Any:
        kind = type(self)
        kind.until_death -= 1
        if kind.until_death == 0 and not kind.deadly_after:
            raise Death
        result = operation()
        if kind.until_death == 0:
            raise Death
        return result


register_implementation("mortal", MortalFileSystem, clobber=True)


class World:
    """A topic, an archive of it, and the rows that the archive must have."""

    def __init__(self) -> None:
        MortalFileSystem.store.clear()
        MortalFileSystem.until_death = float("inf")
        self.now_s, self.clicks = 0.0, 0
        self.log = MemoryLog(now_ms=self.now_ms)
        self.log.ensure_topics([TopicSpec("clicks", PARTITIONS)])
        self.rows: list[Row] = []
        self.every_click: set[Row] = set()
        """Those of users who are forgotten, too."""
        self.ends = [0] * PARTITIONS
        self.settings = Settings(
            archive=ArchiveSettings(folder=ADDRESS, file_age_s=60.0, compaction_interval_s=3600.0),
            worker=WorkerSettings(poll_timeout_s=0.001),
        )

    def now_ms(self) -> int:
        return NOON_MS + round(self.now_s * 1000)

    def time(self) -> TimeSource:
        return TimeSource(lambda: self.now_s, self.now_ms)

    def click(self, partition: int, user: str) -> None:
        item, self.clicks = f"item-{self.clicks}", self.clicks + 1
        value = json.dumps({"user": user, "item": item, "ts": NOON_MS}).encode()
        self._send(partition, user, value)
        self.rows.append((partition, self.ends[partition] - 1, user, item))
        self.every_click.add(self.rows[-1])

    def forget(self, partition: int, user: str) -> None:
        """A producer's own request: it concerns the clicks before it, wherever they are."""
        self.now_s += 1.0
        self._send(partition, user, None)
        self.rows = [row for row in self.rows if row[2] != user]
        self.now_s += 1.0

    def archiver(self) -> Archiver:
        return Archiver(self.settings, self.log, Metrics(), self.time())

    def archive_the_rest(self) -> None:
        archive_once(self.settings, self.log, Metrics(), self.time())

    def expected(self) -> list[Row]:
        return sorted(self.rows)

    def _send(self, partition: int, user: str, value: bytes | None) -> None:
        with self.log.producer() as producer:
            producer.send(Outgoing("clicks", [user.encode()], [value], partitions=[partition]))
        self.ends[partition] += 1


def archived(address: str = ADDRESS) -> list[Row]:
    """Every row that a reader gets, as often as it gets it."""
    table = ArchiveTable(ArchiveFolder(address))
    batches = list(table.batches(["partition", "offset", "user", "item"]))
    columns = (
        [[value for batch in batches for value in batch[name].to_pylist()] for name in batches[0]] if batches else []
    )
    return sorted(zip(*columns, strict=True)) if columns else []


def stored() -> list[Row]:
    """Every row of every file that a reader would take, forgotten or not."""
    folder = ArchiveFolder(ADDRESS)
    rows = [
        row
        for parts in folder.parts().values()
        for part in archive_files.chain(parts)
        for run in folder.rows(part, ["partition", "offset", "user", "item"])
        for batch in run
        for row in zip(*(batch.column(name).to_pylist() for name in batch.schema.names), strict=True)
    ]
    return sorted(rows)


def serve(archivers: Sequence[Archiver], turns: int) -> None:
    for _ in range(turns):
        for archiver in archivers:
            archiver.step()


def script(world: World) -> Iterator[None]:
    """Some hours of a shop: clicks, a user who is forgotten, two archivers that take over from one another."""
    for number in range(12):
        world.click(number % PARTITIONS, "ann" if number % 4 else "bob")
    first = world.archiver()
    serve([first], 3)
    yield
    world.now_s += 61.0
    serve([first], 2)
    world.click(0, "ann")
    world.click(1, "eve")
    second = world.archiver()
    serve([first, second], 4)
    yield
    world.now_s += 61.0
    serve([first, second], 3)
    world.forget(1, "bob")
    world.click(2, "bob")
    serve([first, second], 3)
    yield
    world.now_s += 3601.0
    serve([first, second], 6)


@pytest.mark.parametrize("deadly_after", [False, True], ids=["before", "after"])
def test_a_kill_at_any_step_loses_and_doubles_nothing(deadly_after: bool) -> None:
    survived, steps = False, 0
    while not survived:
        steps += 1 if LONG or deadly_after else 3
        world = World()
        MortalFileSystem.until_death, MortalFileSystem.deadly_after = steps, deadly_after
        try:
            for _ in script(world):
                pass
            survived = True
        except Death:
            pass
        MortalFileSystem.until_death = float("inf")
        before = archived()
        assert len(before) == len(set(before)), f"doubled by a death at step {steps}"
        world.archive_the_rest()
        assert archived() == world.expected(), f"after a death at step {steps}"
        assert stored() == world.expected(), "the compaction that followed left a user who is forgotten"
    assert steps > 15, "there are listings, puts and deletions"


@settings(max_examples=150 if LONG else 12, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("ccccffaAkwxo"), st.integers(0, 2), st.sampled_from(["a", "b", "c"])), max_size=40
    )
)
def test_any_history_gives_each_click_once(history: list[tuple[str, int, str]]) -> None:
    world = World()
    archivers = [world.archiver()]
    for event, number, user in history:
        if event == "c":
            world.click(number, user)
        elif event == "f":
            world.forget(number, user)
        elif event == "a":
            archivers = [*archivers, world.archiver()][-3:]
        elif event == "k":
            MortalFileSystem.until_death, MortalFileSystem.deadly_after = number + 1, user == "a"
            try:
                serve(archivers[-1:], 3)
            except Death:
                archivers[-1]._leave()
                archivers[-1] = world.archiver()
            MortalFileSystem.until_death = float("inf")
        elif event == "w":
            world.now_s += 61.0
        elif event == "x":
            world.now_s += 3601.0
        elif event == "o":
            world.archive_the_rest()
            assert archived() == world.expected()
        serve(archivers, 1)
        rows = archived()
        assert len(rows) == len(set(rows))
        assert set(rows) <= world.every_click  # the request to forget somebody may not be read yet
    world.archive_the_rest()
    assert archived() == stored() == world.expected()


def test_two_that_both_believe_they_have_a_partition_double_nothing() -> None:
    world = World()
    for _ in range(5):
        world.click(0, "ann")
    expelled = world.archiver()
    serve([expelled], 2)  # it has read them, and sleeps
    world.archive_the_rest()
    for _ in range(5):
        world.click(0, "bob")
    world.archive_the_rest()
    assert expelled._stream is not None
    expelled._stream.write_due(everything=True)  # it wakes up, and writes them again
    assert len(ArchiveFolder(ADDRESS).parts()[0]) == 2
    assert archived() == world.expected()
    world.archive_the_rest()
    assert len(ArchiveFolder(ADDRESS).parts()[0]) == 1
    assert archived() == world.expected()


def test_compaction_while_somebody_reads_neither_hides_nor_repeats_a_row() -> None:
    world = World()
    for number in range(30):
        world.click(number % PARTITIONS, f"user-{number}")
        if number % 3 == 2:
            compacting = world.settings.archive
            world.settings = world.settings.model_copy(
                update={"archive": compacting.model_copy(update={"file_mib": 1e-9})}
            )
            world.archive_the_rest()  # files so small that none are put together
            world.settings = world.settings.model_copy(update={"archive": compacting})
    assert len(ArchiveFolder(ADDRESS).parts()[0]) == 10
    read: list[Row] = []
    table = ArchiveTable(ArchiveFolder(ADDRESS))
    compactor = Compactor(ArchiveFolder(ADDRESS), CompactionSettings(64.0, None))
    for number, batch in enumerate(table.batches(["partition", "offset", "user", "item"])):
        read += zip(*(batch[name].to_pylist() for name in batch), strict=True)
        if number in {1, 7}:
            for _ in compactor.run([number // 5], world.now_ms()):
                pass
    assert sorted(read) == world.expected()
    assert [len(parts) for parts in ArchiveFolder(ADDRESS).parts().values()] == [1, 1, 10]


def test_old_days_are_deleted_and_the_archive_goes_on_where_it_was() -> None:
    world = World()
    world.settings = world.settings.model_copy(
        update={"archive": ArchiveSettings(folder=ADDRESS, retention_days=7, file_age_s=60.0)}
    )
    world.click(0, "ann")
    world.archive_the_rest()
    world.now_s += 5 * 86_400.0
    world.click(1, "bob")
    world.archive_the_rest()
    assert archived() == world.expected()
    world.now_s += 4 * 86_400.0
    world.archive_the_rest()
    assert archived() == world.expected()[1:]
    world.now_s += 9 * 86_400.0
    world.archive_the_rest()
    assert archived() == []
    world.click(0, "eve")
    world.archive_the_rest()
    assert archived() == [row for row in world.expected() if row[2] == "eve"]


def test_files_are_known_for_what_they_are() -> None:
    world = World()
    world.click(0, "ann")
    world.archive_the_rest()
    [path] = MortalFileSystem.store
    content = MortalFileSystem.store[path].getvalue()
    files = MortalFileSystem()
    renamed = path.replace("-00000000000000000001-g0", "-00000000000000000009-g0")
    assert renamed != path
    files.pipe_file(renamed, content)
    with pytest.raises(DataError, match=r"has another name than its footer says \(partition 0, offsets 0 to 0\)"):
        archived()
    files.rm(renamed)
    foreign = path.partition("/day=")[0] + "/notes.txt"
    files.pipe_file(foreign, b"hello")
    with pytest.raises(DataError, match=r"notes\.txt is no file of the archive .* move it elsewhere"):
        archived()
    files.rm(foreign)
    assert archived() == world.expected()
    files.pipe_file(path, content[:-10])
    with pytest.raises(DataError, match=r"g0-.*cannot be read.*do without its clicks \(partition 0, offsets 0 to 0\)"):
        archived()
    world.archive_the_rest()  # the newest of its partition: what was cut short is read again
    assert archived() == world.expected()
    [path] = MortalFileSystem.store
    content = MortalFileSystem.store[path].getvalue()
    files.pipe_file(path, content.replace(b"headrace.archive", b"headrace.somebody"[:16]))
    with pytest.raises(DataError, match="has no footer of an archive"):
        world.archive_the_rest()  # it has its end: who knows what it is
    assert [*MortalFileSystem.store] == [path]
    files.pipe_file(path, content)


def test_an_archive_of_another_topic_is_refused() -> None:
    world = World()
    world.click(0, "ann")
    world.archive_the_rest()
    world.log = MemoryLog()
    world.log.ensure_topics([TopicSpec("clicks", PARTITIONS)])
    with pytest.raises(DataError, match=r"holds clicks of an earlier topic of that name .* name a new folder"):
        world.archive_the_rest()
    with pytest.raises(DataError, match="an earlier topic"):
        serve([world.archiver()], 3)


def test_a_store_in_trouble_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    world.click(0, "ann")
    world.archive_the_rest()

    def fail(error: OSError) -> Callable[..., Any]:
        def failing(*_args: Any, **_options: Any) -> Any:
            raise error

        return failing

    with monkeypatch.context() as patch:
        patch.setattr(MortalFileSystem, "open", fail(TimeoutError("no answer")))
        with pytest.raises(DataError, match=r"cannot be read.*no answer"):
            world.archive_the_rest()  # and nothing is deleted for it
        patch.setattr(MortalFileSystem, "open", fail(FileNotFoundError()))
        with pytest.raises(DataError, match=r"is listed and cannot be opened.*read the archive again"):
            archived()
    with monkeypatch.context() as patch:
        patch.setattr(MortalFileSystem, "find", fail(PermissionError("no")))
        with pytest.raises(DataError, match=r"cannot be listed: no; name a folder or an address"):
            archived()
    assert archived() == world.expected()
