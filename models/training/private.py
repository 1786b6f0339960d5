"""Differentially private training: what a release says of any one user is bounded, by noise in every step.

The unit is a user with all events. Each step draws every user with the same chance, on its own (Poisson sampling);
of each one drawn it takes one random part of the history, cuts the gradient of that to a length of at most `clip`,
sums these up, and adds Gaussian noise of `noise_multiplier * clip` to every number of the sum (DP-SGD: Abadi et al.
2016, "Deep Learning with Differential Privacy"; users as its examples: McMahan et al. 2018, "Learning Differentially
Private Recurrent Language Models"). What follows, any optimiser and any averaging of weights, costs no more privacy.
Opacus cuts, sums, adds the noise and keeps the account, by Rényi divergence (Mironov, Talwar and Zhang 2019, "Rényi
Differential Privacy of the Sampled Gaussian Mechanism"); its numerical accountant would ask for up to a tenth less
noise, but overflows where the share of users or the noise is extreme.

All users share the item table, and the loss makes its own gradient, so gradients are made one user after the other.

Nothing else may tell of the data: no validation keeps events aside or says when to stop, the last weights are taken
after a number of steps fixed beforehand, items stand in order of their ids, and which users are drawn and what noise
is added hangs on no seed, as whoever knew it could take the noise off again. What is promised and what is not:
docs/privacy.md.
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
    " removing one user with all events; which items there are, how many users there were, and whatever is measured"
    " later on users' data are not covered."
)
_DELTA_EXPONENT: Final = 1.1
_ACCOUNTANT: Final = "rdp"
_PRECISION: Final = 0.01
"""The noise is chosen so that the epsilon asked for is missed by no more than this share of it."""


@dataclass(frozen=True, slots=True)
class PrivacyTerms:
    """How a private training goes about it."""

    delta: float
    clip: float
    """Length that each user's gradient is cut to."""
    noise_multiplier: float
    """Standard deviation of the noise, in clips."""
    sample_rate: float
    """Chance of each user in each step."""


@dataclass(frozen=True, slots=True)
class Privacy(PrivacyTerms):
    """What a private training promises, and by what means."""

    epsilon: float
    steps: int
    """Steps taken."""


def refuse_unfit(settings: TrainSettings, processes: int) -> None:
    """Refuse what a private training cannot keep its promise with, before any data is read.

    Raises:
        SettingsError: such a setting.
        MissingExtraError: the extra is not installed.
    """
    if settings.private_epsilon is None:
        return
    asked = f"--private-epsilon {settings.private_epsilon:g}"
    if settings.epochs is None:
        raise SettingsError(
            f"{asked} needs --epochs: the noise is worked out beforehand, for all the steps that there will be"
        )
    if settings.holdout in {"time", "both"}:
        raise SettingsError(
            f"{asked} found --holdout {settings.holdout}, expected last or none: where the last tenth of time begins"
            " hangs on the events of all users together"
        )
    if processes > 1:
        raise SettingsError(f"{asked} trains in one process, found {processes}: start it without torchrun")
    _accountants()


def agree(users: int, items: int, settings: TrainSettings) -> PrivacyTerms:
    """The terms on which `settings.epochs` passes over so many users keep to the epsilon asked for.

    Raises:
        SettingsError: there are none.
    """
    if items > settings.full_softmax_up_to:
        raise SettingsError(
            f"--private-epsilon needs the full softmax, found {items} items and --full-softmax-up-to"
            f" {settings.full_softmax_up_to}: the negatives of a sampled one are drawn by how often users clicked each"
            " item, which would give that away; raise --full-softmax-up-to"
        )
    delta = settings.private_delta or users**-_DELTA_EXPONENT
    if delta >= 1.0 / users:
        raise SettingsError(
            f"--private-delta found {delta:g} for {users} users, expected less than {1.0 / users:.2g}: with more, all"
            " events of a random user could be published and the promise would still be kept"
        )
    rate = min(1.0, settings.batch_sequences / users)
    return PrivacyTerms(
        delta=delta,
        clip=settings.private_clip,
        noise_multiplier=_noise_multiplier(delta, rate, settings),
        sample_rate=rate,
    )


def blind(material: TrainingData) -> TrainingData:
    """The material without what would go into the release as it is: popularity, and which item was met first."""
    order = np.argsort(np.array(material.ids))  # [V]
    rows = np.empty(len(order), np.int32)
    rows[order] = np.arange(len(order), dtype=np.int32)
    return replace(
        material,
        histories=replace(material.histories, items=rows[material.histories.items]),
        counts=material.counts[order],
        popularity=np.zeros_like(material.popularity),
        ids=[material.ids[row] for row in order],
    )


def epsilon(accountant: Any, delta: float) -> float:
    """What has been spent, as an upper bound."""
    with warnings.catch_warnings():  # that the bound could be tighter
        warnings.filterwarnings("ignore", message="Optimal order is the")
        return float(accountant.get_epsilon(delta)) if len(accountant) else 0.0


