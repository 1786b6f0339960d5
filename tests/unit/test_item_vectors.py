"""Item vectors in training: content added to an id, ids dropped at random, features that are never trained."""

import numpy as np
import pytest

pytest.importorskip("torch", reason="training needs torch: pip install 'headrace[train]'")

import torch
from torch import Tensor

from engine.catalogue.content import Item, features
from engine.contract import ContentSizes
from models.network.item_vectors import Content, ItemVectors
from models.network.loss import NegativeSampler, catalogue_loss, compacted, whole_catalogue

SIZES = ContentSizes(buckets=1 << 18, dense=2)
ITEMS = [
    Item(id="a", bags={"genres": ["drama"]}, vector=[1.0, 0.0]),
    Item(id="b", bags={"genres": ["drama", "horror"]}, vector=[3.0, 4.0]),
    Item(id="c", bags={"genres": ["western"]}),
    Item(id="d"),
]


@pytest.fixture
def vectors() -> ItemVectors:
    """Every parameter away from the 0 that content starts at."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        table = ItemVectors(len(ITEMS), 3, Content(features(ITEMS, SIZES), SIZES, 3), id_dropout=0.5).eval()
        with torch.no_grad():
            for parameter in table.parameters():
                parameter.add_(torch.randn_like(parameter))
    return table


def parts(vectors: ItemVectors) -> tuple[Tensor, Tensor, Tensor]:
    content = vectors.content
    assert content is not None
    assert content.projection is not None
    return vectors.ids.weight, content.table, content.projection


def test_a_vector_is_id_plus_bag_plus_projection(vectors: ItemVectors) -> None:
    """Only "drama" is trained, as no second item has the others: +-1 times its row, or 1/√2 of it of two."""
    ids, table, projection = parts(vectors)
    assert len(table) == 1
    sign = float(np.sign(features(ITEMS[:1], SIZES).weights[0]))
    expected = torch.stack(
        [
            ids[0] + sign * table[0] + projection[0],
            ids[1] + sign * table[0] / 2**0.5 + 0.6 * projection[0] + 0.8 * projection[1],
            ids[2],
            ids[3],
        ]
    )
    torch.testing.assert_close(vectors.table(), expected)


def test_rows_are_those_of_the_table(vectors: ItemVectors) -> None:
    rows = torch.tensor([[3, 0, 0], [1, 2, 0]])
    torch.testing.assert_close(vectors(rows), vectors.table()[rows])


def test_id_dropout_drops_whole_ids_and_nothing_else(vectors: ItemVectors) -> None:
    vectors.train()
    ids, _, _ = parts(vectors)
    rows = torch.zeros(4000, dtype=torch.long)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1)
        looked_up = vectors(rows)
    without = vectors.eval()(rows[:1]) - ids[0]
    is_dropped = (looked_up - without).abs().amax(1) < 1e-6
    torch.testing.assert_close(looked_up[~is_dropped], (without + ids[0]).expand_as(looked_up[~is_dropped]))
    assert 0.46 < is_dropped.float().mean() < 0.54


def test_without_content_ids_are_never_dropped() -> None:
    plain = ItemVectors(4, 3, id_dropout=0.9).train()
    torch.testing.assert_close(plain.table(), plain.ids.weight)


@pytest.mark.parametrize("sampled", [False, True], ids=["full softmax", "sampled"])
def test_loss_over_compacted_rows_is_that_over_the_whole_table(sampled: bool) -> None:
    generator = torch.Generator().manual_seed(5)
    interests, table = torch.randn(9, 2, 4, generator=generator), torch.randn(30, 4, generator=generator)
    targets = torch.randint(0, 30, (9,), generator=generator)
    candidates = NegativeSampler(torch.arange(1, 31), 8, generator).draw() if sampled else whole_catalogue(30)
    rows, target_indices, renumbered = compacted(targets, candidates)
    assert len(rows) == len(set(rows.tolist())) <= 17 or not sampled
    loss = catalogue_loss(interests, target_indices, table[rows], renumbered)
    torch.testing.assert_close(loss, catalogue_loss(interests, targets, table, candidates))
