"""The message on the topic `canary-sums`: what one worker has counted of a canary's users and of the others."""

from typing import Final

import msgspec

SUMS_SCHEMA: Final = 1


class CanarySums(msgspec.Struct, frozen=True, kw_only=True):
    """Sums of one worker since it joined its group; those of all workers add up, and a null ends them."""

    schema: int = SUMS_SCHEMA
    """Version of this schema."""
    canary: str
    """Name of the canary's release: model and version."""
    control: str
    """Name of the live release that it is compared with."""
    announced_ms: int
    """Time at which the canary was announced: a second try of a version is another canary."""
    writer: str
    """Random name of the worker's session; a worker that joins again begins at nothing under another."""
    mode: str = "split"
    """`split`, or `interleave`: every click counts in both arms, and a hit in that of the release of its place."""
    clicks: list[list[int]]
    """Judged clicks, by arm (live, canary) and cluster of users."""
    hits: list[list[int]]
    """Of them, clicks on one of the first ten items of the list that the user had been sent, or shown."""
    gains: list[list[float]]
    """Sums of 1 / log2(1 + rank) over the hits; their number where `mode` is `interleave`."""
    exposure: str = "lists"
    """`lists`: clicks are judged by the list sent last. `impressions`: by what was shown last."""

    @property
    def key(self) -> bytes:
        """Key on the topic: one record a worker's session is left by compaction."""
        return f"{self.canary}/{self.announced_ms}/{self.writer}".encode()
