"""The counts of all workers of a canary or an experiment, read from the topic of sums."""

import base64
import binascii
from typing import Final

import msgspec
import numpy as np

from engine.eventlog.base import Reader
from engine.messages.announcement import Announcement
from engine.messages.canary_sums import CanarySums
from engine.messages.experiment_messages import Experiment, ExperimentLook, ExperimentSums
from engine.quality import user_sample
from engine.quality.experiment import ARMS, CLUSTERS, ArmSums
from engine.quality.experiment_report import ExperimentCounts

_MAX_RECORDS: Final = 1000
_END_POLL_S: Final = 0.2
_UNDECODABLE: Final = (msgspec.DecodeError, UnicodeDecodeError)

_Sums = CanarySums | ExperimentSums


class SumsReader:
    """The last record of each worker's session, and the looks at experiments."""

    def __init__(self, reader: Reader, mode: str = "split", exposure: str = "lists") -> None:
        """Read nothing yet; of canaries' sums those of this mode and exposure count."""
        self._reader = reader
        self._mode, self._exposure = mode, exposure
        self._canaries: dict[bytes, CanarySums] = {}
        self._experiments: dict[bytes, ExperimentSums] = {}
        self._looks: dict[bytes, ExperimentLook] = {}

    def total(self, canary: Announcement, control: str) -> ArmSums:
        """The sums of all workers of a canary, compared with this live release."""
        self._read()
        total = ArmSums.empty()
        expected = (canary.name, control, canary.announced_ms, self._mode, self._exposure)
        for record in self._canaries.values():
            if (record.canary, record.control, record.announced_ms, record.mode, record.exposure) == expected:
                total += _sums_of(record)
        return total

    def counts(self, experiment: Experiment) -> ExperimentCounts:
        """The counts of all workers of an experiment."""
        self._read()
        names = [arm.name for arm in experiment.arms]
        counts = ExperimentCounts.empty(len(names))
        for key, record in self._experiments.items():
            if not _is_of(key, experiment) or record.arms != names or record.exposure != experiment.exposure:
                continue
            counts.sums += _sums_of(record)
            sampled = [*map(base64.b64decode, record.sampled)]
            counts.sample += user_sample.from_bytes(sampled, record.threshold)
            counts.sessions += 1
            for arm, reason in record.refused.items():
                reasons = counts.refused.setdefault(arm, [])
                reasons += [reason] if reason not in reasons else []
        return counts

    def looks(self, experiment: Experiment) -> list[ExperimentLook]:
        """The looks at an experiment; of those that were read by the last call of `counts`."""
        return [look for key, look in self._looks.items() if _is_of(key, experiment)]

    def keys(self, canary: Announcement) -> list[bytes]:
        """Keys of the records of a canary."""
        return [key for key, record in self._canaries.items() if record.canary == canary.name]

    def experiment_keys(self, experiment: Experiment) -> list[bytes]:
        """Keys of the records and looks of an experiment; of those that were read by the last call of `counts`."""
        return [key for key in (*self._experiments, *self._looks) if _is_of(key, experiment)]

    def close(self) -> None:
        """Free the reader."""
        self._reader.close()

    def _read(self) -> None:
        """Read all that is there; at first to the end as it was, so that nothing is decided by a part of it."""
        while (polled := self._reader.poll(0.0, _MAX_RECORDS)) or not self._reader.at_end():
            polled = polled or self._reader.poll(_END_POLL_S, _MAX_RECORDS)
            for records in polled:
                for key, value in zip(records.keys, records.values, strict=True):
                    self._apply(key or b"", value)

    def _apply(self, key: bytes, value: bytes | None) -> None:
        """Take a record in the place of the last one of its key; one that cannot be read counts nothing."""
        for records in (self._canaries, self._experiments, self._looks):
            records.pop(key, None)
        if value is None:
            return
        try:
            if not key.startswith(b"experiment/"):
                self._add_canary(key, msgspec.json.decode(value, type=CanarySums))
            elif b"/look/" in key:
                self._looks[key] = msgspec.json.decode(value, type=ExperimentLook)
            else:
                self._add_experiment(key, msgspec.json.decode(value, type=ExperimentSums))
        except _UNDECODABLE:
            return

    def _add_canary(self, key: bytes, record: CanarySums) -> None:
        if _has_shape(record, ARMS):
            self._canaries[key] = record

    def _add_experiment(self, key: bytes, record: ExperimentSums) -> None:
        arms = len(record.arms)
        is_threshold = 0 <= record.threshold <= user_sample.EVERYBODY
        if _has_shape(record, arms) and len(record.sampled) == arms and is_threshold and _are_tickets(record.sampled):
            self._experiments[key] = record


def _is_of(key: bytes, experiment: Experiment) -> bool:
    return key.startswith(f"{experiment.sums_key}/".encode())


def _sums_of(record: _Sums) -> ArmSums:
    return ArmSums(*(np.array(sums, np.float64) for sums in (record.clicks, record.hits, record.gains)))


def _has_shape(record: _Sums, arms: int) -> bool:
    """True where there is a sum for each arm and cluster."""
    shapes = {len(row) for sums in (record.clicks, record.hits, record.gains) for row in sums}
    return shapes == {CLUSTERS} and {len(record.clicks), len(record.hits), len(record.gains)} == {arms}


def _are_tickets(sampled: list[str]) -> bool:
    try:
        return all(len(base64.b64decode(tickets, validate=True)) % 4 == 0 for tickets in sampled)
    except (binascii.Error, ValueError):
        return False
