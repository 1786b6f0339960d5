"""A random sample of training windows, each with the item clicked next, on which compressed releases are checked.

The targets are training events of the release, never those of an evaluation. NDCG on them is higher than in an
evaluation and means little by itself; the difference between two forms of one release is what compression costs.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np

from engine.arrays import NO_ITEM, Float32, Float64, Int32
from engine.catalogue.actions import Actions
from engine.errors import DataError
from engine.releases.bundles import Bundle
from engine.retrieval import features
from engine.retrieval.encoder import Encoder
from engine.settings.sections import ClickSettings
from models.data import histories, splits
from models.data.action_names import ActionCodes
from models.data.dataset import Interactions
from models.data.histories import Histories
from models.evaluation import ranking_metrics

_BATCH_USERS: Final = 256
_SCORES_AT_ONCE: Final = 1 << 24
_FEWEST: Final = 2
"""A window to calibrate with, and one to measure on."""


@dataclass(frozen=True, slots=True)
class WindowSample:
    """B windows of up to L events, aligned to the right, none of which holds its target."""

    items: Int32
    """[B, L] rows of the release's tables; 0 where the weight is 0."""
    ages: Float32
    """[B, L]"""
    weights: Float32
    """[B, L]"""
    targets: Int32
    """[B] rows of the items that were clicked next."""

    def __len__(self) -> int:
        return len(self.targets)

    def part(self, start: int, end: int) -> Self:
        """The windows from `start` up to `end`."""
        rows = slice(start, end)
        return type(self)(self.items[rows], self.ages[rows], self.weights[rows], self.targets[rows])

    def encoder_inputs(self) -> Iterator[dict[str, Any]]:
        """Batches of the encoder's inputs by name, without the tables."""
        for start in range(0, len(self), _BATCH_USERS):
            batch = self.part(start, start + _BATCH_USERS)
            yield {"items": batch.items, "ages": batch.ages, "weights": batch.weights}


def draw(bundle: Bundle, interactions: Interactions, clicks: ClickSettings, count: int) -> WindowSample:
    """Up to `count` windows before training events, drawn at random with a fixed seed.

    Raises:
        DataError: there are fewer than two.
    """
    actions, length = Actions(clicks), bundle.manifest.contract.window_length
    weights = features.action_weights(actions.weights, actions.codes, bundle.manifest.action_values)
    events = _training_events(bundle, interactions, actions, weights)
    eligible = np.setdiff1d(np.arange(len(events)), events.starts)  # there is an event of the user before
    targets = np.random.default_rng(0).permutation(eligible)[:count]
    windows, target_items = events.windows(targets, length), events.items[targets]
    inputs = features.make(windows, windows.items, weights, length)
    unseen = (windows.items != target_items[:, None]).all(axis=1)  # lists leave out the items of the window
    sample = WindowSample(inputs.rows[unseen], inputs.ages[unseen], inputs.weights[unseen], target_items[unseen])
    if len(sample) < _FEWEST:
        raise DataError(
            f"{len(sample)} training events have another of the same user before them and an item that"
            f" {bundle.manifest.name} knows, at least {_FEWEST} are needed; give the data it was trained on"
        )
    return sample


def interests(encoder: Encoder, bundle: Bundle, sample: WindowSample) -> tuple[Float32, Float32]:
    """Interests [B, K, D] and attention [B, K, L] of the windows."""
    tables = encoder.tables(bundle.vectors)
    batches = [encoder.encode(tables, **inputs) for inputs in sample.encoder_inputs()]
    return np.concatenate([batch[0] for batch in batches]), np.concatenate([batch[1] for batch in batches])


def ndcg_gains(interests: Float32, vectors: Float32, sample: WindowSample) -> Float64:
    """Gains [B] whose mean is NDCG@10 of a full ranking of the items [V, D] by interests [B, K, D].

    Items of a window are left out of its ranking.
    """
    gains = []
    step = max(1, _SCORES_AT_ONCE // (interests.shape[1] * len(vectors)))
    for start in range(0, len(sample), step):
        batch = sample.part(start, start + step)
        scores = (interests[start : start + step] @ vectors.T).max(axis=1)  # [b, V]
        target_scores = np.take_along_axis(scores, batch.targets[:, None], axis=1)
        seen = np.where(batch.weights > 0.0, batch.items, batch.items[:, -1:])
        np.put_along_axis(scores, seen, -np.inf, axis=1)
        ranks = 1 + (scores > target_scores).sum(axis=1)
        gains.append(ranking_metrics.gains(ranks)["ndcg10"])
    return np.concatenate(gains)


def _training_events(bundle: Bundle, interactions: Interactions, actions: Actions, weights: Float32) -> Histories:
    """The release's training events with a weight above 0; their items are rows of its tables."""
    clicks = interactions.without_searches()
    training = clicks.select(~splits.held_out(clicks, bundle.manifest.holdout))
    rows_by_id = {item: row for row, item in enumerate(bundle.ids)}
    rows = np.array([rows_by_id.get(item, NO_ITEM) for item in training.item_ids], np.int32)[training.items]
    codes = ActionCodes(training.action_names, actions).of(training.actions, training.items)
    order, starts = histories.by_user(training.users, len(training.user_ids))
    events = Histories(rows[order], training.times_ms[order], codes[order], starts)
    return events.select((events.items != NO_ITEM) & (weights[events.actions] > 0.0))
