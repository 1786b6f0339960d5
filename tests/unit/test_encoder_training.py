"""The loss against its textbook form, and training: it learns, is repeatable, stops, and never sees the holdout."""

import dataclasses
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

pytest.importorskip("torch", reason="training needs torch: pip install 'headrace[train]'")

import torch
from torch import Tensor

from engine.arrays import Int64
from engine.errors import DataError
from engine.retrieval.features import log_ages
from models.data import dataset, splits
from models.data.dataset import Interactions
from models.network import attention, loss
from models.network.attention import AdditiveScoring
from models.network.two_hop import TwoHopEncoder
from models.settings import EncoderSettings, Scoring, TrainSettings
from models.training import step, training_data, validation
from models.training.distributed import StepResult
from models.training.ema import WeightAverage
from models.training.fit import train
from models.training.step import Stepper
from models.training.trainer import TrainingProgress
from models.training.validation import Validation, ValidationResult

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
    return torch.autograd.grad(value, inputs, retain_graph=True)


@pytest.mark.parametrize("chunk", [1, 700, 1 << 21], ids=["position by position", "a few at once", "all at once"])
def test_full_softmax_is_cross_entropy_of_the_maximum(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(loss, "_CHUNK_SCORES", chunk)
    interests, targets, vectors = random_problem(23, 31)
    value = loss.catalogue_loss(interests, targets, vectors, loss.whole_catalogue(31))
    expected = textbook(interests, targets, vectors)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradients(value, interests, vectors), gradients(expected, interests, vectors))


def test_hard_choice_is_cross_entropy_of_the_interest_nearest_to_the_target() -> None:
    """Position by position: take the interest with the largest score of the target, then plain cross-entropy on it."""
    interests, targets, vectors = random_problem(23, 31)
    nearest = loss.nearest_interest(interests, targets, vectors)
    value = loss.catalogue_loss(nearest, targets, vectors, loss.whole_catalogue(31))
    best = [int((each @ vectors[target]).argmax()) for each, target in zip(interests, targets, strict=True)]
    by_hand = torch.stack([each[k : k + 1] for each, k in zip(interests, best, strict=True)])
    expected = textbook(by_hand, targets, vectors)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradients(value, interests, vectors), gradients(expected, interests, vectors))
    assert len(set(best)) == 3


def test_agreement_is_the_mean_cosine_of_pairs() -> None:
    """The same vector three times: 1; three at right angles: 0; two opposite ones: -1, which is the least there is."""
    vector, orthogonal = torch.tensor([[[3.0, 4.0, 0.0]]]), torch.diag(torch.tensor([1.0, 2.0, 5.0]))[None]
    assert loss.interest_agreement(vector.repeat(2, 3, 1)).item() == pytest.approx(1.0)
    assert loss.interest_agreement(orthogonal).item() == pytest.approx(0.0, abs=1e-6)
    assert loss.interest_agreement(torch.cat([vector, -vector], 1)).item() == pytest.approx(-1.0)
    assert loss.interest_agreement(vector).item() == 0.0  # a single interest has no pairs
    interests = random_problem(5, 6)[0]
    pairs = [torch.cosine_similarity(interests[:, k], interests[:, m]).mean() for k, m in ((0, 1), (0, 2), (1, 2))]
    torch.testing.assert_close(loss.interest_agreement(interests), sum(pairs, torch.zeros(())) / 3)


def test_interests_in_use() -> None:
    """All targets nearest to one interest: 1; half each: 2; a window of one event, where all tie: K."""
    assert loss.interests_in_use(torch.tensor([[9.0, 1, 2], [8, 0, 0]])) == pytest.approx(1.0)
    assert loss.interests_in_use(torch.tensor([[9.0, 1, 2], [3, 8, 0]])) == pytest.approx(2.0)
    assert loss.interests_in_use(torch.ones(4, 3)) == pytest.approx(3.0)


