"""Whether and how neighbours count in a release's scores, learned on the validation events.

Neither the encoder nor the table that is tried here has learned from those events. Learned together, on training
events, the encoder takes all the weight: it has seen their targets. The validation did choose the encoder's best step,
which favours the encoder by a little.

The choice is a search over `WEIGHTS`, `FLOORS` and `BACKWARD`, by the validation's measure; the encoder alone is a
candidate too. The table of the release is then counted on all training events.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch

from engine.arrays import FIRST_SEARCH, NO_ACTION, NO_ITEM, Bool, Float32, Float64, Int32, Int64
from engine.contract import NeighbourSizes
from engine.releases.bundles import NeighbourArrays
from models.data import sequences
from models.data.co_visits import NEIGHBOURS, CoVisits
from models.data.histories import Histories
from models.network.two_hop import TwoHopEncoder
from models.training.training_data import TrainingData
from models.training.validation import Validation

WEIGHTS: Final = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
FLOORS: Final = (0.001, 0.01, 0.05)
BACKWARD: Final = (0.3, 1.0)
LAST_ITEMS: Final = 10
"""W: 30 with a slower decay is no better, and costs three times as much."""
DECAY: Final = 0.8
_USERS_AT_ONCE: Final = 64


@dataclass(frozen=True, slots=True)
class ChosenNeighbours:
    """The table of a release, and the figures by which it was chosen."""

    table: NeighbourArrays
    sizes: NeighbourSizes
    backward: float
    encoder_ndcg: float
    """Mean of 1 / log2(1 + rank) of the validation targets, by the encoder alone."""
    ndcg: float
    """The same with the neighbours."""


@dataclass(frozen=True, slots=True)
class _Queries:
    """Validation queries of B users, scored by the encoder."""

    scores: Float32
    """[B, V] by the encoder; -inf for items that the window holds."""
    recent: Int32
    """[B, W] the newest items of the windows, newest first; NO_ITEM in empty places."""
    targets: Int64
    """[B]"""


@torch.no_grad()
def choose(encoder: TwoHopEncoder, data: TrainingData, validation: Validation) -> ChosenNeighbours | None:
    """The table and the parameters with the best validation; None where the encoder alone is best.

    Args:
        encoder: trained, on the CPU, in evaluation mode.
        data: of its training.
        validation: held out from that.
    """
    item_count, targets = len(data.ids), validation.queries.ends
    without = np.ones(len(data.histories), np.bool_)
    without[targets] = False
    counted = CoVisits(data.histories.select(without), item_count)
    tables = {backward: counted.table(backward) for backward in BACKWARD}
    grid = [(backward, weight, floor) for backward in BACKWARD for weight in WEIGHTS for floor in FLOORS]
    by_encoder, gains, count = 0.0, np.zeros(len(grid)), 0
    for queries in _queries(encoder, data.histories, validation):
        count += len(queries.targets)
        by_encoder += float(_gain(_rank(queries)).sum())
        gains += np.concatenate([_gains(queries, tables[backward]) for backward in BACKWARD])
    best = int(np.argmax(gains))
    if count == 0 or gains[best] <= by_encoder:
        return None
    backward, weight, floor = grid[best]
    return ChosenNeighbours(
        table=CoVisits(data.histories, item_count).table(backward),
        sizes=NeighbourSizes(NEIGHBOURS, LAST_ITEMS, DECAY, weight, floor),
        backward=backward,
        encoder_ndcg=by_encoder / count,
        ndcg=float(gains[best]) / count,
    )


def affinities(table: NeighbourArrays, recent: Int32) -> Float32:
    """[B, V] affinities of all items to windows with these newest items [B, W], newest first (NO_ITEM for none)."""
    users, ranks = np.nonzero(recent != NO_ITEM)
    rows = table.rows[recent[users, ranks]]  # [n, M]
    weights = table.weights[recent[users, ranks]] * np.float32(DECAY) ** ranks[:, None].astype(np.float32)
    cells = users[:, None] * len(table.rows) + np.maximum(rows, 0)  # weights after the last neighbour are 0
    sums = np.bincount(cells.ravel(), weights.ravel(), len(recent) * len(table.rows))
    return sums.reshape(len(recent), -1).astype(np.float32)


def _queries(encoder: TwoHopEncoder, histories: Histories, validation: Validation) -> Iterator[_Queries]:
    vectors = encoder.items.table().numpy()
    numbers = np.arange(len(validation.queries))
    for part in np.array_split(numbers, range(_USERS_AT_ONCE, len(numbers), _USERS_AT_ONCE)):
        batch = sequences.gather(histories, validation.queries, part)
        has_target = batch.targets[:, -1] != sequences.NO_TARGET
        if not has_target.any():
            continue
        interests = encoder.encode(batch)[:, -1].numpy()[has_target]  # [B, K, D]
        is_click: Bool = (batch.actions != NO_ACTION) & (batch.items < FIRST_SEARCH)
        items = np.where(is_click, batch.items, np.int32(NO_ITEM))[has_target]  # [B, L]
        scores = (interests @ vectors.T).max(axis=1)
        users, places = np.nonzero(items != NO_ITEM)
        scores[users, items[users, places]] = -np.inf
        yield _Queries(scores, items[:, : -LAST_ITEMS - 1 : -1], batch.targets[has_target, -1].astype(np.int64))


def _rank(queries: _Queries) -> Int64:
    own = queries.scores[np.arange(len(queries.targets)), queries.targets]
    ranks: Int64 = 1 + (queries.scores > own[:, None]).sum(axis=1)
    return ranks


def _gain(ranks: Int64) -> Float64:
    gains: Float64 = 1.0 / np.log2(1.0 + ranks)
    return gains


def _gains(queries: _Queries, table: NeighbourArrays) -> Float64:
    """[len(WEIGHTS) * len(FLOORS)] sums of the gains of all queries."""
    users = np.arange(len(queries.targets))
    affinity = affinities(table, queries.recent)
    affinity[np.isneginf(queries.scores)] = 0.0
    near_users, near_items = np.nonzero(affinity)  # only these items change their score
    near, near_scores = affinity[near_users, near_items], queries.scores[near_users, near_items]
    own, own_affinity = queries.scores[users, queries.targets], affinity[users, queries.targets]
    gains = []
    for weight in WEIGHTS:
        for floor in FLOORS:
            bar = own + np.float32(weight) * np.log1p(own_affinity / np.float32(floor))
            above = (queries.scores > bar[:, None]).sum(axis=1)
            raised = near_scores + np.float32(weight) * np.log1p(near / np.float32(floor)) > bar[near_users]
            raised &= near_items != queries.targets[near_users]
            before = near_scores > bar[near_users]
            change = raised.astype(np.int64) - before
            above += np.bincount(near_users, change, len(users)).astype(np.int64)
            gains.append(float(_gain(1 + above).sum()))
    return np.array(gains)
