"""Differentially private training: noise in every step bounds the information that a release has about any one user.

The unit is a user with all events. Each step samples every user independently with the same probability (Poisson
sampling); of each sampled user it takes one random part of the history, clips its gradient to a norm of at most `clip`,
sums the clipped gradients, and adds Gaussian noise of `noise_multiplier * clip` to every number of the sum (DP-SGD:
Abadi et al. 2016, "Deep Learning with Differential Privacy"; users as its examples: McMahan et al. 2018, "Learning
Differentially Private Recurrent Language Models"). Post-processing, any optimiser and any averaging of weights, costs
no more privacy. Opacus clips, sums, adds the noise and accounts for the privacy spent, by Rényi divergence (Mironov,
Talwar and Zhang 2019, "Rényi Differential Privacy of the Sampled Gaussian Mechanism"); its numerical accountant would
need up to a tenth less noise, but overflows where the sampling rate or the noise is extreme.

All users share the item table, and the loss computes its own gradient, so gradients are computed one user at a time.

Nothing else may reveal the data: no validation holds out events or decides when to stop, the last weights are taken
after a number of steps fixed beforehand, items are in order of their ids, and neither the sampled users nor the noise
depend on the seed, because anyone who knew it could subtract the noise. docs/privacy.md says what is promised and what
is not.
"""

import secrets
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import torch

from engine.arrays import Int64
from engine.errors import DataError, MissingExtraError, SettingsError
from models.data import sequences
from models.data.histories import Histories
from models.network.loss import whole_catalogue
from models.network.two_hop import TwoHopEncoder
from models.settings import TrainSettings
from models.training.ema import WeightAverage
from models.training.schedule import learning_rate
from models.training.step import drawn_skips, mean_loss
from models.training.trainer import StopTraining, TrainingClock, TrainingProgress
from models.training.training_data import TrainingData

PROMISE: Final = (
    "Weights, item vectors and learned action values are (epsilon, delta)-differentially private for adding or"
    " removing one user with all events; the list of items, the number of users, and figures measured later on users'"
    " data are not covered."
)
_DELTA_EXPONENT: Final = 1.1
_ACCOUNTANT: Final = "rdp"
_EPSILON_TOLERANCE: Final = 0.01
"""Share of the requested epsilon by which the epsilon of the chosen noise may fall below it."""


@dataclass(frozen=True, slots=True)
class PrivacyTerms:
    """Parameters of the sampled Gaussian mechanism."""

    delta: float
    clip: float
    """Norm that each user's gradient is clipped to."""
    noise_multiplier: float
    """Standard deviation of the noise, in clips."""
    sample_rate: float
    """Probability of each user in each step."""


@dataclass(frozen=True, slots=True)
class Privacy(PrivacyTerms):
    """The (epsilon, delta) spent by a private training, and its parameters."""

    epsilon: float
    steps: int
    """Steps taken."""


def refuse_unfit(settings: TrainSettings, processes: int) -> None:
    """Refuse settings with which a private training cannot keep its promise, before any data is read.

    Raises:
        SettingsError: there is such a setting.
        MissingExtraError: the extra is not installed.
    """
    if settings.private_epsilon is None:
        return
    option = f"--private-epsilon {settings.private_epsilon:g}"
    if settings.epochs is None:
        raise SettingsError(
            f"{option} needs --epochs: the noise is computed before training, from the number of all steps"
        )
    if settings.holdout in {"time", "both"}:
        raise SettingsError(
            f"{option} found --holdout {settings.holdout}, expected last or none: the start of the last tenth of time"
            " depends on the events of all users together"
        )
    if processes > 1:
        raise SettingsError(f"{option} trains in one process, found {processes}: start it without torchrun")
    _accountants()


def terms_for(users: int, items: int, settings: TrainSettings) -> PrivacyTerms:
    """The parameters with which `settings.epochs` passes over `users` users spend no more than the requested epsilon.

    Raises:
        SettingsError: no parameters do, or a setting breaks the promise.
    """
    if items > settings.full_softmax_up_to:
        raise SettingsError(
            f"--private-epsilon needs the full softmax, found {items} items and --full-softmax-up-to"
            f" {settings.full_softmax_up_to}: a sampled softmax draws negatives by the users' clicks on each item, and"
            " would reveal them; raise --full-softmax-up-to"
        )
    delta = settings.private_delta or users**-_DELTA_EXPONENT
    if delta >= 1.0 / users:
        raise SettingsError(
            f"--private-delta found {delta:g} for {users} users, expected less than {1.0 / users:.2g}: with more, all"
            " events of a random user could be published without breaking the promise"
        )
    rate = min(1.0, settings.batch_sequences / users)
    return PrivacyTerms(
        delta=delta,
        clip=settings.private_clip,
        noise_multiplier=_noise_multiplier(delta, rate, settings),
        sample_rate=rate,
    )


