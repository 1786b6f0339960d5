"""Item vectors: e(x) = id embedding + what the item's content says. A search has no id: its vector is the content part.

The content part is a sum over the item's hashed features (a bag of embeddings) and a projection of its given vector.
Its parameters begin at 0 and a feature of a single item is not learned at all, because its id can say the same:
so what training never saw adds nothing to the vector of a new item, and no noise either. A search is as many holders of
its features as it was made: the word that many search for is learned about though no title has it, what one user once
typed is not, unless an item or another search has it too.

In training some ids are silenced at random, so that content learns to do without them (DropoutNet: Volkovs et al.,
"Addressing Cold Start in Recommender Systems", 2017).

Letters: V items, Q searches, R rows asked for, D dimensions, E length of a given vector, n features of all items and
searches together, A buckets that are learned about. Content stands in V + Q rows, those of the items first.
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
"""Rows of the whole table that are made at once: the features of a million items take gigabytes."""


class ItemVectors(nn.Module):
    """The item table of an encoder."""

    def __init__(self, items: int, dimensions: int, content: "Content | None" = None, id_dropout: float = 0.0) -> None:
        """`content` of these items, and of searches; the share of ids that each look-up silences in training."""
        super().__init__()
        self.ids = nn.Embedding(items, dimensions)  # [V, D]
        self.searches = len(content.features) - items if content else 0  # Q
        self.content = content
        self.id_dropout = id_dropout if content else 0.0
        nn.init.normal_(self.ids.weight, std=_EMBEDDING_STD)

    def forward(self, rows: Tensor) -> Tensor:
        """Vectors [..., D] of items and searches int [...]; the rows of searches begin at FIRST_SEARCH."""
        searched = rows >= FIRST_SEARCH if self.searches else None
        vectors: Tensor = self.ids(rows if searched is None else rows.masked_fill(searched, 0))
        if self.content is None:
            return vectors
        if searched is not None:
            vectors = vectors * ~searched[..., None]
            rows = torch.where(searched, rows - FIRST_SEARCH + self.ids.num_embeddings, rows)
        if self.training and self.id_dropout:
            kept = torch.rand(*rows.shape, 1, device=vectors.device) >= self.id_dropout
            vectors = vectors * kept
        unique, places = torch.unique(rows, return_inverse=True)  # an item's content is summed up once
        return vectors + functional.embedding(places, self.content(unique))

    def table(self) -> Tensor:
        """[V, D] vectors of all items."""
        rows = torch.arange(self.ids.num_embeddings, device=self.ids.weight.device)
        return torch.cat([self(part) for part in torch.split(rows, _TABLE_ROWS)])


class Content(nn.Module):
    """What the content of V items and the words of Q searches say: features in, vectors out."""

    buckets: Tensor
    weights: Tensor
    starts: Tensor
    dense: Tensor

    def __init__(
        self, features: ItemFeatures, sizes: ContentSizes, dimensions: int, search_counts: Int64 | None = None
    ) -> None:
        """Args: features of V items, and behind them of Q searches; sizes; D; how often each search was made [Q]."""
        super().__init__()
        self.sizes, self.features = sizes, features
        counts = np.zeros(0, np.int64) if search_counts is None else search_counts
        self.learned, bags = _of_several(features, counts)  # [A] the buckets that are learned about, ascending
        self.table = nn.Parameter(torch.zeros(len(self.learned), dimensions))
        self.projection = nn.Parameter(torch.zeros(sizes.dense, dimensions)) if sizes.dense else None
        for name in ("buckets", "weights", "starts", "dense"):  # [n] rows of the table, [n], [V + 1], [V, E]
            self.register_buffer(name, torch.from_numpy(getattr(bags, name)), persistent=False)

    def forward(self, rows: Tensor) -> Tensor:
        """Content vectors [R, D] of rows int [R]."""
        begins = self.starts[rows]
        lengths = self.starts[rows + 1] - begins
        offsets = lengths.cumsum(0) - lengths  # [R] where each item's features begin among those of all R
        shifts = torch.repeat_interleave(begins - offsets, lengths)
        places = shifts + torch.arange(len(shifts), device=shifts.device)
        buckets, weights = self.buckets[places], self.weights[places]
        vectors = functional.embedding_bag(
            buckets, self.table, offsets.to(buckets.dtype), mode="sum", per_sample_weights=weights
        )
        return vectors if self.projection is None else vectors + self.dense[rows] @ self.projection


def _of_several(features: ItemFeatures, search_counts: Int64) -> tuple[Int32, ItemFeatures]:
    """The buckets [A] that more than one item or search has, and the features in them, by their places among the A."""
    weights = np.ones(len(features), np.int64)  # [V + Q] how many holders each is
    weights[len(features) - len(search_counts) :] = search_counts
    owners = np.repeat(np.arange(len(features)), np.diff(features.starts))
    once, owner = np.unique(np.stack([features.buckets, owners]), axis=1)  # an item may have a bucket twice
    buckets, places = np.unique(once, return_inverse=True)
    holders = np.bincount(places, weights[owner])
    learned = buckets[holders > 1].astype(np.int32)
    kept = np.isin(features.buckets, learned)
    counts = np.bincount(owners[kept], minlength=len(features))
    return learned, ItemFeatures(
        buckets=np.searchsorted(learned, features.buckets[kept]).astype(np.int32),
        weights=features.weights[kept],
        starts=np.concatenate([[0], np.cumsum(counts)]),
        dense=features.dense,
    )
