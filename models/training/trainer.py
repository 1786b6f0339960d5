"""The course of a training: round after round until a limit is reached, each judged, the best weights kept.

On CPU the same data, settings and number of rounds give the same weights, whether training went through in one go or
went on from checkpoints: the order of an epoch is a function of seed and epoch, all else is drawn from torch's
generator, and a checkpoint has that generator's state.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch

from models.data import sequences
from models.data.sequences import Sequences
from models.settings import TrainSettings
from models.training.distributed import Group
from models.training.schedule import learning_rate
from models.training.step import Learner
from models.training.validation import Validation


class StopTraining(Exception):  # noqa: N818 - a wish, not an error
    """Raised by who watches: training ends in order, with the best weights it has found."""


@dataclass(frozen=True, slots=True)
class TrainingProgress:
    """Where training stands after a step."""

    epoch: int = 0
    step: int = 0
    loss: float = 0.0
    """Mean training loss since the last validation."""
    ndcg: float = 0.0
    """Last validation (`models.training.validation`); 0 before the first."""
    best_ndcg: float = 0.0
    interests_in_use: float = 0.0
    """Last validation; 0 before the first."""
    elapsed_s: float = 0.0
    epoch_steps: int = 0
    """Steps of one epoch."""


class Checkpointer(Protocol):
    """Where a training is written down, so that it can go on after a kill (`models.training.checkpoints`)."""

    def log(self, rounds: list[TrainingProgress]) -> None:
        """Write where training stood after each validation."""
        ...

    def due(self, interval_s: float) -> bool:
        """Whether the last checkpoint is so old."""
        ...

    def save(self, step: int, state: Mapping[str, Any]) -> None:
        """Write a checkpoint."""
        ...

    def newest(self, device: torch.device) -> dict[str, Any] | None:
        """The newest checkpoint, if there is one."""
        ...


class NullCheckpointer:
    """Keeps nothing."""

    def log(self, rounds: list[TrainingProgress]) -> None:
        """See `Checkpointer.log`."""

    def due(self, interval_s: float) -> bool:
        """See `Checkpointer.due`."""
        del interval_s
        return False

    def save(self, step: int, state: Mapping[str, Any]) -> None:
        """See `Checkpointer.save`."""

    def newest(self, device: torch.device) -> dict[str, Any] | None:
        """See `Checkpointer.newest`."""
        del device
        return None


class TrainingClock:
    """The seconds that a training has taken, those before it was cut off included."""

    def __init__(self, clock_s: Callable[[], float]) -> None:
        self._clock_s, self._began_s = clock_s, clock_s()

    def elapsed_s(self) -> float:
        """Seconds until now."""
        return self._clock_s() - self._began_s

    def go_on_from(self, elapsed_s: float) -> None:
        """So many seconds had been taken when it was cut off."""
        self._began_s = self._clock_s() - elapsed_s


def outlook(progress: TrainingProgress, settings: TrainSettings) -> tuple[float, float]:
    """The share of training that is done and the seconds that are left at most: the nearer one of its two limits."""
    left_s = 60.0 * settings.minutes - progress.elapsed_s
    if settings.epochs:
        steps = settings.epochs * progress.epoch_steps - progress.step
        left_s = min(left_s, steps * progress.elapsed_s / max(progress.step, 1))
    left_s = max(left_s, 0.0)
    return progress.elapsed_s / max(progress.elapsed_s + left_s, 1e-9), left_s


class Trainer:
    """One training: who learns, from which sequences, and what it is tried on."""

    def __init__(
        self,
        learner: Learner,
        parts: tuple[Sequences, Validation],
        settings: TrainSettings,
        group: Group,
        clock: TrainingClock,
    ) -> None:
        self._learner, self._settings, self._group, self._clock = learner, settings, group, clock
        self._training, self._validation = parts
        self._best = {name: value.clone() for name, value in learner.encoder.state_dict().items()}
        self._falls = settings.learning_rate_decay != "none"
        self._told_to_end = self._ending = False
        self._place = 0  # batches of this epoch that are done
        self._stale, self._rounds = 0, list[TrainingProgress]()
        self._progress = TrainingProgress(epoch_steps=-(-len(self._training) // settings.batch_sequences))

    def run(self, keeper: Checkpointer, watch: Callable[[TrainingProgress], None]) -> list[TrainingProgress]:
        """Train until a limit is reached, then take back the best weights found.

        Under a falling rate it goes on to the end, and the newest count: weights from before the rate has fallen look
        better by chance alone.
        """
        encoder = self._learner.encoder
        device = encoder.items.ids.weight.device
        if state := self._group.rank_zero_first(lambda: keeper.newest(device)):
            self._restore(state)
        for losses in self._learned(watch):
            wishes = self._validate(losses, keeper, watch) if self._group.first else (False, False, False)
            better, ended, due = self._group.broadcast(wishes)
            if better or self._falls:
                for name, value in encoder.state_dict().items():
                    self._best[name].copy_(value)
            if due:
                state = self._state()
                if self._group.first:
                    keeper.save(self._progress.step, state)
            if ended:
                break
        encoder.load_state_dict(self._best)
        return self._rounds

    def _learned(self, watch: Callable[[TrainingProgress], None]) -> Iterator[list[float]]:
        """Losses of each round: an epoch, or `round_steps` of a longer one."""
        settings = self._settings
        while self._progress.epoch != settings.epochs:
            rng = np.random.default_rng((settings.seed, self._progress.epoch))
            parts = sequences.parts(self._training, settings.batch_sequences, rng)
            losses: list[float] = []
            for chosen in itertools.islice(parts, self._place, None):
                losses.append(self._learn(chosen))
                self._place += 1
                self._advance(losses, watch, step=self._progress.step + 1)
                if self._ending:
                    yield losses
                    return
                if len(losses) == settings.round_steps:
                    yield losses
                    losses = []
            if losses:
                yield losses
            self._place = 0
            self._progress = replace(self._progress, epoch=self._progress.epoch + 1)

    def _learn(self, chosen: np.ndarray[Any, Any]) -> float:
        ending = self._told_to_end or self._clock.elapsed_s() > 60.0 * self._settings.minutes
        rate = learning_rate(self._settings, self._progress.step, self._progress.epoch_steps)
        step = self._learner.learn(chosen, rate, ending=ending)
        self._ending = step.ending
        return step.loss

    def _validate(
        self, losses: list[float], keeper: Checkpointer, watch: Callable[[TrainingProgress], None]
    ) -> tuple[bool, bool, bool]:
        """Validate: are these the best weights so far, is training at its end, is a checkpoint due?"""
        found, best_ndcg = self._validation.run(self._learner.encoder), self._progress.best_ndcg
        better = found.ndcg > best_ndcg or not self._rounds
        self._stale = 0 if better else self._stale + 1
        self._advance(losses, watch, **asdict(found), best_ndcg=max(found.ndcg, best_ndcg))
        self._rounds.append(self._progress)
        keeper.log(self._rounds)
        ended = self._stale >= self._settings.patience and not self._falls
        return better, ended, not (ended or self._ending) and keeper.due(self._settings.checkpoint_s)

    def _advance(self, losses: list[float], watch: Callable[[TrainingProgress], None], **changes: Any) -> None:
        loss, elapsed_s = sum(losses) / len(losses), self._clock.elapsed_s()
        self._progress = replace(self._progress, loss=loss, elapsed_s=elapsed_s, **changes)
        try:
            watch(self._progress)
        except StopTraining:
            self._told_to_end = True

    def _state(self) -> dict[str, Any]:
        """All that a training needs to go on as if nothing had happened; every process takes part."""
        return {
            "learner": self._learner.state(),
            "best": self._best,
            "progress": asdict(self._progress),
            "rounds": [asdict(progress) for progress in self._rounds],
            "place": self._place,
            "stale": self._stale,
        }

    def _restore(self, state: Mapping[str, Any]) -> None:
        self._learner.restore(state["learner"])
        self._best = state["best"]
        self._progress = TrainingProgress(**state["progress"])
        self._rounds = [TrainingProgress(**progress) for progress in state["rounds"]]
        self._place, self._stale = state["place"], state["stale"]
        self._clock.go_on_from(self._progress.elapsed_s)
