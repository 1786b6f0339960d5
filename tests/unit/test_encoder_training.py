"""The loss against its textbook form, and training: it learns, repeats itself, stops, and leaves out what it says."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="training needs torch: pip install 'headrace[train]'")

import torch
from torch import Tensor

from engine.errors import DataError
from engine.features import log_ages
from models import dataset, loss, protocol
from models.dataset import Interactions
from models.encoder import TwoHopEncoder
from models.settings import EncoderSettings, TrainSettings
from models.train import Progress, train

SMALL = EncoderSettings(dimensions=8, interests=2, heads=2, hidden=16, window_length=10)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def random_problem(positions: int, items: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    interests = torch.randn(positions, 3, 8, generator=generator).requires_grad_()
    vectors = (0.5 * torch.randn(items, 8, generator=generator)).requires_grad_()
    return interests, torch.randint(0, items, (positions,), generator=generator), vectors


def textbook(interests: Tensor, targets: Tensor, vectors: Tensor) -> Tensor:
    return torch.nn.functional.cross_entropy((interests @ vectors.T).amax(1), targets)


def gradients(value: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(value, inputs)


@pytest.mark.parametrize("chunk", [1, 700, 1 << 21], ids=["position by position", "a few at once", "all at once"])
def test_full_softmax_is_cross_entropy_of_the_maximum(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(loss, "_CHUNK_SCORES", chunk)
    interests, targets, vectors = random_problem(23, 31)
    ours = loss.catalogue_loss(interests, targets, vectors, loss.whole_catalogue(31))
    theirs = textbook(interests, targets, vectors)
    torch.testing.assert_close(ours, theirs)
    found, expected = gradients(ours, interests, vectors), gradients(theirs, interests, vectors)
    torch.testing.assert_close(found, expected)


def test_interests_that_tie_share_the_gradient() -> None:
    """A window of one event has K equal interests: the gradient is still that of cross-entropy, and sums to it."""
    interests, targets, vectors = random_problem(9, 12)
    equal = interests.detach()[:, :1].repeat(1, 3, 1).requires_grad_()
    ours = gradients(loss.catalogue_loss(equal, targets, vectors, loss.whole_catalogue(12)), equal, vectors)
    theirs = gradients(textbook(equal, targets, vectors), equal, vectors)
    torch.testing.assert_close(ours, theirs)


def test_a_large_sample_is_the_full_softmax() -> None:
    """With the log-Q correction, skewed sampling has no bias left: 200,000 draws come within a hundredth."""
    interests, targets, vectors = random_problem(40, 50)
    counts = torch.arange(1, 51) ** 2
    sampler = loss.NegativeSampler(counts, 200_000, torch.Generator().manual_seed(0))
    sampled = loss.catalogue_loss(interests, targets, vectors, sampler.draw())
    assert sampled.item() == pytest.approx(textbook(interests, targets, vectors).item(), abs=0.01)


def test_a_target_is_never_its_own_negative() -> None:
    """The only item drawn is the target itself: nothing competes with it, so the loss is 0."""
    interests, _, vectors = random_problem(4, 6)
    alone = torch.tensor([0, 0, 0, 1, 0, 0])
    candidates = loss.NegativeSampler(alone, 10, torch.Generator().manual_seed(0)).draw()
    assert candidates.items.tolist() == [3]
    assert loss.catalogue_loss(interests, torch.full((4,), 3), vectors, candidates).item() == 0.0


def test_the_future_is_hidden() -> None:
    """Changing the last event leaves what was known before it as it was."""
    encoder = TwoHopEncoder(20, SMALL).eval()
    times_ms = 3_600_000 * np.arange(6)[None]
    ages = torch.from_numpy(log_ages(times_ms[:, None], times_ms[:, :, None]))
    items, weights = torch.tensor([[1, 2, 3, 4, 5, 6]]), torch.ones(1, 6)
    other = torch.tensor([[1, 2, 3, 4, 5, 19]])
    with torch.no_grad():
        before, after = encoder(items, ages, weights)[0], encoder(other, ages, weights)[0]
    torch.testing.assert_close(before[:, :-1], after[:, :-1])
    assert not torch.allclose(before[:, -1], after[:, -1])


def settings(**changes: object) -> TrainSettings:
    chosen = {"encoder": SMALL, "epochs": 12, "batch_sequences": 16, "learning_rate": 5e-3, "holdout": "last"}
    return TrainSettings.model_validate({**chosen, **changes})


@pytest.fixture(scope="module")
def rings(tiny_interactions: Path) -> Interactions:
    return dataset.read(tiny_interactions)


def test_training_learns_and_repeats_itself(rings: Interactions) -> None:
    first, second = train(rings, settings()), train(rings, settings())
    assert first.rounds[-1].loss < 0.75 * first.rounds[0].loss
    assert first.rounds[-1].best_ndcg > 1.5 * first.rounds[0].ndcg
    for one, other in zip(first.encoder.parameters(), second.encoder.parameters(), strict=True):
        assert torch.equal(one, other)
    third = train(rings, settings(seed=1))
    assert not torch.equal(third.encoder.items.table(), first.encoder.items.table())


def test_sampled_softmax_learns_too(rings: Interactions) -> None:
    trained = train(rings, settings(full_softmax_up_to=0, negatives=40))
    assert trained.rounds[-1].best_ndcg > 1.5 * trained.rounds[0].ndcg


def test_training_does_not_see_what_is_held_out(rings: Interactions) -> None:
    """Whatever the held-out events are, the trained weights are the same to the bit."""
    chosen = settings(holdout="both", epochs=2)
    hidden = protocol.held_out(rings, protocol.holdout(rings, "both"))
    assert 0.1 <= hidden.mean() < 0.2
    garbled = dataclasses.replace(rings, items=np.where(hidden, np.int32(0), rings.items))
    one, other = train(rings, chosen), train(garbled, chosen)
    assert one.ids == other.ids
    assert torch.equal(one.encoder.items.table(), other.encoder.items.table())
    assert one.popularity.tolist() == other.popularity.tolist()
    assert one.newest_ms < int(rings.times_ms[-1])


def test_the_release_knows_only_items_it_was_trained_on(rings: Interactions) -> None:
    """Item 'new' appears once, as somebody's held-out last event."""
    last = int(np.flatnonzero(protocol.newest(rings.users))[0])
    items = rings.items.copy()
    items[last] = len(rings.item_ids)
    data = dataclasses.replace(rings, items=items, item_ids=[*rings.item_ids, "new"])
    trained = train(data, settings(epochs=1))
    assert "new" not in trained.ids
    assert len(trained.ids) == len(trained.popularity) == trained.encoder.items.ids.num_embeddings


def test_time_limit_and_patience_end_training(rings: Interactions) -> None:
    clock = iter(range(0, 10_000, 20))
    seen: list[Progress] = []
    train(rings, settings(epochs=None, minutes=2.0), seen.append, lambda: float(next(clock)))
    assert 1 <= seen[-1].step <= 6  # 120 s on a clock that moves 20 s whenever it is asked
    impatient = train(rings, settings(epochs=None, learning_rate=1e-9, patience=2))
    assert len(impatient.rounds) <= 10


def test_too_little_data_ends_with_a_sentence(rings: Interactions) -> None:
    few = rings.select(np.arange(len(rings)) < 3)
    with pytest.raises(DataError, match="too few"):
        train(few, settings())