def train(
    encoder: TwoHopEncoder,
    histories: Histories,
    settings: TrainSettings,
    clock: TrainingClock,
    watch: Callable[[TrainingProgress], None],
) -> tuple[TwoHopEncoder, Privacy]:
    """Train `encoder` for `settings.epochs`, or until the time is over or the watch ends it; the last weights.

    Raises:
        SettingsError: no noise would be enough for what is asked.
        DataError: nobody has two events.
    """
    users = len(histories.starts) - 1
    terms = agree(users, encoder.items.ids.num_embeddings, settings)
    device = encoder.items.ids.weight.device
    draws, noise = np.random.default_rng(), torch.Generator(device).manual_seed(secrets.randbits(63))
    learner = PrivateLearner(encoder, histories, settings, terms, (draws, noise))
    epoch_steps = _epoch_steps(terms.sample_rate)
    losses: list[float] = []
    for step in range((settings.epochs or 0) * epoch_steps):
        if step % epoch_steps == 0:
            losses = []
        drawn = np.flatnonzero(draws.random(users) < terms.sample_rate)
        losses.append(learner.learn(drawn, learning_rate(settings, step, epoch_steps)))
        progress = TrainingProgress(epoch=step // epoch_steps, step=step + 1, epoch_steps=epoch_steps)
        elapsed_s = clock.elapsed_s()
        try:
            watch(replace(progress, loss=float(np.mean(losses)), elapsed_s=elapsed_s))
        except StopTraining:
            break
        if elapsed_s > 60.0 * settings.minutes:
            break
    return learner.encoder, learner.privacy()


class PrivateLearner:
    """An encoder that learns from users whose gradients are cut to a length, summed and blurred."""

    def __init__(
        self,
        encoder: TwoHopEncoder,
        histories: Histories,
        settings: TrainSettings,
        terms: PrivacyTerms,
        chance: tuple[np.random.Generator, torch.Generator],
    ) -> None:
        """Args: what learns, from whom, how; the terms; what picks parts of histories, and what makes the noise.

        Raises:
            DataError: nobody has two events.
        """
        accountants, dp_optimizer = _accountants(), _dp_optimizer()
        self._encoder, self._histories, self._settings, self._terms = encoder, histories, settings, terms
        lengths, starts = histories.lengths(), histories.starts[:-1]
        self._parts = sequences.cut(lengths, starts, settings.encoder.window_length)
        if not len(self._parts):
            raise DataError(f"none of {len(lengths)} users has two events to learn from; give more data")
        self._first = np.searchsorted(self._parts.target_begins, histories.starts)  # [U + 1] first part of each user
        self._whole = whole_catalogue(encoder.items.ids.num_embeddings, encoder.items.ids.weight.device)
        self._average = WeightAverage(encoder, settings.weight_averaging)
        self._learned = [one for one in encoder.parameters() if one.requires_grad]
        self._draws, noise = chance
        self._accountant = accountants.create_accountant(_ACCOUNTANT)
        self._optimiser = dp_optimizer(
            torch.optim.AdamW(self._learned, lr=settings.learning_rate, fused=True),
            noise_multiplier=terms.noise_multiplier,
            max_grad_norm=terms.clip,
            expected_batch_size=terms.sample_rate * len(lengths),
            generator=noise,
            secure_mode=True,  # four draws in one, which leave nothing to read from the last digits of a float
        )
        self._optimiser.attach_step_hook(self._accountant.get_optimizer_hook_fn(terms.sample_rate))

    @property
    def encoder(self) -> TwoHopEncoder:
        """What is exported: the encoder with the averaged weights, where they are averaged."""
        return self._average.encoder

    def learn(self, users: Int64, rate: float) -> float:
        """One step at this learning rate with the users [u] that were drawn, which may be nobody; their mean loss."""
        losses = self.add(users)
        for parameter in self._learned:  # nobody is left to be cut and added: what follows is noise
            parameter.grad_sample = parameter.new_zeros(0, *parameter.shape)  # type: ignore[attr-defined] # Opacus's
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        self._optimiser.step()
        self._optimiser.zero_grad(set_to_none=True)
        self._average.update()
        return float(np.mean(losses)) if losses else 0.0

    def add(self, users: Int64) -> list[float]:
        """Add the gradients of users [u], each cut to the clip, to the sum of this step; returns their losses."""
        self._encoder.train()
        losses: list[float] = []
        for user in users:
            loss = self._backward(user)
            if loss is None:
                continue
            losses.append(loss)
            for parameter in self._learned:
                gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                parameter.grad_sample = gradient[None]  # type: ignore[attr-defined] # Opacus's own
            self._optimiser.signal_skip_step()
            self._optimiser.step()
            self._optimiser.zero_grad(set_to_none=True)
        return losses

    def privacy(self) -> Privacy:
        """What the steps so far amount to."""
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
        """Gradient of the mean loss over one part of a user's history, and that loss; None where it has no target."""
        first, end = self._first[user : user + 2]
        if first == end:
            return None
        part = self._draws.integers(first, end, 1)
        batch = sequences.gather(self._histories, self._parts, part, drawn_skips(1, self._settings))
        if (batch.targets == sequences.NO_TARGET).all():
            return None
        loss = mean_loss(self._encoder, batch, self._whole, self._settings)
        torch.autograd.backward(loss)
        return loss.item()


def _noise_multiplier(delta: float, rate: float, settings: TrainSettings) -> float:
    wanted, steps = settings.private_epsilon or 0.0, (settings.epochs or 0) * _epoch_steps(rate)
    with warnings.catch_warnings():  # see `epsilon`
        warnings.filterwarnings("ignore", message="Optimal order is the")
        try:
            return float(
                _accountants().utils.get_noise_multiplier(
                    target_epsilon=wanted,
                    target_delta=delta,
                    sample_rate=rate,
                    steps=steps,
                    accountant=_ACCOUNTANT,
                    epsilon_tolerance=_PRECISION * wanted,
                )
            )
        except ValueError as error:
            raise SettingsError(
                f"--private-epsilon found {wanted:g} for {steps} steps with a share of {rate:.2g} of the users each:"
                " no noise is enough for that; ask for a larger epsilon, or for fewer --epochs"
            ) from error


def _epoch_steps(rate: float) -> int:
    """Steps in which each user is drawn once on average."""
    return max(1, round(1.0 / rate))


def _accountants() -> Any:
    """Opacus's accountants.

    Raises:
        MissingExtraError: it is not installed.
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
