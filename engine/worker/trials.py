"""Releases and settings by which a worker serves: the live release, and those of the arms of a trial.

A trial is a canary or an experiment; there is one at a time.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from engine.errors import SettingsError
from engine.pipeline import Recommender
from engine.releases.release_loader import Canary, RunningExperiment
from engine.releases.serving import LiveRelease
from engine.settings.sections import RecommendationSettings, Settings
from engine.worker.canary import CanaryArms
from engine.worker.experiment_arms import ExperimentArms
from engine.worker.judged_arms import JudgedArms
from engine.worker.shown_exposure import ShownExposure

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Serving:
    """A release in use, and the recommender with the action weights of that release."""

    live: LiveRelease
    recommender: Recommender


ServingBy = Callable[[LiveRelease, RecommendationSettings], Serving]
"""Opens a release with these settings of lists."""


@dataclass(frozen=True, slots=True)
class ServedTrial:
    """The release and settings that serve the users of each arm."""

    arms: JudgedArms
    servings: Sequence[Serving]
    """[A]"""
    shown: ShownExposure | None = None
    """What the users were shown; None where clicks are judged by the lists that were sent."""

    def releases(self) -> Iterator[LiveRelease]:
        """The releases of all arms."""
        for serving in self.servings:
            yield serving.live

    def begin_session(self) -> None:
        """Begin to count at nothing, as every session of a worker does."""
        self.arms.begin_session()
        if self.shown is not None:
            self.shown.begin_session()

    def close(self) -> None:
        """Count no more."""
        if self.shown is not None:
            self.shown.close()


def open_trial(
    trial: Canary | RunningExperiment, live: Serving, serving_by: ServingBy, settings: Settings
) -> ServedTrial:
    """The release and settings that serve the users of each arm of a canary or an experiment."""
    if isinstance(trial, Canary):
        arms = CanaryArms(trial, live.live.name, settings.canary)
        return ServedTrial(arms, [live, serving_by(trial.release, settings.recommendations)])
    servings, refused = [], {}
    for arm in trial.experiment.arms:
        release = live.live if arm.version in {"", trial.experiment.base_version} else trial.releases.get(arm.version)
        serving, reason = live, trial.refusals.get(arm.version, "")
        if release is not None:
            try:
                serving = serving_by(release, settings.recommendations.with_arm(arm.settings))
            except SettingsError as error:
                reason = str(error)
        if reason:
            refused[arm.name] = reason
            logger.error(
                "users of the arm %r of the experiment %r get lists of the live release, and do not count: %s",
                *(arm.name, trial.experiment.experiment, reason),
            )
        servings.append(serving)
    return ServedTrial(ExperimentArms(trial.experiment, refused, settings.canary), servings)
