"""The message on the topic `releases`: which stage a release is in, and where its bundle is."""

from typing import Final, Literal

import msgspec

SCHEMA: Final = 1


class Announcement(msgspec.Struct, frozen=True, kw_only=True):
    """A release as it stands on the topic `releases`, keyed by `key`."""

    schema: int = SCHEMA
    model: str
    version: str
    state: Literal["candidate", "canary", "live", "retired"]
    bundle: str
    """Path of the bundle's folder, as the workers see it."""
    manifest_checksum: str
    """SHA-256 of the manifest, which holds the checksums of everything else."""
    announced_ms: int
    figures: dict[str, float] = {}

    @property
    def key(self) -> bytes:
        """Key on the topic: one record per version stays after compaction."""
        return f"{self.model}/{self.version}".encode()
