"""Item vectors that begin near those of the items clicked before and after them."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from engine.arrays import FIRST_SEARCH, Float32
from engine.catalogue.content import Item, features
from engine.contract import ContentSizes
from models.data import dataset
from models.data.dataset import Interactions
from models.data.histories import Histories

pytest.importorskip("torch", reason="training needs torch: pip install 'headrace[train]'")

import torch

from models.network.item_vectors import Content
from models.network.two_hop import TwoHopEncoder
from models.settings import EncoderSettings, TrainSettings
from models.training import fit, spectral_start, suited, training_data, validation
from models.training.warm_start import WarmVectors

SMALL = EncoderSettings(dimensions=8, interests=2, heads=2, hidden=16, window_length=10)


def settings(**changes: object) -> TrainSettings:
    defaults = {"encoder": SMALL, "epochs": 1, "batch_sequences": 16, "holdout": "last"}
    defaults |= {"neighbours": False, "popularity": False}
    return TrainSettings.model_validate({**defaults, **changes})


def two_tastes(users: int = 40) -> Histories:
    """Even users click items 0 to 9, odd users 10 to 19; item 20 was searched for and never clicked."""
    rng = np.random.default_rng(0)
    items = np.concatenate([rng.permutation(10) + 10 * (user % 2) for user in range(users)]).astype(np.int32)
    items[::10] = FIRST_SEARCH
    return Histories(items, np.arange(len(items)), np.ones(len(items), np.uint8), np.arange(0, 10 * users + 1, 10))


def test_items_of_one_taste_begin_close_together() -> None:
    vectors = spectral_start.item_vectors(two_tastes(), 21, 4)
    cosines = vectors[:20] @ vectors[:20].T
    taste = np.arange(20) // 10
    same = taste[:, None] == taste
    assert cosines[same].mean() > 0.5
    assert abs(cosines[~same].mean()) < 0.1
    np.testing.assert_allclose(np.linalg.norm(vectors[:20], axis=1), 1.0, atol=2e-3)
    np.testing.assert_array_equal(vectors[20], 0.0)


def test_the_same_data_give_the_same_vectors() -> None:
    first, second = (spectral_start.item_vectors(two_tastes(), 21, 4) for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(("items", "width"), [(1, 0), (2, 0), (3, 1), (21, 8)])
def test_a_small_catalogue_fills_fewer_dimensions(items: int, width: int) -> None:
    histories = two_tastes()
    histories.items[:] = np.minimum(histories.items, items - 1)
    assert spectral_start.item_vectors(histories, items, 8).shape == (items, width)


def test_items_without_a_vector_and_further_dimensions_stay_random() -> None:
    encoder = TwoHopEncoder(3, SMALL)
    before = encoder.items.ids.weight.detach().clone()
    vectors: Float32 = np.array([[1.0, 0.0], [0.0, 0.0], [0.6, 0.8]], np.float32)
    spectral_start.copy_to(encoder, vectors)
    after = encoder.items.ids.weight.detach()
    np.testing.assert_array_equal(after[[0, 2], :2].numpy(), vectors[[0, 2]])
    assert torch.equal(after[:, 2:], before[:, 2:])
    assert torch.equal(after[1], before[1])


def test_content_begins_as_what_it_tells_and_ids_as_the_rest() -> None:
    """Items 0 to 2 are red, 3 to 5 blue: content begins as 3 / (3 + 1) of their mean, and the sum is the vector."""
    sizes = ContentSizes(buckets=64, dense=0)
    bags = features([Item(id=str(row), bags={"colour": ["red" if row < 3 else "blue"]}) for row in range(6)], sizes)
    encoder = TwoHopEncoder(6, SMALL, Content(bags, sizes, SMALL.dimensions)).eval()
    vectors = np.random.default_rng(0).standard_normal((6, SMALL.dimensions)).astype(np.float32)
    spectral_start.copy_to(encoder, vectors)
    assert encoder.items.content is not None
    begun = encoder.items.content(torch.arange(6)).detach().numpy()
    means = vectors.reshape(2, 3, -1).mean(axis=1)
    weight = float(bags.weights[0])
    kept = 3.0 * weight**2 / (3.0 * weight**2 + 1.0)
    np.testing.assert_allclose(begun, kept * np.repeat(means, 3, axis=0), atol=2e-3)
    np.testing.assert_allclose(encoder.items.table().detach().numpy(), vectors, atol=1e-5)


@pytest.fixture(scope="module")
def rings(tiny_interactions: Path) -> Interactions:
    return dataset.read(tiny_interactions)


def test_training_begins_ahead(rings: Interactions) -> None:
    """After an epoch in which random vectors have learned little."""
    near, random = (fit.train(rings, settings(spectral_start=start)).validations[-1] for start in (True, False))
    assert near.ndcg > 1.2 * random.ndcg


def test_validation_events_are_not_counted(rings: Interactions, monkeypatch: pytest.MonkeyPatch) -> None:
    """With other items in all validation events, the vectors are the same."""
    plan, copied = settings(learning_rate=1e-9), list[Float32]()
    data = training_data.prepare(rings.histories(), plan)
    monkeypatch.setattr(spectral_start, "copy_to", lambda _encoder, vectors: copied.append(vectors))
    fit.train(data, plan)
    ends = validation.split(data.histories, plan)[1].queries.ends
    data.histories.items[ends] = 0
    fit.train(data, plan)
    np.testing.assert_array_equal(copied[0], copied[1])


def test_earlier_vectors_take_precedence(rings: Interactions) -> None:
    plan = settings(learning_rate=1e-9)
    data = training_data.prepare(rings.histories(), plan)
    vectors = np.full((len(data.ids), SMALL.dimensions), 0.5, np.float32)
    trained = fit.train(data, plan, warm=WarmVectors(data.ids, vectors))
    np.testing.assert_allclose(trained.encoder.items.ids.weight.detach().numpy(), vectors, atol=1e-3)


def test_short_histories_get_more_dropout_unless_it_is_given(rings: Interactions) -> None:
    """30 events a user are many, two are few."""
    data = training_data.prepare(rings.histories(), settings())
    count = len(data.histories)
    short = dataclasses.replace(data, histories=dataclasses.replace(data.histories, starts=np.arange(0, count + 1, 2)))
    long = dataclasses.replace(data, histories=dataclasses.replace(data.histories, starts=np.arange(0, count + 1, 30)))
    resolved, choices = suited.choose(settings(), short)
    assert resolved.encoder == SMALL.model_copy(update={"dropout": 0.3})
    assert str(choices[0]) == "dropout 0.3: a user has 2.0 training events in the mean, fewer than 20"
    assert suited.choose(settings(), long) == (settings(), [])
    given = settings(encoder=EncoderSettings(dropout=0.2))
    assert suited.choose(given, short) == (given, [])
    private = settings(private_epsilon=8.0)
    assert suited.choose(private, short) == (private, [])
