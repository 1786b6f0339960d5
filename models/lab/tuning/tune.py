"""Tuning: many short trainings within a time budget, each with settings that the earlier ones make look promising.

The objective is the validation NDCG that training itself stops by: the next items of users whose newest *training*
events were kept aside. What `headrace evaluate` will ask takes no part, so its figures stay honest for the winner; the
winner's own validation NDCG does not, it is the best of many.

Trials are compared at equal training time: it is time that the budget counts, and rounds would hold a small encoder
after ten seconds against a large one after sixty.
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
from models.lab.tuning.study import MARKS, End, Outcome, Proposal, Study, StudyPlan, Trial, best, open_study
from models.settings import TrainSettings
from models.training.fit import train
from models.training.trainer import TrainingProgress
from models.training.training_data import prepare

_Watch = Callable[[TrainingProgress], None]


class EndTuning(Exception):  # noqa: N818 - a wish, not an error
    """Raised by `TuningCallbacks.watch`: end at once, with what was found so far."""


class _FellBehindError(Exception):
    """Others were better by now."""


class _DivergedError(Exception):
    """The loss is no number any more."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """Where a tuning stands."""

    number: int
    """Of the trial under way."""
    training: TrainingProgress
    best: Trial | None
    """Among those that ended."""
    left_s: float


@dataclass(frozen=True, slots=True)
class TuningCallbacks:
    """Who is told what."""

    watch: Callable[[Outlook], None] = lambda _outlook: None
    """After each step of a trial; may raise `EndTuning`."""
    ended: Callable[[list[Trial]], None] = lambda _trials: None
    """After each trial, with all so far; the newest is the last."""


def tune(  # noqa: PLR0913 - the last three are for those who want them
    interactions: Interactions,
    plan: StudyPlan,
    folder: Path,
    reports: TuningCallbacks = TuningCallbacks(),
    clock_s: Callable[[], float] = time.monotonic,
    *,
    items: Mapping[str, Item] | None = None,
) -> list[Trial]:
    """Go on with the tuning in `folder`, or begin one, and return all its trials.

    Args:
        interactions: what is learned from.
        plan: what is tuned, and how long.
        folder: of the study.
        reports: who is told.
        clock_s: the time.
        items: what is known of each by its id; with them the encoder learns from their content too.

    Raises:
        SettingsError: the folder holds another tuning or one that is under way, or the space has no usable settings.
        DataError: too little is left to train on.
    """
    if plan.base.minutes > plan.minutes:
        raise SettingsError(
            f"one trial may take {plan.base.minutes:g} minutes, but all of them together have {plan.minutes:g};"
            " give more --minutes or less --trial-minutes"
        )
    ends_s = clock_s() + 60.0 * plan.minutes
    warn_of_unnamed(interactions.action_names, [interactions.actions], plan.base.clicks)
    material = prepare(interactions.histories(), plan.base, searches=bool(items))
    data = {
        "data": f"fingerprint {material.fingerprint[:12]}",
        "content": f"fingerprint {item_content.fingerprint(items)[:12]}" if items else "none",
    }
    with open_study(folder, plan, data) as study:

        def attempt(settings: TrainSettings, watch: _Watch) -> None:
            train(material, settings, watch, clock_s, items=items)

        trials = _Trials(study, attempt, reports, lambda: ends_s - clock_s())
        while trials.go_on():
            pass
        return study.trials()


class _Trials:
    """One call's run of trials."""

    def __init__(
        self,
        study: Study,
        attempt: Callable[[TrainSettings, _Watch], None],
        reports: TuningCallbacks,
        left_s: Callable[[], float],
    ) -> None:
        self._study, self._attempt, self._reports, self._left_s = study, attempt, reports, left_s

    def go_on(self) -> bool:
        """Make one more trial; is there time, and anything left, for another?"""
        proposal = self._study.propose()
        if not proposal:
            return False
        pace = _TrialRate(proposal, self._watch(proposal.number))
        end = self._try(proposal.settings, pace)
        usable = end not in {"diverged", "out of memory"}
        proposal.end(Outcome(end=end, ndcg=pace.best if usable else 0.0, elapsed_s=pace.elapsed_s))
        self._reports.ended(self._study.trials())
        return end != "cut short" and self._left_s() > 0.0

    def _watch(self, number: int) -> _Watch:
        leader = best(self._study.trials())

        def watch(now: TrainingProgress) -> None:
            left_s = self._left_s()
            self._reports.watch(Outlook(number=number, training=now, best=leader, left_s=left_s))
            if left_s <= 0.0:
                raise EndTuning

        return watch

    def _try(self, settings: TrainSettings, pace: "_TrialRate") -> End:
        """Train once; how did it end?"""
        try:
            self._attempt(settings, pace.note)
        except _FellBehindError:
            return "pruned"
        except EndTuning:
            return "cut short"
        except _DivergedError:
            return "diverged"
        except (MemoryError, torch.OutOfMemoryError):
            return "out of memory"
        pace.finish()
        return "complete"


class _TrialRate:
    """Reports a training to its trial at each mark of time, and stops it when it falls behind."""

    def __init__(self, trial: Proposal, watch: _Watch) -> None:
        self._trial, self._watch = trial, watch
        self._mark_s = 60.0 * trial.settings.minutes / MARKS
        self._mark = 1
        self.best = self.elapsed_s = 0.0

    def note(self, now: TrainingProgress) -> None:
        """Take a step of the training into account.

        Raises:
            _FellBehindError, _DivergedError: it is not worth going on.
            EndTuning: `watch` wishes so.
        """
        if not math.isfinite(now.loss):
            raise _DivergedError
        passed = min(int(now.elapsed_s / self._mark_s), MARKS - 1)
        behind = passed >= self._mark and self._report_until(passed)
        self.best, self.elapsed_s = now.best_ndcg, now.elapsed_s
        if behind:
            raise _FellBehindError
        self._watch(now)

    def finish(self) -> None:
        """A training that ended before its time stands where it stopped, whenever others are compared with it."""
        self._report_until(MARKS)

    def _report_until(self, mark: int) -> bool:
        """Report the best before now at all marks up to this one, if there was a validation; is it too little?"""
        marks = range(self._mark, mark + 1)
        self._mark = mark + 1
        if not self.best:
            return False
        for each in marks:
            self._trial.report(self.best, each)
        return self._trial.is_behind()
