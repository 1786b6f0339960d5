"""Snapshots of all restored partitions, written on a schedule in the background and once more at an orderly stop."""

from concurrent.futures import Executor, Future, ThreadPoolExecutor

from engine.settings.sections import Settings
from engine.windows.restorer import Restorer, logger
from engine.windows.snapshots import SnapshotHeader, Snapshots
from engine.windows.users import UserWindows


class Saver:
    """Writes snapshots of all restored partitions: now and then, one at a time, in the background, and at the end."""

    def __init__(
        self,
        settings: Settings,
        windows: UserWindows,
        snapshots: Snapshots,
        restorer: Restorer,
        executor: Executor | None = None,
    ) -> None:
        self._time = restorer.time
        self._settings = settings.snapshots
        self._windows = windows
        self._snapshots = snapshots
        self._restorer = restorer
        self._queue: list[int] = []
        self._due_s = self._time.monotonic_s() + self._settings.interval_s
        self._pool = executor or ThreadPoolExecutor(1, "snapshots")
        self._under_way: Future[None] | None = None

    def step(self, now_s: float) -> None:
        """Begin with the next snapshot when it is time; called between two batches, when nothing is uncommitted."""
        if self._settings.folder is None:
            return
        if now_s >= self._due_s:
            self._due_s = now_s + self._settings.interval_s
            self._queue = self._restorer.restored()
            self._snapshots.sweep(self._time.now_ms())
        if self._queue and (self._under_way is None or self._under_way.done()):
            self._settle()
            self._begin(self._queue.pop())

    def writes(self) -> bool:
        """Whether one is under way."""
        return self._under_way is not None and not self._under_way.done()

    def finish(self) -> None:
        """Write all of them."""
        if self._settings.folder is not None:
            for number in self._restorer.restored():
                self._begin(number)
                self._settle()

    def close(self) -> None:
        """Free the thread."""
        self._pool.shutdown()

    def _begin(self, number: int) -> None:
        if number in self._restorer.restored():
            now_ms = self._time.now_ms()
            header = SnapshotHeader(self._restorer.identity, number, self._windows.positions[number], now_ms)
            self._under_way = self._pool.submit(self._snapshots.write, header, self._windows.pack(number))

    def _settle(self) -> None:
        """Wait for the one under way; a failure costs only time at the next start."""
        if self._under_way is not None:
            try:
                self._under_way.result()
            except OSError as error:
                logger.error(
                    "a snapshot cannot be written to snapshots.folder %s: %s; the last one stays, and a restart reads"
                    " more of the changelog: make room, or name another folder",
                    *(self._settings.folder, error),
                )
                self._restorer.metrics.failed_snapshots.inc()
            self._under_way = None
