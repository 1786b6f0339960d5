"""Fetched records: parsed leniently, and watched for offsets that retention deleted before they were read."""

import threading
from collections.abc import Callable
from typing import Any, Final

from kafka.consumer.fetcher import Fetcher
from kafka.errors import OffsetOutOfRangeError
from kafka.record.default_records import DefaultRecordBatch

from engine.eventlog.base import Partition

_NO_ERROR: Final = 0


class _LenientBytes(bytearray):
    r"""A batch's bytes, of which no slice fails to be text: `\xff` in the place of a byte that is no UTF-8."""

    def __getitem__(self, key: Any) -> Any:
        part = super().__getitem__(key)
        return _LenientBytes(part) if isinstance(key, slice) else part

    def decode(self, encoding: str = "utf-8", errors: str = "backslashreplace") -> str:
        return super().decode(encoding, errors)


class _LenientBatch(DefaultRecordBatch):  # type: ignore[misc]
    """The library's batch, with header names as text even where they are no UTF-8.

    The protocol does not demand it, clients in C write such names, and the library refuses the whole batch for one.
    """

    __slots__ = ()

    def _read_msg(self) -> Any:
        try:
            return super()._read_msg()
        except UnicodeDecodeError:
            self._buffer: Any = _LenientBytes(self._buffer)  # type: ignore[misc]  # a slot of the library's
            return super()._read_msg()


class _LenientBatches:
    """The batches of one fetch."""

    def __init__(self, batches: Any) -> None:
        self._batches = batches

    def next_batch(self) -> Any:
        """The next batch; None after the last."""
        batch = self._batches.next_batch()
        if isinstance(batch, DefaultRecordBatch):
            batch.__class__ = _LenientBatch
        return batch


class _LenientRecords(Fetcher.PartitionRecords):  # type: ignore[misc]
    """The library's records of one fetch, out of lenient batches."""

    def _unpack_records(self, partition: Any, batches: Any, *deserializers: Any) -> Any:
        return super()._unpack_records(partition, _LenientBatches(batches), *deserializers)


def parse_leniently(fetcher: Any) -> None:
    """Let a consumer read records whatever the names of their headers are."""
    fetcher.PartitionRecords = _LenientRecords


class DeletionWatch:
    """Notices that a consumer's next records were deleted before it read them.

    The broker answers such a fetch with "offset out of range", and the library goes on at the earliest record that
    there is, without a word. Fetches are parsed by the consumer's I/O thread or by the session's: there is a lock.
    """

    def __init__(self, fetcher: Any) -> None:
        self._parse: Callable[[Any], Any] = fetcher._parse_fetched_data  # noqa: SLF001 - there is no public way to it
        fetcher._parse_fetched_data = self._look  # noqa: SLF001
        self._lock = threading.Lock()
        self._refused: dict[Partition, int] = {}
        self._deleted: dict[Partition, range] = {}

    def take(self, position: Callable[[Partition], int | None]) -> dict[Partition, range]:
        """Offsets deleted unread since the last call.

        Args:
            position: the next offset to read of a partition; None while that is not known.
        """
        if not (self._refused or self._deleted):
            return {}
        for partition in list(self._refused):
            self._resolve(partition, position(partition))
        with self._lock:
            deleted, self._deleted = self._deleted, {}
        return deleted

    def _look(self, fetch: Any) -> Any:
        partition = Partition(*fetch.topic_partition)
        if fetch.partition_data.error_code == OffsetOutOfRangeError.errno:
            self._refused[partition] = fetch.fetched_offset
        elif fetch.partition_data.error_code == _NO_ERROR:
            self._resolve(partition, fetch.fetched_offset)
        return self._parse(fetch)

    def _resolve(self, partition: Partition, goes_on: int | None) -> None:
        """Note the records between the offset that was refused and that at which reading goes on."""
        with self._lock:
            refused = self._refused.get(partition)
            if refused is None or goes_on is None or goes_on == refused:
                return
            del self._refused[partition]
            if goes_on > refused:
                self._deleted[partition] = range(refused, goes_on)
