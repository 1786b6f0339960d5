"""The message on the topic `releases`, and in a watched folder: the state of a release, and the place of its bundle."""

from typing import Final

import msgspec

SCHEMA: Final = 1


class Announcement(msgspec.Struct, frozen=True, kw_only=True):
    """An announcement of a release; the record's key is `MODEL/VERSION`, and a null withdraws it."""

    schema: int = SCHEMA
    """Version of this schema."""
    model: str
    """Name of the model, which workers follow by `releases.model`."""
    version: str
    """Version of the release."""
    state: str
    """`candidate`, `canary`, `live` or `retired`; workers serve by the live release that was announced last."""
    bundle: str
    """The bundle's folder as the workers see it: an absolute path, or an address that fsspec knows."""
    manifest_checksum: str
    """SHA-256 of the bundle's manifest, which holds the checksums of all other files."""
    announced_ms: int
    """Time of the announcement, Unix milliseconds."""
    figures: dict[str, float] = {}
    """Figures of the release from its training, by name."""

    @property
    def key(self) -> bytes:
        """Key on the topic: one record a version is left by compaction."""
        return f"{self.model}/{self.version}".encode()
