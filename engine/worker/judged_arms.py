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
from engine.messages.list_ids import ListMark
from engine.quality.experiment import CLUSTERS, ArmSums
from engine.quality.next_click import PLACES
from engine.releases.arms import NO_GROUP, Arms
from engine.settings.sections import CanarySettings, Exposure

_GAIN_DIGITS: Final = 6


class JudgedArms(ABC):
    """The arms of a canary or an experiment, and their judged clicks."""

    interleaves = False
    """True where the releases of two arms make lists together."""
    experiment = ""
    """Name of the experiment, as lists have it; empty for a canary."""
    exposure: Exposure = "lists"
    """Lists that count a user in an arm and by which clicks are judged: those sent, or those shown."""

    def __init__(
        self, split: tuple[str, Sequence[float]], marks: tuple[str, Sequence[str]], settings: CanarySettings
    ) -> None:
        """Split the users.

        Args:
            split: salt, and share of each arm.
            marks: name of the trial, and of each arm, in the ids of lists (`engine.messages.list_ids`).
            settings: of canaries.
        """
        salt, shares = split
        self.trial, self._mark_names = marks
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

    def marks(self, arm: int, lists: int, teams: Int8 | None = None) -> list[str]:
        """[lists] suffixes of the ids of an arm's lists; `teams` [lists, N] are the releases of their places."""
        if teams is None:
            return [str(ListMark(self.trial, self._mark_names[arm]))] * lists
        return [str(ListMark(self.trial, self._mark_names[arm], tuple(row))) for row in teams[:, :PLACES].tolist()]

    def listed(self, users: Sequence[str]) -> Int32:
        """[n] arm and cluster of each user, who is about to be sent a list; see `Arms.groups`."""
        return self._arms.groups(users)

    def shown(self, users: Sequence[str], arms: Sequence[str]) -> Int32:
        """[n] arm and cluster of users who were shown lists of these arms; NO_GROUP where the arm is not the user's."""
        return self._of_arms(self._arms.groups(users), arms)

    def _of_arms(self, groups: Int32, arms: Sequence[str]) -> Int32:
        """[n] groups [n] that are in the arms of these names, and NO_GROUP for the others."""
        index = {name: arm for arm, name in enumerate(self._mark_names)}
        numbers = np.array([index.get(name, NO_GROUP) for name in arms], np.int32)
        return np.where((groups // CLUSTERS == numbers) & (numbers != NO_GROUP), groups, NO_GROUP).astype(np.int32)

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
