"""Arms of users in one worker: the sums by which they are judged together with those of all workers.

The sums are a record on a compacted topic, sent within the commit of a batch. A session of the worker has a record of
its own: one that fails leaves what it had committed, and the next one begins at nothing, so that no click counts twice
and nothing has to be restored. Clicks since the last record are lost with a session, and so are those that a user makes
next, until another session has sent a list to judge them by; in all arms alike. Without transactions, a crash between
the record and the positions counts the clicks of one batch twice.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Final
from uuid import uuid4

import msgspec
import numpy as np

from engine.arrays import Int8, Int32, Int64
from engine.eventlog.base import Outgoing
from engine.messages.canary_sums import CanarySums
from engine.messages.experiment_messages import ExperimentSums
from engine.quality.experiment import CLUSTERS, ArmSums
from engine.releases.arms import Arms
from engine.settings.sections import CanarySettings

_GAIN_DIGITS: Final = 6


class JudgedArms(ABC):
    """The arms of a canary or an experiment, and their judged clicks."""

    interleaves = False
    """True where the releases of two arms make lists together."""
    experiment = ""
    """Name of the experiment, as lists have it; empty for a canary."""

    def __init__(self, salt: str, shares: Sequence[float], settings: CanarySettings) -> None:
        self.settings = settings
        self._arms = Arms(salt, tuple(shares), CLUSTERS)
        self.begin_session()

    def begin_session(self) -> None:
        """Begin at nothing: what was counted since the last record comes again, or is another worker's."""
        self._sums = ArmSums.empty(len(self._arms.shares))
        self._writer = uuid4().hex[:12]
        self._due_s = 0.0

    def arm_name(self, arm: int) -> str:
        """Name of an arm, as lists have it."""
        del arm
        return ""

    def listed(self, users: Sequence[str]) -> Int32:
        """[n] arm and cluster of each user, who is about to be sent a list; see `Arms.groups`."""
        return self._arms.groups(users)

    def judged(self, groups: Int32, ranks: Int64, teams: Int8) -> None:
        """Count n clicks by the groups of their users [n], the ranks of their items [n], and the teams of places."""
        del teams
        self._sums.add(groups, ranks)

    def record(self, now_s: float) -> Outgoing | None:
        """The record of the sums, where it is time for one and there is something to say."""
        if now_s < self._due_s or not self._has_news():
            return None
        self._due_s = now_s + self.settings.interval_s
        message = self._message()
        return Outgoing(self.settings.topic, [message.key], [msgspec.json.encode(message)])

    def _has_news(self) -> bool:
        return bool(self._sums.clicks.any())

    @abstractmethod
    def _message(self) -> CanarySums | ExperimentSums:
        """The record of this session."""

    def _clicks_hits_gains(self) -> tuple[list[list[int]], list[list[int]], list[list[float]]]:
        """The sums as the fields of a record."""
        sums = self._sums
        return (
            sums.clicks.astype(np.int64).tolist(),
            sums.hits.astype(np.int64).tolist(),
            sums.gains.round(_GAIN_DIGITS).tolist(),
        )
