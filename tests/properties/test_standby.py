"""Standby: wherever a partition moves, its owner has the latest windows, and its standby has them in the end."""

from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given
from hypothesis import strategies as st

from engine.catalogue import searches
from engine.eventlog.base import TopicSpec
from engine.eventlog.memory.log import MemoryLog
from engine.settings.sections import Settings, SnapshotSettings, TelemetrySettings, WindowSettings
from tests.integration.test_recovery import Copy

PARTITIONS = 2
USERS = 3
"""Users of each partition."""
LENGTH = 3

partitions, users, workers = st.integers(0, PARTITIONS - 1), st.integers(0, USERS - 1), st.integers(0, 1)
click = st.tuples(st.just("click"), partitions, users)
forget = st.tuples(st.just("forget"), partitions, users)
move = st.tuples(st.just("move"), partitions)
step = st.tuples(st.just("step"), workers)
save = st.tuples(st.just("save"), workers)


class Shop:
    """Two workers, and the expected windows."""

    def __init__(self, folder: Path, *, standby: bool) -> None:
        settings = Settings(
            windows=WindowSettings(max_users=10, length=LENGTH, standby=standby),
            snapshots=SnapshotSettings(folder=folder),
            telemetry=TelemetrySettings(port=0),
        )
        log = MemoryLog()
        log.ensure_topics([TopicSpec(settings.windows.topic, PARTITIONS, compacted=True)])
        self.workers = [Copy(log, settings), Copy(log, settings)]
        self.owners = [0] * PARTITIONS
        self.expected: dict[str, list[str]] = {}
        self._clicks = 0
        for worker in self.workers:
            worker.restorer.stand_by(range(PARTITIONS))
        self.workers[0].restore(*range(PARTITIONS))

    def click(self, partition: int, number: int) -> None:
        user, item = f"{partition}-{number}", f"i{self._clicks}"
        if self._clicks % 3 == 0:
            item = searches.id_of(f"words {self._clicks}")
        self._clicks += 1
        self.workers[self.owners[partition]].click(user, item, partition)
        self.expected[user] = [*self.expected.get(user, []), item][-LENGTH:]

    def forget(self, partition: int, number: int) -> None:
        user = f"{partition}-{number}"
        self.workers[self.owners[partition]].forget(user, partition)
        self.expected.pop(user, None)

    def move(self, partition: int) -> None:
        self.workers[self.owners[partition]].restorer.drop([partition])
        self.owners[partition] = 1 - self.owners[partition]
        self.workers[self.owners[partition]].restore(partition)

    def step(self, worker: int) -> None:
        self.workers[worker].restorer.step(0.0)

    def save(self, worker: int) -> None:
        self.workers[worker].saver.finish()

    def close(self) -> None:
        for worker in self.workers:
            worker.saver.close()
            worker.restorer.close()


@given(st.lists(st.one_of(click, click, forget, move, step, save), max_size=40), st.booleans())
def test_windows_follow_their_partition(script: list[tuple[str, int]], standby: bool) -> None:
    with TemporaryDirectory() as folder:
        shop = Shop(Path(folder), standby=standby)
        for method, *arguments in script:
            getattr(shop, method)(*arguments)
        for worker in shop.workers:
            worker.keep_warm()
        for partition, owner in enumerate(shop.owners):
            names = [f"{partition}-{number}" for number in range(USERS)]
            expected = [shop.expected.get(user, []) for user in names]
            assert [shop.workers[owner].items(user) for user in names] == expected
            other = [shop.workers[1 - owner].items(user) for user in names]
            assert other == (expected if standby else [[] for _ in names])
        shop.close()
