"""Training: recorded interactions in, the best encoder found within the time limit out.

Every event of every history is a target once per epoch (`models.sequences`). Some users' newest training events are
kept aside to tell when to stop; what an evaluation will ask is left out altogether (`models.protocol`). On CPU the
same data, settings and number of rounds give the same weights.
"""

import copy
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine.columns import Bool, Float32, Int32, Int64
from engine.content import Item, features
from engine.errors import DataError
from engine.release import Holdout
from models import content, protocol, sequences
from models.actions import ActionValues
from models.averaging import WeightAverage
from models.dataset import Interactions
from models.encoder import TwoHopEncoder
from models.items import Content
from models.loss import (
    Candidates,
    NegativeSampler,
    agreement,
    catalogue_loss,
    interests_in_use,
    narrowed,
    nearest,
    whole_catalogue,
)
from models.sequences import Batch, Histories, Sequences, Skips
from models.settings import MatmulPrecision, TrainSettings

POPULARITY_DAYS = 7
_DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class Progress:
    """Where training stands after a step."""

    epoch: int
    step: int
    loss: float
    """Mean training loss since the last validation."""
    ndcg: float
    """Last validation: mean of 1 / log2(1 + rank) of the next item among all unseen ones; 0 before the first."""
    best_ndcg: float
    interests_in_use: float
    """Last validation: how many interests find the next items, from 1 to K (`models.loss`); 0 before the first."""
    elapsed_s: float


@dataclass(frozen=True, slots=True)
class Trained:
    """What training found."""

    encoder: TwoHopEncoder
    """In evaluation mode."""
    ids: list[str]
    """[V] ids of the items with a training event, by row."""
    action_values: dict[str, float]
    """By name, where they were learned; else none."""
    popularity: Float32
    """[V] events in the last seven days of the training data."""
    holdout: Holdout
    newest_ms: int
    """Newest event trained on."""
    fingerprint: str
    """Of the data, what was left out included."""
    rounds: list[Progress]
    """Where training stood after each validation."""


def train(
    interactions: Interactions,
    settings: TrainSettings,
    watch: Callable[[Progress], None] = lambda _progress: None,
    clock_s: Callable[[], float] = time.monotonic,
    *,
    items: Mapping[str, Item] | None = None,
) -> Trained:
    """Train an encoder on `interactions`, less what `settings.holdout` and `settings.holdout_items` leave out.

    With `items`, what is known of each by its id, the encoder learns from their content too.

    Raises:
        DataError: too little is left to train on.
    """
    left_out = protocol.holdout(interactions, settings.holdout, settings.holdout_items, settings.seed)
    training = interactions.select(~protocol.held_out(interactions, left_out))
    names, weights = list(settings.clicks.actions), np.array(list(settings.clicks.actions.values()), np.float32)
    actions = training.actions_among(names, settings.clicks.default_action)
    seen = weights[actions] > 0.0
    training, actions = training.select(seen), actions[seen]
    known, rows = np.unique(training.items, return_inverse=True)
    histories = _histories(training, rows.astype(np.int32), actions)
    counts = np.bincount(rows, minlength=len(known))
    ids = [training.item_ids[number] for number in known]
    with torch.random.fork_rng(devices=[]), _matmul_precision(settings.matmul_precision):
        torch.manual_seed(settings.seed)
        began_s = clock_s()
        values = ActionValues(torch.from_numpy(weights), learned=settings.action_values == "learned")
        encoder = TwoHopEncoder(len(ids), settings.encoder, _content(ids, items or {}, settings), values)
        course = _Course(encoder, (histories, counts), settings, watch, lambda: clock_s() - began_s)
        rounds = course.run()
    newest_ms = int(training.times_ms[-1])
    recent = training.times_ms > newest_ms - POPULARITY_DAYS * _DAY_MS
    return Trained(
        encoder=course.encoder,
        ids=ids,
        action_values=_learned_values(course.encoder, settings),
        popularity=np.bincount(rows[recent], minlength=len(known)).astype(np.float32),
        holdout=left_out,
        newest_ms=newest_ms,
        fingerprint=interactions.fingerprint(),
        rounds=rounds,
    )