def test_interests_that_tie_share_the_gradient() -> None:
    """A window of one event has K equal interests: the gradient is still that of cross-entropy, and sums to it."""
    interests, targets, vectors = random_problem(9, 12)
    equal = interests.detach()[:, :1].repeat(1, 3, 1).requires_grad_()
    value = loss.catalogue_loss(equal, targets, vectors, loss.whole_catalogue(12))
    expected = textbook(equal, targets, vectors)
    torch.testing.assert_close(gradients(value, equal, vectors), gradients(expected, equal, vectors))


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
    counts = torch.tensor([0, 0, 0, 1, 0, 0])
    candidates = loss.NegativeSampler(counts, 10, torch.Generator().manual_seed(0)).draw()
    assert candidates.items.tolist() == [3]
    assert loss.catalogue_loss(interests, torch.full((4,), 3), vectors, candidates).item() == 0.0


def encoded(encoder: TwoHopEncoder, items: list[int], queries: int) -> Tensor:
    """Interests [A, K, D] of the last events of one sequence, an hour apart."""
    times_ms = 3_600_000 * np.arange(len(items))[None]
    ages = torch.from_numpy(log_ages(times_ms[:, None], times_ms[:, len(items) - queries :, None]))
    with torch.no_grad():
        interests: Tensor = encoder(torch.tensor([items]), ages, torch.ones(1, len(items)))[0]
    return interests[0]


@pytest.mark.parametrize("scoring", get_args(Scoring))
def test_the_future_is_hidden(scoring: Scoring) -> None:
    """Changing the last event changes no interest before it."""
    encoder = TwoHopEncoder(20, SMALL.model_copy(update={"scoring": scoring})).eval()
    before, after = encoded(encoder, [1, 2, 3, 4, 5, 6], 6), encoded(encoder, [1, 2, 3, 4, 5, 19], 6)
    torch.testing.assert_close(before[:-1], after[:-1])
    assert not torch.allclose(before[-1], after[-1])


@pytest.mark.parametrize("scoring", get_args(Scoring))
def test_fewer_query_positions_change_nothing(scoring: Scoring) -> None:
    """The last two of six events as queries = the last two of all six as queries."""
    encoder = TwoHopEncoder(20, SMALL.model_copy(update={"scoring": scoring})).eval()
    all_six, last_two = encoded(encoder, [1, 2, 3, 4, 5, 6], 6), encoded(encoder, [1, 2, 3, 4, 5, 6], 2)
    torch.testing.assert_close(all_six[4:], last_two)


def test_additive_scores_are_those_of_the_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    """v · tanh(Q h + K z), pair by pair, with its gradient, in one chunk and in one for each sequence."""
    scoring, generator = AdditiveScoring(4, 3), torch.Generator().manual_seed(0)
    state = torch.randn(5, 2, 4, generator=generator).requires_grad_()
    keys = torch.randn(5, 6, 4, generator=generator).requires_grad_()
    query, weights = scoring.query(state), scoring.output.weight
    pairs = [[[torch.tanh(query[s, a] + keys[s, e]) @ weights.T for e in range(6)] for a in range(2)] for s in range(5)]
    expected = torch.stack([torch.stack([torch.stack(row) for row in rows]) for rows in pairs]).permute(0, 3, 1, 2)
    for chunk in (1 << 24, 1):
        monkeypatch.setattr(attention, "_CHUNK_FEATURES", chunk)
        scores = scoring(state, keys)
        torch.testing.assert_close(scores, expected)
        inputs = (state, keys, *scoring.parameters())
        torch.testing.assert_close(
            gradients(scores.square().sum(), *inputs), gradients(expected.square().sum(), *inputs)
        )


def settings(**changes: object) -> TrainSettings:
    defaults = {"encoder": SMALL, "epochs": 12, "batch_sequences": 16, "learning_rate": 5e-3, "holdout": "last"}
    defaults |= {"spectral_start": False}
    return TrainSettings.model_validate({**defaults, **changes})


