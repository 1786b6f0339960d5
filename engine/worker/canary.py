"""A canary in one worker: which users it serves, and the sums by which it is judged together with those of all workers.

The sums are a record on a compacted topic, sent within the commit of a batch. A session of the worker has a record of
its own: one that fails leaves what it had committed, and the next one begins at nothing, so that no click counts twice
and nothing has to be restored. Clicks since the last record are lost with a session, in both arms alike. Without
transactions, a crash between the record and the positions counts the clicks of one batch twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final
from uuid import uuid4

import msgspec
import numpy as np

from engine.arrays import Int8, Int32, Int64
from engine.eventlog.base import Outgoing
from engine.messages.canary_sums import CanarySums
from engine.quality.experiment import CLUSTERS, NO_GROUP, ArmSums
from engine.releases.arms import Arms
from engine.releases.release_loader import Canary
from engine.settings.sections import CanarySettings

_GAIN_DIGITS: Final = 6


def _new_writer() -> str:
    return uuid4().hex[:12]


@dataclass(slots=True)
class CanaryArms:
    """The users of a canary and of the live release beside it, and their judged clicks."""

    canary: Canary
    control: str
    """Name of the live release."""
    settings: CanarySettings
    _arms: Arms = field(init=False)
    _sums: ArmSums = field(default_factory=ArmSums.empty)
    _writer: str = field(default_factory=_new_writer)
    _due_s: float = 0.0

    def __post_init__(self) -> None:
        announcement = self.canary.announcement
        salt = self.settings.salt or f"{announcement.name}/{announcement.announced_ms}"
        self._arms = Arms(salt, self.settings.share, CLUSTERS)

    def groups(self, users: Sequence[str]) -> Int32:
        """[n] arm and cluster of each user, see `Arms.groups`."""
        return self._arms.groups(users)

    @property
    def interleaves(self) -> bool:
        """Whether the canary and the live release make lists together."""
        return self.settings.mode == "interleave"

    @property
    def release_names(self) -> tuple[str, str]:
        """Names of the releases that are compared, the live one first."""
        return self.control, self.canary.announcement.name

    def judged(self, groups: Int32, ranks: Int64, teams: Int8) -> None:
        """Count n clicks by the groups of their users [n], the ranks of their items [n], and the teams of places."""
        if not self.interleaves:
            self._sums.add(groups, ranks)
            return
        team_of_place = teams[np.arange(len(ranks)), np.maximum(ranks - 1, 0)]
        self._sums.add_interleaved(np.where(groups >= CLUSTERS, groups, NO_GROUP), ranks, team_of_place)

    def begin_session(self) -> None:
        """Begin at nothing: what was counted since the last record comes again, or is another worker's."""
        self._sums, self._writer, self._due_s = ArmSums.empty(), _new_writer(), 0.0

    def record(self, now_s: float) -> Outgoing | None:
        """The record of the sums, where it is time for one and there is something to say."""
        if now_s < self._due_s or not self._sums.clicks.any():
            return None
        self._due_s = now_s + self.settings.interval_s
        announcement = self.canary.announcement
        message = CanarySums(
            canary=announcement.name,
            control=self.control,
            announced_ms=announcement.announced_ms,
            writer=self._writer,
            mode=self.settings.mode,
            clicks=self._sums.clicks.astype(np.int64).tolist(),
            hits=self._sums.hits.astype(np.int64).tolist(),
            gains=self._sums.gains.round(_GAIN_DIGITS).tolist(),
        )
        return Outgoing(self.settings.topic, [message.key], [msgspec.json.encode(message)])
