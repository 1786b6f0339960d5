"""The messages on the topic `releases`, and in a watched folder: the states of releases, their bundles, and pins."""

from typing import Final

import msgspec

from engine.messages.experiment_messages import Experiment

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
    reason: str = ""
    """Reason of the state, in the words of an operator or of a canary's judgement."""
    content: str = ""
    """Content hash of the bundle (`Manifest.content_hash`); empty for a bundle from before there was one."""

    @property
    def key(self) -> bytes:
        """Key on the topic: one record a version is left by compaction."""
        return f"{self.model}/{self.version}".encode()

    @property
    def name(self) -> str:
        """Model and version in one word, as lists and log messages name the release."""
        return f"{self.model}-{self.version}"


class ReleasePin(msgspec.Struct, frozen=True, kw_only=True):
    """The version that a model's workers keep to, whatever is announced; the record's key is `MODEL@pin`."""

    schema: int = SCHEMA
    """Version of this schema."""
    model: str
    """Name of the model."""
    pinned_version: str
    """Version of the release; empty once the pin is lifted."""
    pinned_ms: int
    """Time of pinning or lifting, Unix milliseconds."""
    reason: str = ""
    """Reason in the words of the operator."""

    @property
    def key(self) -> bytes:
        """Key on the topic: one record a model is left by compaction."""
        return f"{self.model}@pin".encode()


class FolderHistory(msgspec.Struct, frozen=True, kw_only=True):
    """The further fields of `MODEL.json` in a watched folder, whose other fields are the announcement to serve by."""

    others: list[Announcement] = []
    """The last announcements of the model's other versions."""
    pins: list[ReleasePin] = []
    """The last pin, or nothing."""
    experiments: list[Experiment] = []
    """The last record of each experiment."""
