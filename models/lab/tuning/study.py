"""The study of a tuning: its trials on disk, and the next settings to try. The only module that imports Optuna.

    sampler    TPE (Bergstra et al. 2011, "Algorithms for Hyper-Parameter Optimization"); the first trial has the
               default settings of training, so that a tuning never ends with worse ones.
    pruner     the median rule (Golovin et al. 2017, "Google Vizier"): a trial whose best validation so far is below the
               median of the finished ones at the same milestone is stopped. Successive halving and Hyperband drop half
               or more of the trials at every rung and spread them over brackets: with the dozen or two that an hour
               allows, a rung has too few to tell settings that start slowly and end well from bad ones.

Every step of the study is in its journal before the next begins, so that a tuning can be killed at any moment.
"""

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal, cast

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.pruners import MedianPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from pydantic import ValidationError

from engine.errors import SettingsError
from models.lab.tuning.search_space import Domain, Range, Space
from models.settings import TrainSettings

JOURNAL_NAME: Final = "study.journal"
MILESTONES: Final = 10
"""A trial is compared with others at each tenth of its time."""
_WARMUP_MILESTONES: Final = 3
"""Before this tenth no trial is pruned: the first validations say more about the start than about the settings."""
_UNPRUNED_TRIALS: Final = 3
"""Before this many trials have finished none is pruned: a median needs some."""
_RANDOM_TRIALS: Final = 8
"""Drawn at random before TPE learns from them; Optuna's ten are for longer studies."""
_TPE_ATTEMPTS: Final = 25
"""Proposals of TPE in a row that were invalid or tried before, after which random ones take over."""
_RANDOM_ATTEMPTS: Final = 100
"""Random proposals that were, too, after which the space counts as exhausted."""

End = Literal["complete", "pruned", "cut short", "diverged", "out of memory"]


@dataclass(frozen=True, slots=True)
class StudyPlan:
    """Settings and time budget of a tuning."""

    base: TrainSettings
    """Settings that all trials share; `minutes` is the time limit of one trial."""
    space: Space
    minutes: float
    """Time budget of this call."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of a trial."""

    end: End
    """cut short: the budget was used up, or the caller stopped the tuning."""
    ndcg: float
    """Best validation NDCG; 0 without a usable validation."""
    elapsed_s: float
    """Training time."""


@dataclass(frozen=True, slots=True)
class Trial:
    """A trial that was trained."""

    number: int
    values: Mapping[str, Any]
    """The searched settings."""
    outcome: Outcome


def best(trials: list[Trial]) -> Trial | None:
    """The trial with the highest validation NDCG; None without a usable validation."""
    scored = [trial for trial in trials if trial.outcome.ndcg > 0.0]
    return max(scored, key=lambda trial: trial.outcome.ndcg, default=None)


class Proposal:
    """A trial to be trained."""

    def __init__(self, trial: optuna.Trial, settings: TrainSettings) -> None:
        self._trial = trial
        self.number, self.settings = trial.number, settings

    def report(self, ndcg: float, milestone: int) -> None:
        """Record the best validation NDCG at a milestone, from 1 to `MILESTONES`."""
        self._trial.report(ndcg, milestone)

    def should_prune(self) -> bool:
        """True where the pruner gives the trial up at the last milestone reported."""
        return self._trial.should_prune()

    def end(self, outcome: Outcome) -> None:
        """Record the outcome."""
        self._trial.set_user_attr("outcome", asdict(outcome))
        if outcome.end == "complete":
            self._trial.study.tell(self._trial, outcome.ndcg)
        else:
            self._trial.study.tell(self._trial, state=TrialState.PRUNED)


class Study:
    """The trials of a tuning, and proposals for new ones."""

    def __init__(self, study: optuna.Study, plan: StudyPlan) -> None:
        self._study, self._plan = study, plan
        self._distributions = {name: _distribution(domain) for name, domain in plan.space.searched.items()}
        # The seed depends on the number of trials too: a resumed study would otherwise repeat its first samples.
        seed = (plan.base.seed + len(study.get_trials(deepcopy=False))) % (1 << 32)
        tpe, random = TPESampler(seed=seed, n_startup_trials=_RANDOM_TRIALS), RandomSampler(seed=seed)
        self._samplers: list[BaseSampler] = [tpe] * _TPE_ATTEMPTS + [random] * _RANDOM_ATTEMPTS

    def trials(self) -> list[Trial]:
        """Trials that were trained, in order."""
        ended = self._study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED))
        return [Trial(trial.number, trial.params, Outcome(**trial.user_attrs["outcome"])) for trial in ended]

    def propose(self) -> Proposal | None:
        """A new trial; None when the space has no new settings.

        Invalid combinations (heads that do not divide the dimensions) and settings that were tried are skipped: they
        are not trained, and TPE learns nothing from them.

        Raises:
            SettingsError: every combination is invalid.
        """
        trials = self.trials()
        tried_values = [trial.values for trial in trials if trial.outcome.end != "cut short"]
        refusal: ValidationError | None = None
        for sampler in self._samplers:
            self._study.sampler = sampler
            trial = self._study.ask(self._distributions)
            try:
                settings = self._plan.space.settings(self._plan.base, trial.params)
            except ValidationError as error:
                refusal = error
            else:
                if trial.params not in tried_values:
                    return Proposal(trial, settings)
            self._study.tell(trial, state=TrialState.FAIL)
        if refusal and not trials:
            raise SettingsError(f"every combination in the search space is invalid: {refusal.errors()[0]['msg']}")
        return None


