"""Training: recorded interactions in, the best encoder within the time limit out.

Every event of every history is a target once per epoch (`models.data.sequences`). Some users' newest training events
are held out for validation, which decides when to stop (`validation`); the holdout of a later evaluation is left out
altogether (`training_data`). One step is in `step`, the loop in `trainer`; a private training has both in `private`.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from engine.arrays import Float32
from engine.catalogue import searches
from engine.catalogue.content import Item, features
from engine.catalogue.labels import ItemLabels
from engine.releases.bundles import Holdout
from models.data import item_content
from models.data.dataset import Interactions
from models.data.sequences import Sequences
from models.network.action_values import ActionValues
from models.network.item_vectors import Content
from models.network.two_hop import TwoHopEncoder
from models.settings import TrainSettings
from models.training import devices, private, score_parts, spectral_start, suited, validation
from models.training.distributed import Group
from models.training.private import Privacy
from models.training.score_parts import ScoreParts
from models.training.step import Stepper
from models.training.suited import Choice
from models.training.trainer import Checkpointer, NullCheckpointer, StopReason, Trainer, TrainingClock, TrainingProgress
from models.training.training_data import TrainingData, prepare
from models.training.validation import Validation
from models.training.warm_start import WarmVectors


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """A trained encoder, with all of its training that a release contains."""

    encoder: TwoHopEncoder
    """In evaluation mode, on the CPU."""
    ids: list[str]
    """[V] ids of the items with a training event, by row."""
    action_values: dict[str, float]
    """By name, if they were learned; else empty."""
    popularity: Float32
    """[V] events in the last seven days of the training data; 0 after a private training."""
    holdout: Holdout
    newest_ms: int
    """Time of the newest training event."""
    fingerprint: str
    """Of all the data, the holdout included."""
    validations: list[TrainingProgress]
    """Progress at each validation; a private training has none."""
    privacy: Privacy | None
    """Guarantee of a private training."""
    stop_reason: StopReason = "epochs"
    """Why the training ended; a private one ends after its epochs."""
    step: int = 0
    """Step of the weights; 0 for a private training's, which are its last."""
    choices: list[Choice] = field(default_factory=list)
    """Settings that the data decided."""
    score_parts: ScoreParts | None = None
    """None where none is to be tried."""
    labels: ItemLabels | None = None
    """Values of the items' fields, by which requests may leave items out."""


def train(  # noqa: PLR0913 - four of them have defaults
    data: Interactions | TrainingData,
    settings: TrainSettings,
    on_step: Callable[[TrainingProgress], None] = lambda _progress: None,
    clock_s: Callable[[], float] = time.monotonic,
    *,
    items: Mapping[str, Item] | None = None,
    checkpointer: Checkpointer | None = None,
    warm: WarmVectors | None = None,
) -> TrainingResult:
    """Train an encoder on `data` without the holdout of `settings.holdout` and `settings.holdout_items`.

    Args:
        data: interactions, or training data prepared from them (with searches only if there are `items`).
        settings: of the training.
        on_step: called after every step; it may raise StopTraining. Under torchrun only rank 0's can stop training.
        clock_s: the time.
        items: content by item id; the encoder learns from it.
        checkpointer: of the checkpoint to resume from, and of new ones.
        warm: item vectors to begin with; a private training begins without, as they are not private.

    Raises:
        DataError: too little is left to train on.
        SettingsError: a private training cannot keep its promise with these settings.
        MissingExtraError: a private training needs an extra that is not installed.
    """
    private.refuse_unfit(settings, Group.current().size)
    if not isinstance(data, TrainingData):
        data = prepare(data.histories(), settings, searches=bool(items))
    settings, choices = suited.choose(settings, data)
    if settings.private_epsilon:
        data = private.redact(data)
    device, clock = devices.choose(settings.device), TrainingClock(clock_s)
    generators = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
    with generators, devices.matmul_precision(settings.matmul_precision):
        torch.manual_seed(settings.seed)
        encoder, privacy = _encoder(data, items or {}, settings).to(device), None
        if warm is not None and not settings.private_epsilon:
            warm.copy_to(encoder, data.ids)
        validations: list[TrainingProgress] = []
        chosen, parts = None, None
        stop_reason: StopReason = "epochs"
        step = 0
        if settings.private_epsilon:
            encoder, privacy = private.train(encoder, data.histories, settings, clock, on_step)
        else:
            checkpointer = checkpointer or NullCheckpointer()
            parts = validation.split(data.histories, settings)
            if settings.spectral_start and warm is None:
                spectral_start.copy_to(encoder, _spectral_vectors(data, parts[1], settings))
            encoder, trainer = _train(encoder, data, parts, settings, clock, checkpointer, on_step)
            validations, stop_reason, step = trainer.validations, trainer.stop_reason, trainer.best_step
    encoder = encoder.cpu().eval()
    if (settings.neighbours or settings.popularity) and parts is not None and Group.current().is_rank_zero:
        chosen = score_parts.choose(encoder, data, parts[1], settings)
    return TrainingResult(
        encoder=encoder,
        ids=data.ids,
        action_values=_learned_values(encoder, settings),
        popularity=data.popularity,
        holdout=data.holdout,
        newest_ms=data.newest_ms,
        fingerprint=data.fingerprint,
        validations=validations,
        privacy=privacy,
        stop_reason=stop_reason,
        step=step,
        choices=choices,
        score_parts=chosen,
        labels=ItemLabels.of(items or {}, data.ids),
    )


