"""A canary in one worker: an experiment of two arms, the live release and the canary, whose end the clicks decide."""

import numpy as np

from engine.arrays import Int8, Int32, Int64
from engine.messages.canary_sums import CanarySums
from engine.messages.list_ids import canary_trial
from engine.quality.experiment import CLUSTERS
from engine.releases.arms import NO_GROUP
from engine.releases.release_loader import Canary
from engine.settings.sections import CanarySettings
from engine.worker.judged_arms import JudgedArms


class CanaryArms(JudgedArms):
    """The users of a canary and of the live release beside it, and their judged clicks."""

    def __init__(self, canary: Canary, control: str, settings: CanarySettings) -> None:
        """Split the users.

        Args:
            canary: the canary.
            control: name of the live release.
            settings: of canaries.
        """
        self._announcement = canary.announcement
        self._control = control
        salt = settings.salt or f"{canary.announcement.name}/{canary.announcement.announced_ms}"
        trial = canary_trial(canary.announcement.announced_ms)
        super().__init__((salt, (1.0 - settings.share, settings.share)), (trial, ("live", "canary")), settings)
        self.exposure = settings.exposure
        self.interleaves = settings.mode == "interleave"

    def judged(self, groups: Int32, ranks: Int64, teams: Int8) -> None:
        """See `JudgedArms.judged`."""
        if not self.interleaves:
            super().judged(groups, ranks, teams)
            return
        team_of_place = teams[np.arange(len(ranks)), np.maximum(ranks - 1, 0)]
        self._sums.add_interleaved(np.where(groups >= CLUSTERS, groups, NO_GROUP), ranks, team_of_place)

    def _message(self) -> CanarySums:
        clicks, hits, gains = self._clicks_hits_gains()
        return CanarySums(
            canary=self._announcement.name,
            control=self._control,
            announced_ms=self._announcement.announced_ms,
            writer=self._writer,
            mode=self.settings.mode,
            exposure=self.exposure,
            clicks=clicks,
            hits=hits,
            gains=gains,
        )
