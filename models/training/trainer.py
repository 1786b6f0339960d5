"""The training loop: steps until a limit is reached, a validation now and then, the best weights kept.

On CPU the same data, settings and number of steps give the same weights, whether training ran through or was resumed
from checkpoints: the order of an epoch is a function of seed and epoch, all else is drawn from torch's generator, and a
checkpoint has that generator's state.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Literal, Protocol

import numpy as np
import torch

from engine.arrays import Int64
from models.data import sequences
from models.data.sequences import Sequences
from models.settings import TrainSettings
from models.training.distributed import Group
from models.training.schedule import learning_rate
from models.training.step import Stepper
from models.training.validation import Validation, ValidationResult

StopReason = Literal["patience", "minutes", "epochs", "interrupted"]
"""Why a training ended: no better validation for long enough, a limit, or a request."""


RATE_AFTER_FALL: Final = 0.3
"""Share of the rate that is left after a fall, under "plateau"."""
FALLS_AT: Final = (0.7, 0.85)
"""Shares of `minutes` after which the rate falls at the latest, for the first time and again."""


class StopTraining(Exception):  # noqa: N818 - a request, not an error
    """Raised by an `on_step` callback: training stops in order, with its best weights."""


@dataclass(frozen=True, slots=True)
class TrainingProgress:
    """State of a training after a step."""

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


@dataclass(frozen=True, slots=True)
class _Decision:
    """The decision of rank 0 after a validation."""

    is_best: bool = False
    """No earlier weights validated better."""
    is_falling: bool = False
    """The rate falls, and training continues from the best weights."""
    is_over: bool = False
    is_checkpoint_due: bool = False


class Checkpointer(Protocol):
    """Log and checkpoints of a training, to resume it after a kill (`models.training.checkpoints`)."""

    def log(self, validations: list[TrainingProgress]) -> None:
        """Write the progress at each validation so far."""
        ...

    def is_due(self, interval_s: float) -> bool:
        """Whether the last checkpoint is `interval_s` old or older."""
        ...

    def save(self, step: int, state: Mapping[str, Any]) -> None:
        """Write a checkpoint."""
        ...

    def load_newest(self, device: torch.device) -> dict[str, Any] | None:
        """The newest checkpoint, if there is one."""
        ...


class NullCheckpointer:
    """A checkpointer that writes nothing."""

    def log(self, validations: list[TrainingProgress]) -> None:
        """See `Checkpointer.log`."""

    def is_due(self, interval_s: float) -> bool:
        """See `Checkpointer.is_due`."""
        del interval_s
        return False

    def save(self, step: int, state: Mapping[str, Any]) -> None:
        """See `Checkpointer.save`."""

    def load_newest(self, device: torch.device) -> dict[str, Any] | None:
        """See `Checkpointer.load_newest`."""
        del device
        return None


class TrainingClock:
    """The duration of a training, over all the processes that it was resumed in."""

    def __init__(self, clock_s: Callable[[], float]) -> None:
        self._clock_s, self._start_s = clock_s, clock_s()

    def elapsed_s(self) -> float:
        """Seconds of training until now."""
        return self._clock_s() - self._start_s

    def resume_from(self, elapsed_s: float) -> None:
        """Set the seconds of training until now."""
        self._start_s = self._clock_s() - elapsed_s


def estimate_remaining(progress: TrainingProgress, settings: TrainSettings) -> tuple[float, float]:
    """The share of training that is done, and the seconds left at most, by the nearer of its two limits."""
    left_s = 60.0 * settings.minutes - progress.elapsed_s
    if settings.epochs:
        steps = settings.epochs * progress.epoch_steps - progress.step
        left_s = min(left_s, steps * progress.elapsed_s / max(progress.step, 1))
    left_s = max(left_s, 0.0)
    return progress.elapsed_s / max(progress.elapsed_s + left_s, 1e-9), left_s


class Trainer:
    """The loop of one training, over its stepper, sequences and validation."""

    def __init__(
        self,
        stepper: Stepper,
        parts: tuple[Sequences, Validation],
        settings: TrainSettings,
        group: Group,
        clock: TrainingClock,
    ) -> None:
        self._stepper, self._settings, self._group, self._clock = stepper, settings, group, clock
        self._training, self._validation = parts
        self._best = {name: value.clone() for name, value in stepper.encoder.state_dict().items()}
        self._best_result = self._newest_result = ValidationResult(0.0, 0.0)
        self._decays = settings.learning_rate_decay == "cosine"
        self._falls = 0  # of the rate so far, under "plateau"
        self._stop_requested = self._stopping = False
        self.stop_reason: StopReason = "epochs"
        self.best_step = 0
        """Step of the weights that `run` left in the encoder."""
        self._epoch_batches = 0  # batches of the current epoch that are done
        self._stale_validations = 0
        self.validations = list[TrainingProgress]()
        """Progress at each validation."""
        self._progress = TrainingProgress(epoch_steps=-(-len(self._training) // settings.batch_sequences))

    def run(self, checkpointer: Checkpointer, on_step: Callable[[TrainingProgress], None]) -> None:
        """Train until a limit is reached, then load the best weights.

        Under a cosine decay training runs to its end, and the newest weights count, unless earlier ones validate better
        beyond chance: before the rate has fallen, a round looks best by luck, unless what followed was overfitting.
        """
        device = self._stepper.encoder.items.ids.weight.device
        if state := self._group.rank_zero_first(lambda: checkpointer.load_newest(device)):
            self._restore(state)
        for losses in self._intervals(on_step):
            decision = _Decision()
            if self._group.is_rank_zero:
                decision = self._validate(losses, checkpointer, on_step)
            if self._follow(self._group.broadcast(decision), checkpointer):
                self.stop_reason = "patience"
                break
        is_newest = self._decays and not self._best_result.is_beyond_chance(self._newest_result)
        if self._group.broadcast(is_newest):
            self.best_step = self._progress.step
        else:
            self._stepper.encoder.load_state_dict(self._best)

    def _follow(self, decision: _Decision, checkpointer: Checkpointer) -> bool:
        """Do in this process as rank 0 decided; returns whether training is over."""
        if decision.is_best:
            self.best_step = self._progress.step
            for name, value in self._stepper.encoder.state_dict().items():
                self._best[name].copy_(value)
        if decision.is_falling:
            self._falls += 1
            self._stepper.continue_from(self._best)
        if decision.is_checkpoint_due:
            state = self._state()
            if self._group.is_rank_zero:
                checkpointer.save(self._progress.step, state)
        return decision.is_over

    def _intervals(self, on_step: Callable[[TrainingProgress], None]) -> Iterator[list[float]]:
        """Train; yields the losses of each interval between validations: an epoch, or a part of a long one."""
        settings = self._settings
        while self._progress.epoch != settings.epochs:
            rng = np.random.default_rng((settings.seed, self._progress.epoch))
            batches = sequences.parts(self._training, settings.batch_sequences, rng)
            losses: list[float] = []
            for batch in itertools.islice(batches, self._epoch_batches, None):
                losses.append(self._step(batch))
                self._epoch_batches += 1
                self._advance(losses, on_step, step=self._progress.step + 1)
                if self._stopping:
                    self.stop_reason = "interrupted" if self._stop_requested else "minutes"
                    yield losses
                    return
                if len(losses) == settings.validation_interval_steps:
                    yield losses
                    losses = []
            if losses:
                yield losses
            self._epoch_batches = 0
            self._progress = replace(self._progress, epoch=self._progress.epoch + 1)

    def _step(self, batch: Int64) -> float:
        stop = self._stop_requested or self._clock.elapsed_s() > 60.0 * self._settings.minutes
        rate = learning_rate(self._settings, self._progress.step, self._progress.epoch_steps)
        rate *= RATE_AFTER_FALL**self._falls
        result = self._stepper.step(batch, rate, stop=stop)
        self._stopping = result.stop
        return result.loss

    def _validate(
        self, losses: list[float], checkpointer: Checkpointer, on_step: Callable[[TrainingProgress], None]
    ) -> _Decision:
        """Validate, and decide what follows from it."""
        result, best_ndcg = self._validation.run(self._stepper.encoder), self._progress.best_ndcg
        is_best = result.ndcg > best_ndcg or not self.validations
        self._newest_result = result
        if is_best:
            self._best_result = result
        self._stale_validations = 0 if is_best else self._stale_validations + 1
        figures = {"ndcg": result.ndcg, "interests_in_use": result.interests_in_use}
        self._advance(losses, on_step, **figures, best_ndcg=max(result.ndcg, best_ndcg))
        self.validations.append(self._progress)
        checkpointer.log(self.validations)
        is_falling = self._falls_now()
        if is_falling:
            self._stale_validations = 0
        is_over = self._stale_validations >= self._patience() and not self._decays
        is_due = not (is_over or self._stopping) and checkpointer.is_due(self._settings.checkpoint_s)
        return _Decision(is_best, is_falling, is_over, is_due)

    def _falls_now(self) -> bool:
        """Whether the rate falls: validations are no better, or the time left is that of training at the lower rate."""
        if self._settings.learning_rate_decay != "plateau" or self._falls == len(FALLS_AT):
            return False
        is_late = self._clock.elapsed_s() > FALLS_AT[self._falls] * 60.0 * self._settings.minutes
        return is_late or self._stale_validations >= self._patience()

    def _patience(self) -> int:
        """Validations without a better one that end the training, or its current rate: all together `patience`."""
        rates = len(FALLS_AT) + 1 if self._settings.learning_rate_decay == "plateau" else 1
        return -(-self._settings.patience // rates)

    def _advance(self, losses: list[float], on_step: Callable[[TrainingProgress], None], **changes: Any) -> None:
        loss, elapsed_s = sum(losses) / len(losses), self._clock.elapsed_s()
        self._progress = replace(self._progress, loss=loss, elapsed_s=elapsed_s, **changes)
        try:
            on_step(self._progress)
        except StopTraining:
            self._stop_requested = True

    def _state(self) -> dict[str, Any]:
        """All that a resumed training needs to reach the same weights; every process must call this."""
        return {
            "stepper": self._stepper.state(),
            "best": self._best,
            "best_step": self.best_step,
            "best_gains": torch.from_numpy(self._best_result.gains),
            "progress": asdict(self._progress),
            "validations": [asdict(progress) for progress in self.validations],
            "epoch_batches": self._epoch_batches,
            "stale_validations": self._stale_validations,
            "falls": self._falls,
        }

    def _restore(self, state: Mapping[str, Any]) -> None:
        self._stepper.restore(state["stepper"])
        self._best, self.best_step = state["best"], state["best_step"]
        self._progress = TrainingProgress(**state["progress"])
        self.validations = [TrainingProgress(**progress) for progress in state["validations"]]
        self._epoch_batches, self._stale_validations = state["epoch_batches"], state["stale_validations"]
        self._falls = state["falls"]
        gains = state["best_gains"].cpu().numpy()
        self._best_result = ValidationResult(self._progress.best_ndcg, self._progress.interests_in_use, gains)
        self._clock.resume_from(self._progress.elapsed_s)
