"""An experiment in one worker: its arms, the users who were sent or shown lists, and their judged clicks."""

import base64
from collections.abc import Mapping, Sequence

import numpy as np

from engine.arrays import Int32, UInt64
from engine.messages.experiment_messages import Experiment, ExperimentSums
from engine.quality.experiment import CLUSTERS
from engine.quality.user_sample import UserSample
from engine.releases.arms import NO_GROUP, tickets
from engine.settings.sections import CanarySettings
from engine.worker.judged_arms import JudgedArms


class ExperimentArms(JudgedArms):
    """The users of an experiment's arms.

    Users of an arm that this worker cannot serve get lists of the live release, and do not count in any arm.
    """

    def __init__(self, experiment: Experiment, refused: Mapping[str, str], settings: CanarySettings) -> None:
        """Split the users.

        Args:
            experiment: the experiment.
            refused: by name of an arm that cannot be served, the reason.
            settings: of canaries: topic of the sums, and time between two records.
        """
        self._record = experiment
        self._refused = dict(refused)
        self._names = [arm.name for arm in experiment.arms]
        self._refused_arms = np.array([name in refused for name in self._names])
        self._sample = UserSample.empty(len(self._names))
        shares = [arm.share for arm in experiment.arms]
        super().__init__((experiment.salt, shares), (experiment.experiment, self._names), settings)
        self.experiment = experiment.experiment
        self.exposure = "impressions" if experiment.exposure == "impressions" else "lists"

    def begin_session(self) -> None:
        """See `JudgedArms.begin_session`; what was shown was shown, whatever became of the batch."""
        super().begin_session()
        if self.exposure == "lists":
            self._sample = UserSample.empty(len(self._names))

    def arm_name(self, arm: int) -> str:
        """See `JudgedArms.arm_name`."""
        return self._names[arm]

    def listed(self, users: Sequence[str]) -> Int32:
        """See `JudgedArms.listed`; where exposure is by lists the users are counted, each once."""
        groups, hashes = self._served(users)
        if self.exposure == "lists":
            self._count(groups, hashes)
        return groups

    def shown(self, users: Sequence[str], arms: Sequence[str]) -> Int32:
        """See `JudgedArms.shown`; the users are counted, each once."""
        groups, hashes = self._served(users)
        groups = self._of_arms(groups, arms)
        self._count(groups, hashes)
        return groups

    def _served(self, users: Sequence[str]) -> tuple[Int32, UInt64]:
        """[n] groups, NO_GROUP in arms that cannot be served, and hashes [n] of users."""
        hashes = self._arms.hashes(users)
        groups = self._arms.groups_of(hashes)
        groups[(groups != NO_GROUP) & self._refused_arms[groups // CLUSTERS]] = NO_GROUP
        return groups, hashes

    def _count(self, groups: Int32, hashes: UInt64) -> None:
        """Count users of these groups [n] and hashes [n]."""
        arms, user_tickets = np.where(groups == NO_GROUP, NO_GROUP, groups // CLUSTERS), tickets(hashes)
        for arm in np.unique(arms[arms != NO_GROUP]).tolist():
            self._sample.add(arm, user_tickets[arms == arm])

    def _has_news(self) -> bool:
        return bool(self._refused) or bool(self._sample.counts.any())

    def _message(self) -> ExperimentSums:
        clicks, hits, gains = self._clicks_hits_gains()
        return ExperimentSums(
            experiment=self._record.experiment,
            started_ms=self._record.started_ms,
            model=self._record.model,
            writer=self._writer,
            arms=self._names,
            clicks=clicks,
            hits=hits,
            gains=gains,
            sampled=[base64.b64encode(tickets.astype("<u4").tobytes()).decode() for tickets in self._sample.tickets],
            threshold=self._sample.threshold,
            refused=self._refused,
            exposure=self.exposure,
        )