@contextmanager
def open_study(folder: Path, plan: StudyPlan, data: Mapping[str, str]) -> Iterator[Study]:
    """The study in `folder`, started where there is none, locked for this process.

    Args:
        folder: of the study.
        plan: of the tuning.
        data: names and fingerprints of what is trained on.

    Raises:
        SettingsError: the folder holds a tuning of other data or settings, or one that is running.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder.mkdir(parents=True, exist_ok=True)
    journal = folder / JOURNAL_NAME
    with journal.open("ab") as file:
        try:
            fcntl.flock(
                file, fcntl.LOCK_EX | fcntl.LOCK_NB
            )  # the system releases it when the process ends, for whatever reason
        except BlockingIOError as error:
            raise SettingsError(f"{folder}: a tuning is running there; wait for it, or give another --out") from error
        _repair(journal)
        study = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(journal))),
            study_name="headrace",
            direction="maximize",
            pruner=MedianPruner(n_startup_trials=_UNPRUNED_TRIALS, n_warmup_steps=_WARMUP_MILESTONES),
            load_if_exists=True,
        )
        _refuse_other_tuning(study, _identity(plan, data), folder)
        _enqueue(study, plan)
        yield Study(study, plan)


def _repair(journal: Path) -> None:
    """Remove the remains of a kill during a write: an incomplete last line, and Optuna's own lock."""
    Path(f"{journal}.lock").unlink(missing_ok=True)
    os.truncate(journal, journal.read_bytes().rfind(b"\n") + 1)


def _identity(plan: StudyPlan, data: Mapping[str, str]) -> dict[str, str]:
    """Data and settings that must be the same for trials to be comparable, as text by name."""
    base = plan.base
    return {
        **data,
        "holdout": base.holdout,
        "holdout-items": f"{base.holdout_items:g}",
        "seed": str(base.seed),
        "trial-minutes": f"{base.minutes:g}",
        "weights of the actions": f"{base.clicks.actions}, otherwise {base.clicks.default_action}",
        **plan.space.described(base),
    }


def _refuse_other_tuning(study: optuna.Study, identity: Mapping[str, str], folder: Path) -> None:
    stored = cast("dict[str, str] | None", study.user_attrs.get("identity"))
    if stored is None:
        study.set_user_attr("identity", identity)
        return
    differences = [
        f"{name}: {stored.get(name, 'unknown')} there, {identity.get(name, 'unknown')} here"
        for name in dict.fromkeys([*stored, *identity])
        if stored.get(name) != identity.get(name)
    ]
    if differences:
        raise SettingsError(
            f"{folder} holds another tuning ({'; '.join(differences)}); give the same options, or another --out"
        )


def _enqueue(study: optuna.Study, plan: StudyPlan) -> None:
    """Queue the default settings as the first trial, and interrupted trials again, those of a kill only once."""
    trials = study.get_trials()
    if not trials:
        study.enqueue_trial(plan.space.start(plan.base))
    retried = {trial.user_attrs.get("retry_of") for trial in trials}
    for trial in trials:
        killed = trial.state == TrialState.RUNNING
        if killed:
            study.tell(trial.number, state=TrialState.FAIL)
        cut_short = trial.user_attrs.get("outcome", {}).get("end") == "cut short" and trial.number not in retried
        if cut_short or (killed and "retry_of" not in trial.user_attrs):
            study.enqueue_trial(trial.params, user_attrs={"retry_of": trial.number})


def _distribution(domain: Domain) -> BaseDistribution:
    if not isinstance(domain, Range):
        return CategoricalDistribution(domain.choices)
    if isinstance(domain.low, int) and isinstance(domain.high, int):
        return IntDistribution(domain.low, domain.high, log=domain.log)
    return FloatDistribution(domain.low, domain.high, log=domain.log)