@pytest.fixture(scope="module")
def rings(tiny_interactions: Path) -> Interactions:
    return dataset.read(tiny_interactions)


def test_training_learns_and_is_repeatable(rings: Interactions) -> None:
    first, second = train(rings, settings()), train(rings, settings())
    assert first.validations[-1].loss < 0.75 * first.validations[0].loss
    assert first.validations[-1].best_ndcg > 1.5 * first.validations[0].ndcg
    assert all(1.0 <= progress.interests_in_use <= SMALL.interests for progress in first.validations)
    assert first.action_values == {}
    for parameter, repeated in zip(first.encoder.parameters(), second.encoder.parameters(), strict=True):
        assert torch.equal(parameter, repeated)
    third = train(rings, settings(seed=1))
    assert not torch.equal(third.encoder.items.table(), first.encoder.items.table())


def test_sampled_softmax_learns_too(rings: Interactions) -> None:
    trained = train(rings, settings(full_softmax_up_to=0, negatives=40))
    assert trained.validations[-1].best_ndcg > 1.5 * trained.validations[0].ndcg


def test_training_does_not_see_the_holdout(rings: Interactions) -> None:
    """With other items in all held-out events, the trained weights are the same to the bit."""
    both = settings(holdout="both", epochs=2)
    is_held_out = splits.held_out(rings, splits.holdout(rings.histories(), "both"))
    assert 0.1 <= is_held_out.mean() < 0.2
    garbled = dataclasses.replace(rings, items=np.where(is_held_out, np.int32(0), rings.items))
    original, without = train(rings, both), train(garbled, both)
    assert original.ids == without.ids
    assert torch.equal(original.encoder.items.table(), without.encoder.items.table())
    assert original.popularity.tolist() == without.popularity.tolist()
    assert original.newest_ms < int(rings.times_ms[-1])


def test_items_without_a_training_event_are_left_out(rings: Interactions) -> None:
    """Item 'new' has one event, a user's held-out last one."""
    last = int(np.flatnonzero(splits.newest(rings))[0])
    items = rings.items.copy()
    items[last] = len(rings.item_ids)
    data = dataclasses.replace(rings, items=items, item_ids=[*rings.item_ids, "new"])
    trained = train(data, settings(epochs=1))
    assert "new" not in trained.ids
    assert len(trained.ids) == len(trained.popularity) == trained.encoder.items.ids.num_embeddings


@pytest.mark.parametrize(
    "change",
    [
        {"encoder": SMALL.model_copy(update={"scoring": "additive"})},
        {"interest_choice": "per_target"},
        {"skip_share": 0.5, "skip_max": 3},
        {"weight_averaging": 0.9},
    ],
    ids=["additive scoring", "hard choice", "skips", "averaged weights"],
)
def test_every_variant_learns(rings: Interactions, change: dict[str, object]) -> None:
    trained = train(rings, settings(**change, epochs=8))
    assert trained.validations[-1].best_ndcg > 1.5 * trained.validations[0].ndcg


def test_interests_kept_apart_agree_less(rings: Interactions) -> None:
    """The same training with and without the regulariser: the mean cosine of the interests of ten windows."""
    windows = [list(range(start, start + 8)) for start in range(0, 100, 10)]
    free, apart = (
        torch.stack([loss.interest_agreement(encoded(encoder, window, 1)) for window in windows])
        for encoder in (train(rings, settings(interest_agreement=weight, epochs=4)).encoder for weight in (0.0, 1.0))
    )
    assert (apart < free).all()


def test_values_of_actions_are_learned(rings: Interactions) -> None:
    """A random half of the clicks, "stray", are on random items. They predict nothing, and their value falls."""
    rng = np.random.default_rng(0)
    is_stray = rng.random(len(rings)) < 0.5
    items = np.where(is_stray, rng.integers(0, len(rings.item_ids), len(rings)), rings.items).astype(np.int32)
    data = dataclasses.replace(rings, items=items, actions=is_stray.astype(np.int32), action_names=["view", "stray"])
    clicks = {"actions": {"stray": 1.0, "view": 2.0, "hide": 0.0}, "default_action": "view"}
    values = train(data, settings(clicks=clicks, action_values="learned", epochs=8)).action_values
    assert values.keys() == {"stray", "view"}
    assert values["stray"] / values["view"] < 0.45  # they started at 1/2


