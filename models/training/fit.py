"""Training: recorded interactions in, the best encoder found within the time limit out.

Every event of every history is a target once per epoch (`data.sequences`). Some users' newest training events are
kept aside to tell when to stop (`validation`); what an evaluation will ask is left out altogether
(`material`). A step stands in `learner`, the course of many in `course`; a private training has both in `private`.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from engine.arrays import Float32
from engine.catalogue import searches
from engine.catalogue.content import Item, features
from engine.releases.bundles import Holdout
from models.data import item_content
from models.data.dataset import Interactions
from models.network.action_values import ActionValues
from models.network.item_vectors import Content
from models.network.two_hop import TwoHopEncoder
from models.settings import TrainSettings
from models.training import devices, private, validation
from models.training.distributed import Group
from models.training.private import Privacy
from models.training.step import Learner
from models.training.trainer import Checkpointer, NullCheckpointer, Trainer, TrainingClock, TrainingProgress
from models.training.training_data import TrainingData, prepare


@dataclass(frozen=True, slots=True)
class Trained:
    """What training found."""

    encoder: TwoHopEncoder
    """In evaluation mode, on the CPU."""
    ids: list[str]
    """[V] ids of the items with a training event, by row."""
    action_values: dict[str, float]
    """By name, where they were learned; else none."""
    popularity: Float32
    """[V] events in the last seven days of the training data; 0 after a private training."""
    holdout: Holdout
    newest_ms: int
    """Newest event trained on."""
    fingerprint: str
    """Of the data, what was left out included."""
    rounds: list[TrainingProgress]
    """Where training stood after each validation; a private training has none."""
    privacy: Privacy | None
    """What a private training promises its users."""


def train(  # noqa: PLR0913 - the last four are for those who want them
    data: Interactions | TrainingData,
    settings: TrainSettings,
    watch: Callable[[TrainingProgress], None] = lambda _progress: None,
    clock_s: Callable[[], float] = time.monotonic,
    *,
    items: Mapping[str, Item] | None = None,
    keeper: Checkpointer | None = None,
) -> Trained:
    """Train an encoder on `data`, less what `settings.holdout` and `settings.holdout_items` leave out.

    Args:
        data: interactions in memory, or what was made of larger ones (with searches only where there are `items`).
        settings: how.
        watch: told after every step; it may raise StopTraining. Processes that torchrun started listen to the first's.
        clock_s: the time.
        items: what is known of each by its id; with them the encoder learns from their content too.
        keeper: has the checkpoint to go on from, and takes new ones.

    Raises:
        DataError: too little is left to train on.
        SettingsError: a private training cannot keep its promise with these settings.
        MissingExtraError: a private training needs an extra that is not installed.
    """
    private.refuse_unfit(settings, Group.current().size)
    material = data if isinstance(data, TrainingData) else prepare(data.histories(), settings, searches=bool(items))
    if settings.private_epsilon:
        material = private.blind(material)
    device, clock = devices.choose(settings.device), TrainingClock(clock_s)
    generators = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
    with generators, devices.matmul_precision(settings.matmul_precision):
        torch.manual_seed(settings.seed)
        encoder, privacy, rounds = _encoder(material, items or {}, settings).to(device), None, list[TrainingProgress]()
        if settings.private_epsilon:
            encoder, privacy = private.train(encoder, material.histories, settings, clock, watch)
        else:
            encoder, rounds = _train(encoder, material, settings, clock, keeper or NullCheckpointer(), watch)
    encoder = encoder.cpu().eval()
    return Trained(
        encoder=encoder,
        ids=material.ids,
        action_values=_learned_values(encoder, settings),
        popularity=material.popularity,
        holdout=material.holdout,
        newest_ms=material.newest_ms,
        fingerprint=material.fingerprint,
        rounds=rounds,
        privacy=privacy,
    )


def _train(  # noqa: PLR0913 - all of a training
    encoder: TwoHopEncoder,
    material: TrainingData,
    settings: TrainSettings,
    clock: TrainingClock,
    keeper: Checkpointer,
    watch: Callable[[TrainingProgress], None],
) -> tuple[TwoHopEncoder, list[TrainingProgress]]:
    """The best encoder found, and where training stood after each validation."""
    group = Group.current()
    training, kept_aside = validation.cut(material.histories, settings)
    learner = Learner(encoder, material, training, settings, group)
    if not group.first:  # the same weights to begin with, but dropout and negatives of its own
        torch.manual_seed(settings.seed + (group.rank << 32))
    rounds = Trainer(learner, (training, kept_aside), settings, group, clock).run(keeper, watch)
    return learner.encoder, rounds


def _encoder(material: TrainingData, items: Mapping[str, Item], settings: TrainSettings) -> TwoHopEncoder:
    """A new encoder of the items and searches that are learned from, with what is known of their content."""
    weights = torch.tensor(list(settings.clicks.actions.values()))
    actions = ActionValues(weights, learned=settings.action_values == "learned")
    return TwoHopEncoder(len(material.ids), settings.encoder, _content(material, items, settings), actions)


def _content(material: TrainingData, items: Mapping[str, Item], settings: TrainSettings) -> Content | None:
    """The content of items, some of which may have none, and of searches; None where there is no content at all."""
    if not items:
        return None
    sizes = item_content.sizes(items, settings.encoder.content_buckets)
    known = [items.get(item) or Item(id=item) for item in material.ids]
    known += map(searches.as_item, material.searches)
    return Content(features(known, sizes), sizes, settings.encoder.dimensions, material.search_counts)


def _learned_values(encoder: TwoHopEncoder, settings: TrainSettings) -> dict[str, float]:
    """Values of the actions that the encoder sees, if they were learned."""
    if settings.action_values == "set":
        return {}
    named = zip(settings.clicks.actions.items(), encoder.actions.by_number(), strict=True)
    return {name: value for (name, weight), value in named if weight > 0.0}