def _spectral_vectors(data: TrainingData, held_out: Validation, settings: TrainSettings) -> Float32:
    """Spectral item vectors of the events that are trained on, the same in all processes."""
    group, vectors = Group.current(), np.zeros((0, 0), np.float32)
    if group.is_rank_zero:
        mask = np.ones(len(data.histories), np.bool_)
        mask[held_out.queries.ends] = False
        trained_on = data.histories.select(mask)
        vectors = spectral_start.item_vectors(trained_on, len(data.ids), settings.encoder.dimensions)
    return group.broadcast(vectors)


def _train(  # noqa: PLR0913 - all of a training
    encoder: TwoHopEncoder,
    data: TrainingData,
    parts: tuple[Sequences, Validation],
    settings: TrainSettings,
    clock: TrainingClock,
    checkpointer: Checkpointer,
    on_step: Callable[[TrainingProgress], None],
) -> tuple[TwoHopEncoder, Trainer]:
    """The encoder with its best weights, and the trainer that found them."""
    group = Group.current()
    stepper = Stepper(encoder, data, parts[0], settings, group)
    if not group.is_rank_zero:  # equal initial weights, but dropout and negatives of its own
        torch.manual_seed(settings.seed + (group.rank << 32))
    trainer = Trainer(stepper, parts, settings, group, clock)
    trainer.run(checkpointer, on_step)
    return stepper.encoder, trainer


def _encoder(data: TrainingData, items: Mapping[str, Item], settings: TrainSettings) -> TwoHopEncoder:
    """An untrained encoder of the items and searches in the training data, with their content."""
    weights = torch.tensor(list(settings.clicks.actions.values()))
    actions = ActionValues(weights, learned=settings.action_values == "learned")
    return TwoHopEncoder(len(data.ids), settings.encoder, _content(data, items, settings), actions)


def _content(data: TrainingData, items: Mapping[str, Item], settings: TrainSettings) -> Content | None:
    """The content of items, some of which may have none, and of searches; None if no item has any."""
    if not items:
        return None
    sizes = item_content.sizes(items, settings.encoder.content_buckets)
    contents = [items.get(item) or Item(id=item) for item in data.ids]
    contents += map(searches.as_item, data.searches)
    return Content(features(contents, sizes), sizes, settings.encoder.dimensions, data.search_counts)


def _learned_values(encoder: TwoHopEncoder, settings: TrainSettings) -> dict[str, float]:
    """Learned values of the actions with a weight above 0; empty if they are fixed."""
    if settings.action_values == "fixed":
        return {}
    named = zip(settings.clicks.actions.items(), encoder.actions.by_number(), strict=True)
    return {name: value for (name, weight), value in named if weight > 0.0}