def test_averaged_weights_follow_their_definition() -> None:
    """Two steps: the first average is the weights themselves; then it keeps min(0.9, 2/11) of itself."""
    trained = TwoHopEncoder(5, SMALL)
    average = WeightAverage(trained, 0.9)
    first = trained.items.ids.weight.detach().clone()
    average.update()
    with torch.no_grad():
        trained.items.ids.weight.add_(1.0)
    average.update()
    torch.testing.assert_close(average.encoder.items.ids.weight, first + 1.0 - 2 / 11)
    assert WeightAverage(trained, 0.0).encoder is trained


def test_the_exported_weights_are_the_average(rings: Interactions, monkeypatch: pytest.MonkeyPatch) -> None:
    """The release of one epoch has the average after the last step."""
    weights = list[Tensor]()
    update = WeightAverage.update

    def update_and_record(average: WeightAverage) -> None:
        update(average)
        weights.append(average.encoder.items.ids.weight.detach().clone())

    monkeypatch.setattr(WeightAverage, "update", update_and_record)
    trained = train(rings, settings(epochs=1, weight_averaging=0.9))
    assert torch.equal(trained.encoder.items.ids.weight, weights[-1])
    assert not torch.equal(weights[-1], weights[0])


def test_a_share_of_the_sequences_skips_up_to_the_most() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        skips = step.drawn_skips(1000, settings(skip_share=0.5, skip_max=3))
    assert set(skips.tolist()) == {0, 1, 2, 3}
    assert abs((skips > 0).mean() - 0.5) < 0.05


def test_nan_weights_validate_worst(rings: Interactions) -> None:
    """Every item counts as ranked above the target, so its rank is V + 1."""
    data = training_data.prepare(rings.histories(), settings())
    encoder = TwoHopEncoder(len(data.ids), SMALL)
    held_out = validation.split(data.histories, settings())[1]
    assert held_out.run(encoder).ndcg > 1.1 / np.log2(2 + len(data.ids))
    torch.nn.init.constant_(encoder.hop1.key.weight, torch.nan)
    assert held_out.run(encoder).ndcg == pytest.approx(1.0 / np.log2(2 + len(data.ids)))


def test_time_limit_and_patience_end_training(rings: Interactions) -> None:
    clock = iter(range(0, 10_000, 20))
    progress: list[TrainingProgress] = []
    timed = train(rings, settings(epochs=None, minutes=2.0), progress.append, lambda: float(next(clock)))
    assert timed.stop_reason == "minutes"
    assert 1 <= progress[-1].step <= 6  # 120 s on a clock that moves 20 s whenever it is read
    impatient = train(rings, settings(epochs=None, learning_rate=1e-9, patience=2))
    assert len(impatient.validations) <= 10
    assert impatient.stop_reason == "patience"


