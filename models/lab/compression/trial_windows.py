"""Recorded windows and what was clicked next, to try a release on before it is written.

They come from what the release was trained on, never from what an evaluation will ask. Their figures are higher than an
evaluation's and say little alone; beside those of another form of the same release they say what the form costs.
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

_BATCH_USERS: Final = 256
_SCORES_AT_ONCE: Final = 1 << 24
_LISTED: Final = 10
_FEWEST: Final = 2
"""One to take ranges of activations from, one to try on."""


@dataclass(frozen=True, slots=True)
class TrialWindows:
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
        """The windows from `start` to `end`."""
        chosen = slice(start, end)
        return type(self)(self.items[chosen], self.ages[chosen], self.weights[chosen], self.targets[chosen])

    def encoder_inputs(self) -> Iterator[dict[str, Any]]:
        """Batches as the encoder takes them, without the tables."""
        for start in range(0, len(self), _BATCH_USERS):
            part = self.part(start, start + _BATCH_USERS)
            yield {"items": part.items, "ages": part.ages, "weights": part.weights}


def draw(bundle: Bundle, interactions: Interactions, clicks: ClickSettings, count: int) -> TrialWindows:
    """Up to `count` windows of training events drawn at random, the same ones every time.

    Raises:
        DataError: there are fewer than two.
    """
    actions, length = Actions(clicks), bundle.manifest.contract.window_length
    weights = features.action_weights(actions.weights, actions.codes, bundle.manifest.action_values)
    events = _seen(bundle, interactions, actions, weights)
    able = np.setdiff1d(np.arange(len(events)), events.starts)  # there is an event before
    targets = np.random.default_rng(0).permutation(able)[:count]
    before, wanted = events.windows(targets, length), events.items[targets]
    inputs = features.make(before, before.items, weights, length)
    fresh = (before.items != wanted[:, None]).all(axis=1)  # what the window holds could not be listed
    windows = TrialWindows(inputs.rows[fresh], inputs.ages[fresh], inputs.weights[fresh], wanted[fresh])
    if len(windows) < _FEWEST:
        raise DataError(
            f"{len(windows)} training events have another of the same user before them and an item that"
            f" {bundle.manifest.name} knows, at least {_FEWEST} are needed; give the data it was trained on"
        )
    return windows


def interests(encoder: Encoder, bundle: Bundle, windows: TrialWindows) -> tuple[Float32, Float32]:
    """Interests [B, K, D] and attention [B, K, L] of the windows."""
    tables = encoder.tables(bundle.vectors)
    found = [encoder.encode(tables, **batch) for batch in windows.encoder_inputs()]
    return np.concatenate([pair[0] for pair in found]), np.concatenate([pair[1] for pair in found])


def gains(interests: Float32, vectors: Float32, windows: TrialWindows) -> Float64:
    """[B] whose mean is NDCG@10, from interests [B, K, D]: every item [V, D] scored, those in the window left out."""
    found = []
    step = max(1, _SCORES_AT_ONCE // (interests.shape[1] * len(vectors)))
    for start in range(0, len(windows), step):
        part = windows.part(start, start + step)
        scores = (interests[start : start + step] @ vectors.T).max(axis=1)  # [b, V]
        own = np.take_along_axis(scores, part.targets[:, None], axis=1)
        shown = np.where(part.weights > 0.0, part.items, part.items[:, -1:])
        np.put_along_axis(scores, shown, -np.inf, axis=1)
        above = (scores > own).sum(axis=1)
        found.append(np.where(above < _LISTED, 1.0 / np.log2(2.0 + above), 0.0))
    return np.concatenate(found)


def _seen(bundle: Bundle, interactions: Interactions, actions: Actions, weights: Float32) -> Histories:
    """The training events that the encoder sees; their items are rows of the release's tables."""
    clicks = interactions.without_searches()
    training = clicks.select(~splits.held_out(clicks, bundle.manifest.holdout))
    rows_by_id = {item: row for row, item in enumerate(bundle.ids)}
    rows = np.array([rows_by_id.get(item, NO_ITEM) for item in training.item_ids], np.int32)[training.items]
    codes = ActionCodes(training.action_names, actions).of(training.actions, training.items)
    order, starts = histories.by_user(training.users, len(training.user_ids))
    events = Histories(rows[order], training.times_ms[order], codes[order], starts)
    return events.select((events.items != NO_ITEM) & (weights[events.actions] > 0.0))