def redact(data: TrainingData) -> TrainingData:
    """The data without what a release would publish exactly: popularity, and the order of the items' first events."""
    order = np.argsort(np.array(data.ids))  # [V]
    rows = np.empty(len(order), np.int32)
    rows[order] = np.arange(len(order), dtype=np.int32)
    return replace(
        data,
        histories=replace(data.histories, items=rows[data.histories.items]),
        counts=data.counts[order],
        popularity=np.zeros_like(data.popularity),
        ids=[data.ids[row] for row in order],
    )


def epsilon(accountant: Any, delta: float) -> float:
    """The epsilon spent, as an upper bound."""
    with warnings.catch_warnings():  # the warning says that the bound could be tighter
        warnings.filterwarnings("ignore", message="Optimal order is the")
        return float(accountant.get_epsilon(delta)) if len(accountant) else 0.0


def train(
    encoder: TwoHopEncoder,
    histories: Histories,
    settings: TrainSettings,
    clock: TrainingClock,
    on_step: Callable[[TrainingProgress], None],
) -> tuple[TwoHopEncoder, Privacy]:
    """Train for `settings.epochs`, or until the time is up or `on_step` stops it; returns the last weights.

    Raises:
        SettingsError: no noise is enough for the requested epsilon, or a setting breaks the promise.
        DataError: no user has two events.
    """
    users = len(histories.starts) - 1
    terms = terms_for(users, encoder.items.ids.num_embeddings, settings)
    device = encoder.items.ids.weight.device
    sampling, noise = np.random.default_rng(), torch.Generator(device).manual_seed(secrets.randbits(63))
    stepper = PrivateStepper(encoder, histories, settings, terms, (sampling, noise))
    epoch_steps = _epoch_steps(terms.sample_rate)
    losses: list[float] = []
    for step in range((settings.epochs or 0) * epoch_steps):
        if step % epoch_steps == 0:
            losses = []
        sampled = np.flatnonzero(sampling.random(users) < terms.sample_rate)
        losses.append(stepper.step(sampled, learning_rate(settings, step, epoch_steps)))
        progress = TrainingProgress(epoch=step // epoch_steps, step=step + 1, epoch_steps=epoch_steps)
        elapsed_s = clock.elapsed_s()
        try:
            on_step(replace(progress, loss=float(np.mean(losses)), elapsed_s=elapsed_s))
        except StopTraining:
            break
        if elapsed_s > 60.0 * settings.minutes:
            break
    return stepper.encoder, stepper.privacy()


class PrivateStepper:
    """An encoder in private training with its moving average, its DP optimiser and its accountant."""

    def __init__(
        self,
        encoder: TwoHopEncoder,
        histories: Histories,
        settings: TrainSettings,
        terms: PrivacyTerms,
        generators: tuple[np.random.Generator, torch.Generator],
    ) -> None:
        """Args: encoder; histories of U users; settings; terms; generators for parts of histories, and for the noise.

        Raises:
            DataError: no user has two events.
        """
        accountants, dp_optimizer = _accountants(), _dp_optimizer()
        self._encoder, self._histories, self._settings, self._terms = encoder, histories, settings, terms
        lengths, starts = histories.lengths(), histories.starts[:-1]
        self._parts = sequences.cut(lengths, starts, settings.encoder.window_length)
        if not len(self._parts):
            raise DataError(f"none of {len(lengths)} users has two events to learn from; give more data")
        self._part_starts = np.searchsorted(self._parts.target_begins, histories.starts)  # [U + 1]
        self._whole = whole_catalogue(encoder.items.ids.num_embeddings, encoder.items.ids.weight.device)
        self._average = WeightAverage(encoder, settings.weight_averaging)
        self._parameters = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
        self._sampling, noise = generators
        self._accountant = accountants.create_accountant(_ACCOUNTANT)
        self._optimiser = dp_optimizer(
            torch.optim.AdamW(self._parameters, lr=settings.learning_rate, fused=True),
            noise_multiplier=terms.noise_multiplier,
            max_grad_norm=terms.clip,
            expected_batch_size=terms.sample_rate * len(lengths),
            generator=noise,
            secure_mode=True,  # sums four draws per number, against attacks by the rounding of floats
        )
        self._optimiser.attach_step_hook(self._accountant.get_optimizer_hook_fn(terms.sample_rate))

    @property
    def encoder(self) -> TwoHopEncoder:
        """The encoder to export: with averaged weights, if the settings say so."""
        return self._average.encoder

    def step(self, users: Int64, learning_rate: float) -> float:
        """One step with the sampled users [u], of whom there may be none; returns their mean loss."""
        losses = self.add_gradients(users)
        for parameter in self._parameters:  # no gradient is left to clip and add: this step of the optimiser adds noise
            parameter.grad_sample = parameter.new_zeros(0, *parameter.shape)  # type: ignore[attr-defined] # Opacus's
        for group in self._optimiser.param_groups:
            group["lr"] = learning_rate
        self._optimiser.step()
        self._optimiser.zero_grad(set_to_none=True)
        self._average.update()
        return float(np.mean(losses)) if losses else 0.0

    def add_gradients(self, users: Int64) -> list[float]:
        """Add the gradients of users [u], each clipped, to the sum of this step; returns their losses."""
        self._encoder.train()
        losses: list[float] = []
        for user in users:
            loss = self._backward(user)
            if loss is None:
                continue
            losses.append(loss)
            for parameter in self._parameters:
                gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                parameter.grad_sample = gradient[None]  # type: ignore[attr-defined] # Opacus's own
            self._optimiser.signal_skip_step()
            self._optimiser.step()
            self._optimiser.zero_grad(set_to_none=True)
        return losses

    def privacy(self) -> Privacy:
        """The privacy spent by all steps so far."""
        terms = self._terms
        return Privacy(
            delta=terms.delta,
            clip=terms.clip,
            noise_multiplier=terms.noise_multiplier,
            sample_rate=terms.sample_rate,
            epsilon=epsilon(self._accountant, terms.delta),
            steps=sum(steps for _, _, steps in self._accountant.history),
        )

    def _backward(self, user: int) -> float | None:
        """Compute the gradient of one random part of a user's history; returns its mean loss, None without a target."""
        start, end = self._part_starts[user : user + 2]
        if start == end:
            return None
        part = self._sampling.integers(start, end, 1)
        batch = sequences.gather(self._histories, self._parts, part, drawn_skips(1, self._settings))
        if (batch.targets == sequences.NO_TARGET).all():
            return None
        loss = mean_loss(self._encoder, batch, self._whole, self._settings)
        torch.autograd.backward(loss)
        return loss.item()


def _noise_multiplier(delta: float, rate: float, settings: TrainSettings) -> float:
    target_epsilon, steps = settings.private_epsilon or 0.0, (settings.epochs or 0) * _epoch_steps(rate)
    with warnings.catch_warnings():  # see `epsilon`
        warnings.filterwarnings("ignore", message="Optimal order is the")
        try:
            return float(
                _accountants().utils.get_noise_multiplier(
                    target_epsilon=target_epsilon,
                    target_delta=delta,
                    sample_rate=rate,
                    steps=steps,
                    accountant=_ACCOUNTANT,
                    epsilon_tolerance=_EPSILON_TOLERANCE * target_epsilon,
                )
            )
        except ValueError as error:
            raise SettingsError(
                f"--private-epsilon found {target_epsilon:g} for {steps} steps with a share of {rate:.2g} of the users"
                " each: no noise is enough for that; give a larger epsilon, or fewer --epochs"
            ) from error


def _epoch_steps(rate: float) -> int:
    """Steps in which each user is sampled once on average."""
    return max(1, round(1.0 / rate))


def _accountants() -> Any:
    """Opacus's accountants.

    Raises:
        MissingExtraError: Opacus is not installed.
    """
    try:
        from opacus import accountants  # noqa: PLC0415 - an extra
        from opacus.accountants import utils  # noqa: F401, PLC0415
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"headrace train --private-epsilon needs {error.name}, which is not installed:"
            " pip install 'headrace[private]'"
        ) from error
    return accountants


def _dp_optimizer() -> Any:
    from opacus.optimizers import DPOptimizer  # noqa: PLC0415 - an extra

    return DPOptimizer