@pytest.mark.parametrize(("spread", "served"), [(1.0, 5), (0.01, 0)], ids=["by chance", "beyond chance"])
def test_a_decaying_rate_trains_to_its_end_and_takes_the_newest_weights(
    spread: float, served: int, rings: Interactions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ever worse validations stop a constant rate, which takes the first weights. A decay is not stopped; it takes the
    first weights where 30 targets differ by less than the means do, and else the last."""
    ndcgs = iter(np.linspace(0.9, 0.1, 100).tolist())
    validated: list[Tensor] = []
    noise = np.random.default_rng(0)

    def validate_worse(_: Validation, encoder: TwoHopEncoder) -> ValidationResult:
        validated.append(encoder.items.ids.weight.detach().clone())
        ndcg = next(ndcgs)
        return ValidationResult(ndcg, 1.0, (ndcg + spread * noise.standard_normal(30)).astype(np.float32))

    monkeypatch.setattr(Validation, "run", validate_worse)
    for decay, validations, final in (("none", 3, 0), ("cosine", 6, served)):
        validated.clear()
        trained = train(rings, settings(epochs=6, patience=2, learning_rate_decay=decay))
        assert (len(trained.validations), len(validated)) == (validations, validations)
        assert [torch.equal(trained.encoder.items.ids.weight, weight) for weight in validated].index(True) == final


def test_a_plateau_lowers_the_rate_and_continues_from_the_best_weights(
    rings: Interactions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the second validation is better: two that are not, three times, are the patience of six."""
    ndcgs = iter([0.1, 0.2, *np.linspace(0.19, 0.1, 100).tolist()])
    validated, continued, rates = list[Tensor](), list[Tensor](), list[float]()
    take_step, continue_from = Stepper.step, Stepper.continue_from

    def validate(_: Validation, encoder: TwoHopEncoder) -> ValidationResult:
        validated.append(encoder.items.ids.weight.detach().clone())
        return ValidationResult(next(ndcgs), 1.0)

    def step_and_record(stepper: Stepper, batch: Int64, learning_rate: float, *, stop: bool) -> StepResult:
        rates.append(round(learning_rate, 9))
        return take_step(stepper, batch, learning_rate, stop=stop)

    def continue_and_record(stepper: Stepper, weights: Mapping[str, Tensor]) -> None:
        continue_from(stepper, weights)
        continued.append(stepper.encoder.items.ids.weight.detach().clone())

    monkeypatch.setattr(Validation, "run", validate)
    monkeypatch.setattr(Stepper, "step", step_and_record)
    monkeypatch.setattr(Stepper, "continue_from", continue_and_record)
    plan = settings(epochs=None, patience=6, learning_rate_decay="plateau", weight_averaging=0.5)
    trained = train(rings, plan)
    assert trained.stop_reason == "patience"
    epoch_steps = trained.validations[0].step
    assert [now.step // epoch_steps for now in trained.validations] == list(range(1, 9))
    assert rates == [5e-3] * 4 * epoch_steps + [1.5e-3] * 2 * epoch_steps + [4.5e-4] * 2 * epoch_steps
    for weights in (*continued, trained.encoder.items.ids.weight.detach()):
        assert torch.equal(weights, validated[1])
    assert len(continued) == 2
    assert trained.step == 2 * epoch_steps


def test_a_plateau_leaves_time_for_the_lower_rates(rings: Interactions, monkeypatch: pytest.MonkeyPatch) -> None:
    """With ever better validations the rate falls after 70 % and 85 % of the minutes."""
    ndcgs, clock_s, rates = itertools.count(1), [0.0], list[tuple[float, float]]()
    take_step = Stepper.step

    def step_and_record(stepper: Stepper, batch: Int64, learning_rate: float, *, stop: bool) -> StepResult:
        rates.append((clock_s[0], round(learning_rate, 9)))
        clock_s[0] += 1.0
        return take_step(stepper, batch, learning_rate, stop=stop)

    monkeypatch.setattr(Validation, "run", lambda *_: ValidationResult(float(next(ndcgs)), 1.0))
    monkeypatch.setattr(Stepper, "step", step_and_record)
    plan = settings(epochs=None, minutes=1.0, learning_rate_decay="plateau", validation_interval_steps=1)
    assert train(rings, plan, clock_s=lambda: clock_s[0]).stop_reason == "minutes"
    by_rate = {rate: [at_s for at_s, used in rates if used == rate] for rate in (5e-3, 1.5e-3, 4.5e-4)}
    assert [max(times_s) for times_s in by_rate.values()] == pytest.approx([42.0, 51.0, 61.0], abs=1.0)


def test_too_little_data_is_refused(rings: Interactions) -> None:
    few = rings.select(np.arange(len(rings)) < 3)
    with pytest.raises(DataError, match="too few"):
        train(few, settings())