def _content(ids: list[str], items: Mapping[str, Item], settings: TrainSettings) -> Content | None:
    """The content of the items with these ids, some of which may have none; None where there is no content at all."""
    if not items:
        return None
    sizes = content.sizes(items, settings.encoder.content_buckets)
    known = [items.get(item) or Item(id=item) for item in ids]
    return Content(features(known, sizes), sizes, settings.encoder.dimensions)


@contextmanager
def _matmul_precision(precision: MatmulPrecision) -> Iterator[None]:
    """Let torch round the factors of matrix products inside; machines without such arithmetic do nothing else."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium" if precision == "bfloat16" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _histories(training: Interactions, rows: Int32, actions: Int32) -> Histories:
    order = training.by_user()
    users = training.users[order]
    starts = np.concatenate([np.flatnonzero(np.diff(users, prepend=-1)), [len(users)]])
    return Histories(items=rows[order], times_ms=training.times_ms[order], actions=actions[order], starts=starts)


def _learned_values(encoder: TwoHopEncoder, settings: TrainSettings) -> dict[str, float]:
    """Values of the actions that the encoder sees, if they were learned."""
    if settings.action_values == "set":
        return {}
    named = zip(settings.clicks.actions.items(), encoder.actions.by_number(), strict=True)
    return {name: value for (name, weight), value in named if weight > 0.0}


class _Course:
    """One training: the encoder, what it learns from and what it is tried on."""

    def __init__(
        self,
        encoder: TwoHopEncoder,
        learned: tuple[Histories, Int64],
        settings: TrainSettings,
        watch: Callable[[Progress], None],
        elapsed_s: Callable[[], float],
    ) -> None:
        (histories, counts), self._settings = learned, settings
        self._histories = histories
        self._watch, self._elapsed_s = watch, elapsed_s
        self._progress = Progress(
            epoch=0, step=0, loss=0.0, ndcg=0.0, best_ndcg=0.0, interests_in_use=0.0, elapsed_s=0.0
        )
        self._rng = np.random.default_rng(settings.seed)
        length = settings.encoder.window_length
        aside = _validation_users(histories.lengths(), settings, self._rng)
        self._training = sequences.cut(histories.lengths() - aside, histories.starts[:-1], length)
        if len(self._training) == 0 or not aside.any():
            raise DataError(
                f"{len(histories.starts) - 1} users with {len(histories.items)} events are left to train on, too few"
                " with two events or more; give more data or a smaller --holdout"
            )
        ends = histories.starts[1:][aside] - 1
        begins = np.maximum(histories.starts[:-1][aside], ends - length)
        self._validation = Sequences(begins=begins, ends=ends, asked=ends - 1)
        self._trained = encoder
        self._average = WeightAverage(self._trained, settings.weight_averaging)
        self.encoder = self._average.encoder
        self._optimiser = torch.optim.AdamW(self._trained.parameters(), lr=settings.learning_rate, fused=True)
        self._skips = Skips(share=settings.skip_share, most=settings.skip_most)
        self._sampler = NegativeSampler(torch.from_numpy(counts), settings.negatives, torch.default_generator)
        self._whole = whole_catalogue(len(counts))

    def run(self) -> list[Progress]:
        """Train until a limit is reached, then take back the best weights found."""
        rounds = list[Progress]()
        best_weights, stale = copy.deepcopy(self.encoder.state_dict()), 0
        for losses in self._rounds():
            ndcg, in_use = self._validate()
            better = ndcg > self._progress.best_ndcg or not rounds
            if better:
                best_weights = copy.deepcopy(self.encoder.state_dict())
            best_ndcg = max(ndcg, self._progress.best_ndcg)
            self._advance(losses, ndcg=ndcg, best_ndcg=best_ndcg, interests_in_use=in_use)
            rounds.append(self._progress)
            stale = 0 if better else stale + 1
            if stale == self._settings.patience:
                break
        self.encoder.load_state_dict(best_weights)
        self.encoder.eval()
        return rounds

    def _rounds(self) -> Iterator[list[float]]:
        """Losses of each round: an epoch, or `round_steps` of a longer one."""
        settings, material = self._settings, (self._histories, self._training)
        while self._progress.epoch != settings.epochs:
            losses: list[float] = []
            for batch in sequences.batches(*material, settings.batch_sequences, self._rng, self._skips):
                losses.append(self._learn(batch))
                self._advance(losses, step=self._progress.step + 1)
                if self._time_is_up():
                    yield losses
                    return
                if len(losses) == settings.round_steps:
                    yield losses
                    losses = []
            if losses:
                yield losses
            self._progress = replace(self._progress, epoch=self._progress.epoch + 1)

    def _time_is_up(self) -> bool:
        return self._elapsed_s() > 60.0 * self._settings.minutes

    def _advance(self, losses: list[float], **changes: Any) -> None:
        self._progress = replace(self._progress, loss=sum(losses) / len(losses), elapsed_s=self._elapsed_s(), **changes)
        self._watch(self._progress)

    def _learn(self, batch: Batch) -> float:
        self._trained.train()
        asked = batch.targets != sequences.NO_TARGET  # [S, A]
        if not asked.any():
            return 0.0
        targets = torch.from_numpy(batch.targets[asked]).long()
        interests = _interests(self._trained, batch)[torch.from_numpy(asked)]  # [P, K, D]
        loss = self._loss(interests, targets)
        self._optimiser.zero_grad()
        torch.autograd.backward(loss)
        self._optimiser.step()
        self._average.update()
        return loss.item()

    def _loss(self, interests: Tensor, targets: Tensor) -> Tensor:
        """Loss of P positions with their interests [P, K, D] and targets [P]."""
        rows, targets, candidates = narrowed(targets, self._candidates())
        vectors, settings = self._trained.items(rows), self._settings  # [R, D]
        loss = settings.interest_agreement * agreement(interests) if settings.interest_agreement > 0.0 else 0.0
        if settings.interest_choice == "per_target":
            interests = nearest(interests, targets, vectors)
        return loss + catalogue_loss(interests, targets, vectors, candidates)

    def _candidates(self) -> Candidates:
        full = len(self._whole.items) <= self._settings.full_softmax_up_to
        return self._whole if full else self._sampler.draw()

    @torch.no_grad()
    def _validate(self) -> tuple[float, float]:
        """Mean gain of the next items, and how many interests find them."""
        self.encoder.eval()
        vectors = self.encoder.items.table()  # [V, D]
        size, chosen = self._settings.batch_sequences, np.arange(len(self._validation))
        gains, own = [torch.zeros(0)], [torch.zeros(0, self._settings.encoder.interests)]
        for part in np.array_split(chosen, range(size, len(chosen), size)):
            found = self._gains(sequences.gather(self._histories, self._validation, part), vectors)
            gains.append(found[0])
            own.append(found[1])
        found = torch.cat(gains), torch.cat(own)
        return (float(found[0].mean()), interests_in_use(found[1])) if len(found[0]) else (0.0, 0.0)

    def _gains(self, batch: Batch, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Gains [S'] of the targets, one a user or none, and their score by each interest [S', K]."""
        users, places = np.nonzero(batch.targets != sequences.NO_TARGET)
        targets = torch.from_numpy(batch.targets[users, places]).long()
        by_interest = _interests(self.encoder, batch)[users, places] @ vectors.T  # [S', K, V]
        scores = by_interest.amax(1)  # [S', V]
        own = scores.gather(1, targets[:, None])
        inputs = np.where(batch.actions != sequences.NO_ACTION, batch.items, batch.items[:, -1:])[users]
        scores.scatter_(1, torch.from_numpy(inputs).long(), -torch.inf)
        return 1.0 / torch.log2(2.0 + (scores > own).sum(1)), by_interest[np.arange(len(users)), :, targets]


def _interests(encoder: TwoHopEncoder, batch: Batch) -> Tensor:
    """[S, A, K, D] of the asked positions."""
    items, ages, actions = map(torch.from_numpy, (batch.items, batch.ages, batch.actions))
    interests: Tensor = encoder(items, ages, encoder.actions(actions))[0]
    return interests


def _validation_users(lengths: Int64, settings: TrainSettings, rng: np.random.Generator) -> Bool:
    """[U] marks the users whose newest training event is kept aside; they keep at least one event to learn from."""
    able = np.flatnonzero(lengths >= 2)  # noqa: PLR2004 - an input and a target
    chosen = rng.choice(able, min(settings.validation_users, (len(able) + 1) // 2), replace=False)
    marks = np.zeros(len(lengths), np.bool_)
    marks[chosen] = True
    return marks
