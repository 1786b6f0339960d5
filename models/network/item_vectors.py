"""Item vectors: e(x) = id embedding + content vector. A search has no id: its vector is the content vector alone.

The content vector is a sum over the item's hashed features (a bag of embeddings) plus a projection of its given vector.
Content parameters start at 0, and a feature that only one item has is not trained at all, because that item's id can
express the same: a feature that training never saw adds neither signal nor noise to the vector of a new item. A search
counts as many times among the holders of its features as it was made: a word that many search for is trained though no
title has it, a word that one user typed once is not, unless an item or another search has it too.

In training some ids are dropped at random, so that content learns to do without them (DropoutNet: Volkovs et al.,
"Addressing Cold Start in Recommender Systems", 2017).

Letters: V items, Q searches, R looked-up rows, D dimensions, E length of a given vector, n features of all items and
searches together, A trained buckets. Content has V + Q rows, those of the items first.
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.arrays import FIRST_SEARCH, Int32, Int64
from engine.catalogue.content import ItemFeatures
from engine.contract import ContentSizes

_EMBEDDING_STD = 0.05
_TABLE_ROWS = 1 << 16
"""Rows of the whole table that are computed at once: the features of a million items take gigabytes."""


class ItemVectors(nn.Module):
    """The item table of an encoder."""

    def __init__(
        self, num_items: int, dimensions: int, content: "Content | None" = None, id_dropout: float = 0.0
    ) -> None:
        """Args: V; D; content of these items, and of searches; the share of ids that a training look-up drops."""
        super().__init__()
        self.ids = nn.Embedding(num_items, dimensions)  # [V, D]
        self.num_searches = len(content.features) - num_items if content else 0  # Q
        self.content = content
        self.id_dropout = id_dropout if content else 0.0
        nn.init.normal_(self.ids.weight, std=_EMBEDDING_STD)

    def forward(self, rows: Tensor) -> Tensor:
        """Vectors [..., D] of items and searches int [...]; the rows of searches begin at FIRST_SEARCH."""
        is_search = rows >= FIRST_SEARCH if self.num_searches else None
        vectors: Tensor = self.ids(rows if is_search is None else rows.masked_fill(is_search, 0))
        if self.content is None:
            return vectors
        if is_search is not None:
            vectors = vectors * ~is_search[..., None]
            rows = torch.where(is_search, rows - FIRST_SEARCH + self.ids.num_embeddings, rows)
        if self.training and self.id_dropout:
            keep_mask = torch.rand(*rows.shape, 1, device=vectors.device) >= self.id_dropout
            vectors = vectors * keep_mask
        unique, inverse = torch.unique(rows, return_inverse=True)  # each item's content is summed once
        return vectors + functional.embedding(inverse, self.content(unique))

    def table(self) -> Tensor:
        """[V, D] vectors of all items."""
        rows = torch.arange(self.ids.num_embeddings, device=self.ids.weight.device)
        return torch.cat([self(part) for part in torch.split(rows, _TABLE_ROWS)])


class Content(nn.Module):
    """Content vectors of V items and Q searches, from their features."""

    buckets: Tensor
    weights: Tensor
    starts: Tensor
    dense: Tensor

    def __init__(
        self, features: ItemFeatures, sizes: ContentSizes, dimensions: int, search_counts: Int64 | None = None
    ) -> None:
        """Args: features of V items, then of Q searches; sizes; D; how often each search was made [Q]."""
        super().__init__()
        self.sizes, self.features = sizes, features
        counts = np.zeros(0, np.int64) if search_counts is None else search_counts
        self.trained_buckets, bags = _shared_features(features, counts)  # [A] ascending
        self.table = nn.Parameter(torch.zeros(len(self.trained_buckets), dimensions))
        self.projection = nn.Parameter(torch.zeros(sizes.dense, dimensions)) if sizes.dense else None
        for name in ("buckets", "weights", "starts", "dense"):  # [n] rows of the table, [n], [V + Q + 1], [V + Q, E]
            self.register_buffer(name, torch.from_numpy(getattr(bags, name)), persistent=False)

    def forward(self, rows: Tensor) -> Tensor:
        """Content vectors [R, D] of rows int [R]."""
        begins = self.starts[rows]
        lengths = self.starts[rows + 1] - begins
        offsets = lengths.cumsum(0) - lengths  # [R] where each row's features begin among those of all R
        shifts = torch.repeat_interleave(begins - offsets, lengths)
        indices = shifts + torch.arange(len(shifts), device=shifts.device)
        buckets, weights = self.buckets[indices], self.weights[indices]
        vectors = functional.embedding_bag(
            buckets, self.table, offsets.to(buckets.dtype), mode="sum", per_sample_weights=weights
        )
        return vectors if self.projection is None else vectors + self.dense[rows] @ self.projection


def _shared_features(features: ItemFeatures, search_counts: Int64) -> tuple[Int32, ItemFeatures]:
    """The buckets [A] that more than one item or search has, and the features in them, renumbered 0 .. A - 1."""
    multiplicity = np.ones(len(features), np.int64)  # [V + Q] an item counts once, a search as often as it was made
    multiplicity[len(features) - len(search_counts) :] = search_counts
    rows = np.repeat(np.arange(len(features)), np.diff(features.starts))  # [n]
    held, holder = np.unique(np.stack([features.buckets, rows]), axis=1)  # an item may have a bucket twice
    buckets, inverse = np.unique(held, return_inverse=True)
    holders = np.bincount(inverse, multiplicity[holder])
    shared = buckets[holders > 1].astype(np.int32)
    keep_mask = np.isin(features.buckets, shared)
    counts = np.bincount(rows[keep_mask], minlength=len(features))
    return shared, ItemFeatures(
        buckets=np.searchsorted(shared, features.buckets[keep_mask]).astype(np.int32),
        weights=features.weights[keep_mask],
        starts=np.concatenate([[0], np.cumsum(counts)]),
        dense=features.dense,
    )
