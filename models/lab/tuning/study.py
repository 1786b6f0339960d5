"""The trials of a tuning, kept on disk, and what to try next. The only file that talks to Optuna.

    sampler    TPE (Bergstra et al. 2011, "Algorithms for Hyper-Parameter Optimization"); the first trial has the
               settings that training has by default, so that a tuning never ends below them.
    pruner     the median rule (Golovin et al. 2017, "Google Vizier"): a trial whose best validation so far is below the
               median of the finished ones at the same mark is stopped. Successive halving and Hyperband drop half or
               more of the trials at every rung and spread them over brackets: with the dozen or two that an hour gives,
               a rung holds too few to tell settings that start slowly and end well from bad ones.

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
from models.lab.tuning.search_space import Range, Searched, Space
from models.settings import TrainSettings

JOURNAL_NAME: Final = "study.journal"
MARKS: Final = 10
"""A trial is compared at each tenth of its time."""
_SPARED_MARKS: Final = 3
"""Before this tenth none is stopped: the first rounds say more about the start than about the settings."""
_SPARED_TRIALS: Final = 3
"""Nor before so many have finished: a median needs some."""
_RANDOM_TRIALS: Final = 8
"""Drawn at random before the sampler learns from them; Optuna's ten are for longer studies."""
_PROPOSALS: Final = 25
"""Of TPE in a row that were refused or known: then it is stuck at what it likes, and chance proposes instead."""
_CHANCES: Final = 100
"""Of chance that were, too: then the space counts as searched through."""

End = Literal["complete", "pruned", "cut short", "diverged", "out of memory"]


@dataclass(frozen=True, slots=True)
class StudyPlan:
    """What is tuned, and how long."""

    base: TrainSettings
    """What every trial shares; `minutes` is the time of one trial."""
    space: Space
    minutes: float
    """Time budget of this call."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a trial ended."""

    end: End
    """pruned: it fell behind; cut short: the budget was used up, or someone asked to end."""
    ndcg: float
    """Best validation NDCG; 0 where there is none that counts."""
    elapsed_s: float
    """Of training."""


@dataclass(frozen=True, slots=True)
class Trial:
    """A trial that was trained."""

    number: int
    values: Mapping[str, Any]
    """The searched settings."""
    outcome: Outcome


def best(trials: list[Trial]) -> Trial | None:
    """The trial with the highest validation NDCG, if any has one."""
    scored = [trial for trial in trials if trial.outcome.ndcg > 0.0]
    return max(scored, key=lambda trial: trial.outcome.ndcg, default=None)


class Proposal:
    """A trial to be trained."""

    def __init__(self, trial: optuna.Trial, settings: TrainSettings) -> None:
        self._trial = trial
        self.number, self.settings = trial.number, settings

    def report(self, ndcg: float, mark: int) -> None:
        """The best validation NDCG at one of the marks 1 to `MARKS`."""
        self._trial.report(ndcg, mark)

    def is_behind(self) -> bool:
        """Were others better at the last mark reported?"""
        return self._trial.should_prune()

    def end(self, outcome: Outcome) -> None:
        """Note how it ended."""
        self._trial.set_user_attr("outcome", asdict(outcome))
        if outcome.end == "complete":
            self._trial.study.tell(self._trial, outcome.ndcg)
        else:
            self._trial.study.tell(self._trial, state=TrialState.PRUNED)


class Study:
    """A tuning's trials."""

    def __init__(self, study: optuna.Study, plan: StudyPlan) -> None:
        self._study, self._plan = study, plan
        self._distributions = {name: _distribution(among) for name, among in plan.space.searched.items()}
        known = len(study.get_trials(deepcopy=False))
        # Seeded by how far it is, too: a resumed study would otherwise draw its first samples once more.
        seed = (plan.base.seed + known) % (1 << 32)
        tpe, chance = TPESampler(seed=seed, n_startup_trials=_RANDOM_TRIALS), RandomSampler(seed=seed)
        self._samplers: list[BaseSampler] = [tpe] * _PROPOSALS + [chance] * _CHANCES

    def trials(self) -> list[Trial]:
        """Those that were trained, in order."""
        ended = self._study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED))
        return [Trial(one.number, one.params, Outcome(**one.user_attrs["outcome"])) for one in ended]

    def propose(self) -> Proposal | None:
        """A new trial; None when the space has nothing new.

        What the settings refuse (heads that do not divide the dimensions) and what was tried is passed over: that
        takes no training, and TPE learns nothing from it.

        Raises:
            SettingsError: the settings refuse every combination.
        """
        trials = self.trials()
        tried = [trial.values for trial in trials if trial.outcome.end != "cut short"]
        refusal: ValidationError | None = None
        for sampler in self._samplers:
            self._study.sampler = sampler
            trial = self._study.ask(self._distributions)
            try:
                settings = self._plan.space.settings(self._plan.base, trial.params)
            except ValidationError as error:
                refusal = error
            else:
                if trial.params not in tried:
                    return Proposal(trial, settings)
            self._study.tell(trial, state=TrialState.FAIL)
        if refusal and not trials:
            raise SettingsError(f"no settings in the search space go together: {refusal.errors()[0]['msg']}")
        return None


@contextmanager
def open_study(folder: Path, plan: StudyPlan, data: Mapping[str, str]) -> Iterator[Study]:
    """The study in `folder`, begun if there is none, for this process alone; `data`: what tells the data apart.

    Raises:
        SettingsError: the folder holds another tuning, or one that is under way.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder.mkdir(parents=True, exist_ok=True)
    journal = folder / JOURNAL_NAME
    with journal.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the system drops it with the process, however that ends
        except BlockingIOError as error:
            raise SettingsError(f"{folder}: a tuning is under way there; wait for it, or name another --out") from error
        _mend(journal)
        study = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(journal))),
            study_name="headrace",
            direction="maximize",
            pruner=MedianPruner(n_startup_trials=_SPARED_TRIALS, n_warmup_steps=_SPARED_MARKS),
            load_if_exists=True,
        )
        _refuse_another(study, _identity(plan, data), folder)
        _queue(study, plan)
        yield Study(study, plan)


def _mend(journal: Path) -> None:
    """Remove what a kill in the middle of a write leaves behind: a torn last line, and Optuna's own lock."""
    Path(f"{journal}.lock").unlink(missing_ok=True)
    os.truncate(journal, journal.read_bytes().rfind(b"\n") + 1)


def _identity(plan: StudyPlan, data: Mapping[str, str]) -> dict[str, str]:
    """What must stay the same for trials to be comparable, in words."""
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


def _refuse_another(study: optuna.Study, identity: Mapping[str, str], folder: Path) -> None:
    known = cast("dict[str, str] | None", study.user_attrs.get("identity"))
    if known is None:
        study.set_user_attr("identity", identity)
        return
    differences = [
        f"{name}: {known.get(name, 'unknown')} there, {identity.get(name, 'unknown')} here"
        for name in dict.fromkeys([*known, *identity])
        if known.get(name) != identity.get(name)
    ]
    if differences:
        raise SettingsError(
            f"{folder} holds another tuning ({'; '.join(differences)}); go on with what it has, or name another --out"
        )


def _queue(study: optuna.Study, plan: StudyPlan) -> None:
    """The default settings come first; a trial that was cut short is tried again, after a kill only once."""
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


def _distribution(among: Searched) -> BaseDistribution:
    if not isinstance(among, Range):
        return CategoricalDistribution(among.choices)
    if isinstance(among.low, int) and isinstance(among.high, int):
        return IntDistribution(among.low, among.high, log=among.log)
    return FloatDistribution(among.low, among.high, log=among.log)
