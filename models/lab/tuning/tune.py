"""Hyperparameter tuning: many short trainings within a time budget, with settings that earlier ones make promising.

The objective is the validation NDCG that training itself stops by: next items of users whose newest *training* events
are left out of it. The targets of `headrace evaluate` take no part, so that its figures for the best settings are
unbiased; the best trial's own validation NDCG is not, as the maximum of many.

Trials are compared at equal training time: the budget is time, and rounds would compare a small encoder after ten
seconds with a large one after sixty.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from engine.catalogue.content import Item
from engine.errors import SettingsError
from models.data import item_content
from models.data.action_names import warn_of_unnamed
from models.data.dataset import Interactions
from models.lab.tuning.study import MILESTONES, End, Outcome, Proposal, Study, StudyPlan, Trial, best, open_study
from models.settings import TrainSettings
from models.training.fit import train
from models.training.trainer import TrainingProgress
from models.training.training_data import prepare

_OnStep = Callable[[TrainingProgress], None]


class StopTuning(Exception):  # noqa: N818 - a request, not an error
    """Raised by `TuningCallbacks.on_step` to end the tuning at once, with its results so far."""


class _PrunedError(Exception):
    """The trial is below the median of the finished ones."""


class _DivergedError(Exception):
    """The loss is not finite."""


@dataclass(frozen=True, slots=True)
class TuningProgress:
    """State of a tuning after a training step."""

    number: int
    """Of the current trial."""
    training: TrainingProgress
    best: Trial | None
    """Best trial that has ended."""
    left_s: float
    """Rest of the time budget."""


@dataclass(frozen=True, slots=True)
class TuningCallbacks:
    """Functions that a tuning calls."""

    on_step: Callable[[TuningProgress], None] = lambda _progress: None
    """After each step of a training; may raise `StopTuning`."""
    on_trial_end: Callable[[list[Trial]], None] = lambda _trials: None
    """After each trial, with all so far; the newest is the last."""


def tune(  # noqa: PLR0913 - the last three have defaults that hardly anyone changes
    interactions: Interactions,
    plan: StudyPlan,
    folder: Path,
    callbacks: TuningCallbacks = TuningCallbacks(),
    clock_s: Callable[[], float] = time.monotonic,
    *,
    items: Mapping[str, Item] | None = None,
) -> list[Trial]:
    """Continue the tuning in `folder`, or start one, and return all its trials.

    Args:
        interactions: recorded interactions to train on.
        plan: settings and time budget.
        folder: of the study.
        callbacks: called after steps and trials.
        clock_s: the time in seconds.
        items: content by item id; with it the encoder is trained on content too.

    Raises:
        SettingsError: the folder holds another tuning or one that is running, or the space has no valid settings.
        DataError: too little is left to train on.
    """
    if plan.base.minutes > plan.minutes:
        raise SettingsError(
            f"one trial may take {plan.base.minutes:g} minutes, but all of them together have {plan.minutes:g};"
            " give more --minutes or less --trial-minutes"
        )
    ends_s = clock_s() + 60.0 * plan.minutes
    warn_of_unnamed(interactions.action_names, [interactions.actions], plan.base.clicks)
    training_data = prepare(interactions.histories(), plan.base, searches=bool(items))
    data = {
        "data": f"fingerprint {training_data.fingerprint[:12]}",
        "content": f"fingerprint {item_content.fingerprint(items)[:12]}" if items else "none",
    }
    with open_study(folder, plan, data) as study:

        def train_once(settings: TrainSettings, on_step: _OnStep) -> None:
            train(training_data, settings, on_step, clock_s, items=items)

        trials = _TrialLoop(study, train_once, callbacks, lambda: ends_s - clock_s())
        while trials.run_next():
            pass
        return study.trials()


class _TrialLoop:
    """The trials of one call."""

    def __init__(
        self,
        study: Study,
        train_once: Callable[[TrainSettings, _OnStep], None],
        callbacks: TuningCallbacks,
        left_s: Callable[[], float],
    ) -> None:
        self._study, self._train_once, self._callbacks, self._left_s = study, train_once, callbacks, left_s

    def run_next(self) -> bool:
        """Run one more trial; True where there is time, and a proposal may follow."""
        proposal = self._study.propose()
        if not proposal:
            return False
        reporter = _TrialReporter(proposal, self._on_step(proposal.number))
        end = self._train(proposal.settings, reporter)
        usable = end not in {"diverged", "out of memory"}
        proposal.end(Outcome(end=end, ndcg=reporter.best if usable else 0.0, elapsed_s=reporter.elapsed_s))
        self._callbacks.on_trial_end(self._study.trials())
        return end != "cut short" and self._left_s() > 0.0

    def _on_step(self, number: int) -> _OnStep:
        best_trial = best(self._study.trials())

        def on_step(progress: TrainingProgress) -> None:
            left_s = self._left_s()
            self._callbacks.on_step(TuningProgress(number, progress, best_trial, left_s))
            if left_s <= 0.0:
                raise StopTuning

        return on_step

    def _train(self, settings: TrainSettings, reporter: "_TrialReporter") -> End:
        """Train once; returns how it ended."""
        try:
            self._train_once(settings, reporter.on_step)
        except _PrunedError:
            return "pruned"
        except StopTuning:
            return "cut short"
        except _DivergedError:
            return "diverged"
        except (MemoryError, torch.OutOfMemoryError):
            return "out of memory"
        reporter.finish()
        return "complete"


class _TrialReporter:
    """Reports a training's best validation to its trial at each milestone, and stops it where the trial is pruned."""

    def __init__(self, trial: Proposal, on_step: _OnStep) -> None:
        self._trial, self._on_step = trial, on_step
        self._milestone_s = 60.0 * trial.settings.minutes / MILESTONES
        self._next_milestone = 1
        self.best = self.elapsed_s = 0.0

    def on_step(self, progress: TrainingProgress) -> None:
        """Record a step of the training.

        Raises:
            _PrunedError, _DivergedError: the training is to end.
            StopTuning: the callback ends the tuning.
        """
        if not math.isfinite(progress.loss):
            raise _DivergedError
        milestone = min(int(progress.elapsed_s / self._milestone_s), MILESTONES - 1)
        pruned = milestone >= self._next_milestone and self._report_until(milestone)
        self.best, self.elapsed_s = progress.best_ndcg, progress.elapsed_s
        if pruned:
            raise _PrunedError
        self._on_step(progress)

    def finish(self) -> None:
        """Report the last best validation at all milestones that a training which ended early did not reach."""
        self._report_until(MILESTONES)

    def _report_until(self, last: int) -> bool:
        """Report the best so far, where there is one, at all milestones up to `last`; True where it is pruned."""
        milestones = range(self._next_milestone, last + 1)
        self._next_milestone = last + 1
        if not self.best:
            return False
        for milestone in milestones:
            self._trial.report(self.best, milestone)
        return self._trial.should_prune()
