"""Records of the changelog that cannot be read: one of them stops nobody, and only its user begins again."""

import logging

from engine.metrics import Metrics

logger = logging.getLogger(__name__)


class SetAside:
    """Keys whose newest record cannot be read, by partition, each with the reason."""

    def __init__(self) -> None:
        self._reasons: dict[int, dict[bytes, str]] = {}
        self._named: set[bytes] = set()

    def add(self, partition: int, key: bytes, reason: str) -> None:
        """Set a record aside until a later one of its key can be read."""
        self._reasons.setdefault(partition, {})[key] = reason

    def heal(self, partition: int, key: bytes) -> None:
        """A later record of this key can be read, or takes it out."""
        if partition in self._reasons:
            self._reasons[partition].pop(key, None)

    def drop(self, partition: int) -> None:
        """The partition went to another worker."""
        self._reasons.pop(partition, None)

    def clear(self) -> None:
        """All partitions are to be read again."""
        self._reasons.clear()

    def report(self, partition: int, metrics: Metrics) -> None:
        """Count and name those of a partition that was read to its end; each key once, and itself at debug alone."""
        for key, reason in self._reasons.pop(partition, {}).items():
            if key not in self._named:
                self._named.add(key)
                metrics.set_aside_windows.inc()
                logger.warning("%s", reason)
                logger.debug("partition %d of the changelog: the key of the record set aside is %r", partition, key)
