"""Private training: gradients are clipped per user, the noise has its deviation, the accountant its epsilon."""

import dataclasses
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

pytest.importorskip("torch", reason="training needs torch: pip install 'headrace[train]'")
pytest.importorskip("opacus", reason="private training needs Opacus: pip install 'headrace[private]'")

import torch
from torch import Tensor

from engine.arrays import Bool, Int64
from engine.errors import DataError, MissingExtraError, SettingsError
from engine.releases import bundles
from engine.settings.sections import Settings
from models.cli import train as train_command
from models.data import dataset
from models.data.histories import Histories
from models.evaluation import evaluate, release_under_test, report
from models.network.two_hop import TwoHopEncoder
from models.settings import EncoderSettings, TrainSettings
from models.training import private, training_data
from models.training.fit import train
from models.training.private import Privacy, PrivacyTerms, PrivateStepper
from models.training.trainer import StopTraining, TrainingProgress

SIZES = EncoderSettings(dimensions=8, interests=2, heads=2, hidden=16, window_length=100, dropout=0.0)
ITEMS = 50


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def settings(**changes: object) -> TrainSettings:
    defaults = {"encoder": SIZES, "holdout": "last", "epochs": 1, "batch_sequences": 6, "private_epsilon": 1.0}
    return TrainSettings.model_validate({**defaults, **changes})


def arguments(data: Path, out: Path) -> list[str]:
    small = ["--dimensions", "8", "--window-length", "20", "--batch-sequences", "6", "--epochs", "1"]
    return ["--data", str(data), "--out", str(out), *small, "--holdout", "last", "--private-epsilon", "1"]


def histories(*lengths: int, seed: int = 0) -> Histories:
    """Users with `lengths` events each, of random items, a minute apart."""
    rng, events = np.random.default_rng(seed), sum(lengths)
    return Histories(
        items=rng.integers(0, ITEMS, events, dtype=np.int32),
        times_ms=60_000 * np.arange(events),
        actions=np.ones(events, np.uint8),
        starts=np.append(0, np.cumsum(lengths)).astype(np.int64),
    )


def private_stepper(
    users: Histories, *, clip: float = 1.0, noise: float = 1.0, seed: int = 0, **changes: object
) -> PrivateStepper:
    torch.manual_seed(seed)
    changed, generators = settings(**changes), (np.random.default_rng(seed), torch.Generator().manual_seed(seed))
    terms = PrivacyTerms(delta=1e-3, clip=clip, noise_multiplier=noise, sample_rate=0.5)
    return PrivateStepper(TwoHopEncoder(ITEMS, changed.encoder), users, changed, terms, generators)


def gradient_sum(stepper: PrivateStepper, users: list[int]) -> Tensor:
    """The sum of these users' clipped gradients, over all parameters."""
    stepper.add_gradients(np.array(users))
    sums = [(parameter.summed_grad, parameter) for parameter in stepper._optimiser.params]
    return torch.cat([(torch.zeros_like(weight) if total is None else total).flatten() for total, weight in sums])


def noisy_sum(stepper: PrivateStepper, users: list[int]) -> Tensor:
    """The gradient in a step with these users, times the expected batch size: a sum with noise."""
    gradients: list[Tensor] = []
    stepper._optimiser.attach_step_hook(lambda optimiser: gradients.extend(p.grad.flatten() for p in optimiser.params))
    stepper.step(np.array(users, np.int64), 1e-3)
    return torch.cat(gradients) * float(stepper._optimiser.expected_batch_size)


@examples(max_examples=25)
@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=4).filter(lambda lengths: max(lengths) > 1),
    clip=st.sampled_from([1e-3, 0.1, 1.0, 1e3]),
    seed=st.integers(0, 99),
)
def test_each_gradient_is_clipped(lengths: list[int], clip: float, seed: int) -> None:
    """Beyond the clip a gradient keeps its direction; below it, it is unchanged."""
    for user in range(len(lengths)):
        clipped, whole = (
            gradient_sum(private_stepper(histories(*lengths, seed=seed), clip=bound, seed=seed), [user])
            for bound in (clip, 1e9)
        )
        assert clipped.norm() <= clip * 1.0001
        torch.testing.assert_close(clipped, whole * min(1.0, clip / (float(whole.norm()) + 1e-6)))


def test_a_whole_user_changes_the_sum_by_at_most_the_clip() -> None:
    """Without all events of any one user it changes by the clip, though one has sixteen times the events of another."""
    lengths, clip = (20, 80, 5, 30), 0.05
    users = histories(*lengths)
    total = gradient_sum(private_stepper(users, clip=clip), [0, 1, 2, 3])
    for removed in range(len(lengths)):
        owners = np.repeat(np.arange(len(lengths)), lengths)
        columns = {name: getattr(users, name)[owners != removed] for name in ("items", "times_ms", "actions")}
        remaining = [length for user, length in enumerate(lengths) if user != removed]
        neighbour = Histories(**columns, starts=np.append(0, np.cumsum(remaining)).astype(np.int64))
        difference = total - gradient_sum(private_stepper(neighbour, clip=clip), [0, 1, 2])
        assert 0.9 * clip < difference.norm() <= 1.0001 * clip


@given(lengths=st.lists(st.integers(0, 40), min_size=1, max_size=12).filter(lambda lengths: max(lengths) > 1))
@examples(max_examples=50)
def test_the_parts_of_a_user_have_all_events_of_that_user_and_no_others(lengths: list[int]) -> None:
    users = histories(*lengths)
    stepper = private_stepper(users, encoder=SIZES.model_copy(update={"window_length": 10}))
    for user, length in enumerate(lengths):
        rows = slice(stepper._part_starts[user], stepper._part_starts[user + 1])
        assert (stepper._parts.begins[rows] >= users.starts[user]).all()
        assert (stepper._parts.ends[rows] < users.starts[user + 1]).all()
        assert (stepper._parts.ends[rows] - stepper._parts.target_begins[rows]).sum() == max(length - 1, 0)


@pytest.mark.parametrize(("noise", "clip"), [(1.0, 1.0), (3.0, 0.5)])
def test_the_noise_has_its_standard_deviation(noise: float, clip: float) -> None:
    """A step without users is noise alone: 1,892 numbers, whose deviation is known to 1.6 % and mean to 2.3 %."""
    noisy = noisy_sum(private_stepper(histories(30, 30), noise=noise, clip=clip), [])
    count = noisy.numel()
    assert count == 1892
    assert float(noisy.std()) == pytest.approx(noise * clip, rel=4 / math.sqrt(2 * count))
    assert float(noisy.mean()) == pytest.approx(0.0, abs=4 * noise * clip / math.sqrt(count))


def test_noise_is_added_once_a_step_for_any_number_of_users() -> None:
    users = histories(30, 30, 30)
    noise, noisy = noisy_sum(private_stepper(users), []), noisy_sum(private_stepper(users), [0, 1, 2])
    clipped = gradient_sum(private_stepper(users), [0, 1, 2])
    torch.testing.assert_close(noisy - noise, clipped, atol=1e-5, rtol=1e-4)


def test_every_step_samples_each_user_independently_with_the_same_probability(
    tiny_interactions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Poisson sampling of 60 users, a third each time, 600 times: sizes are binomial, and no user comes more often."""
    masks: list[Bool] = []

    def record_users(_: PrivateStepper, users: Int64, learning_rate: float) -> float:
        assert learning_rate == settings().learning_rate
        masks.append(np.isin(np.arange(60), users))
        return 0.0

    monkeypatch.setattr(PrivateStepper, "step", record_users)
    train(dataset.read(tiny_interactions), settings(batch_sequences=20, epochs=200))
    sampled = np.array(masks)  # [600, 60]
    assert sampled.shape == (600, 60)
    assert abs(sampled.mean(0) - 1 / 3).max() < 5 * math.sqrt(1 / 3 * 2 / 3 / 600)
    assert sampled.sum(1).var() == pytest.approx(60 * 1 / 3 * 2 / 3, rel=0.3)


def epsilon_spent(noise: float, rate: float, steps: int) -> float:
    from opacus.accountants import RDPAccountant  # noqa: PLC0415, TID251 - an accountant of its own

    accountant = RDPAccountant()
    accountant.history = [(noise, rate, steps)]
    return private.epsilon(accountant, 1e-3)


def test_one_step_with_all_users_is_the_gaussian_mechanism() -> None:
    """Balle and Wang 2018, theorem 8: delta = Phi(1/2s - es) - exp(e) Phi(-1/2s - es) with noise s."""

    def phi(value: float) -> float:
        return 0.5 * math.erfc(-value / math.sqrt(2.0))

    noise = 2.0
    exact = next(
        epsilon
        for epsilon in np.arange(0.0, 9.0, 1e-3)
        if phi(0.5 / noise - epsilon * noise) - math.exp(epsilon) * phi(-0.5 / noise - epsilon * noise) < 1e-3
    )
    assert exact <= epsilon_spent(noise, 1.0, 1) <= 1.3 * exact


def test_the_epsilon_is_that_of_the_steps_taken(tiny_interactions: Path) -> None:
    """Six of 60 users a step, ten steps an epoch; cut short after five steps, less has been spent."""
    data = dataset.read(tiny_interactions)
    whole = train(data, settings(private_delta=1e-3)).privacy
    assert whole is not None
    assert (whole.steps, whole.sample_rate, whole.delta) == (10, 0.1, 1e-3)
    assert 0.98 <= whole.epsilon <= 1.0
    assert whole.epsilon == epsilon_spent(whole.noise_multiplier, 0.1, 10)

    def stop_at_5(progress: TrainingProgress) -> None:
        if progress.step == 5:
            raise StopTraining

    short = train(data, settings(private_delta=1e-3), stop_at_5).privacy
    assert short is not None
    assert short.steps == 5
    assert short.epsilon == epsilon_spent(whole.noise_multiplier, 0.1, 5) < whole.epsilon
    timed = train(data, settings(minutes=1.0), clock_s=iter(range(0, 900, 20)).__next__).privacy
    assert timed is not None
    assert timed.steps == 4  # after 80 s


def test_the_release_has_epsilon_and_nothing_exact(tiny_interactions: Path, tmp_path: Path) -> None:
    """It can still be evaluated, on data that its report does not identify."""
    result = CliRunner().invoke(train_command.train, arguments(tiny_interactions, tmp_path), catch_exceptions=False)
    bundle, data = bundles.read(Path(result.stdout.strip())), dataset.read(tiny_interactions)
    figures, trained = bundle.manifest.figures, release_under_test.training_report(bundle)
    assert figures.keys() == {"epsilon", "delta", "parity_difference"}
    assert 0.98 <= figures["epsilon"] <= 1.0
    assert figures["delta"] == pytest.approx(60**-1.1)
    assert trained.keys() == {"settings", "items_with_content", "privacy"}
    assert trained["privacy"].keys() == {field.name for field in dataclasses.fields(Privacy)} | {"promise"}
    assert {name: trained["privacy"][name] for name in ("epsilon", "delta")}.items() <= figures.items()
    assert not bundle.popularity.any()
    assert bundle.ids == sorted(data.item_ids) != data.item_ids
    evaluation = evaluate.evaluate(bundle, data, Settings(), lambda *_: None)
    assert 0.0 <= evaluation["ndcg10"] <= 1.0
    assert report._same_data(evaluation, trained) == "not known, as the training was private"


def test_items_in_order_of_ids_are_the_same_items(tiny_interactions: Path) -> None:
    prepared = training_data.prepare(dataset.read(tiny_interactions).histories(), settings())
    redacted = private.redact(prepared)
    before, after = (np.array(data.ids)[data.histories.items] for data in (prepared, redacted))
    assert (before == after).all()
    counts = [dict(zip(data.ids, data.counts.tolist(), strict=True)) for data in (prepared, redacted)]
    assert counts[0] == counts[1]


def test_noise_does_not_depend_on_the_seed(tiny_interactions: Path) -> None:
    """The seed, which is in the report, does not suffice to repeat the training and subtract the noise."""
    data = dataset.read(tiny_interactions)
    first, second = (train(data, settings(epochs=1, batch_sequences=60)).encoder.items.ids.weight for _ in range(2))
    assert not torch.allclose(first, second)


def test_with_little_noise_it_learns(tiny_interactions: Path) -> None:
    losses: list[float] = []
    little_noise = settings(private_epsilon=5000.0, epochs=5, learning_rate=0.02)
    train(dataset.read(tiny_interactions), little_noise, lambda progress: losses.append(progress.loss))
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize(
    ("changes", "processes", "message"),
    [
        ({"epochs": None}, 1, "--private-epsilon 1 needs --epochs"),
        ({"holdout": "both"}, 1, "found --holdout both, expected last or none"),
        ({"holdout": "time"}, 1, "found --holdout time, expected last or none"),
        ({}, 2, "trains in one process, found 2: start it without torchrun"),
    ],
)
def test_settings_that_break_the_promise_are_refused(changes: dict[str, object], processes: int, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        private.refuse_unfit(settings(**changes), processes)
    private.refuse_unfit(settings(**changes, private_epsilon=None), processes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"full_softmax_up_to": 10}, "found 120 items and --full-softmax-up-to 10"),
        ({"private_delta": 0.02}, "--private-delta found 0.02 for 60 users, expected less than 0.017"),
        (
            {"private_epsilon": 1e-3, "private_delta": 1e-9},
            "no noise is enough for that; give a larger epsilon, or fewer --epochs",
        ),
    ],
)
def test_terms_that_cannot_be_kept_are_refused(
    tiny_interactions: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        train(dataset.read(tiny_interactions), settings(**changes))


def test_users_without_two_events_are_refused() -> None:
    with pytest.raises(DataError, match="none of 3 users has two events"):
        private_stepper(histories(1, 1, 1))


def test_the_verb_needs_the_extra_before_it_reads_the_data(
    tiny_interactions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "opacus", None)
    monkeypatch.setattr(training_data, "prepare", None)
    with pytest.raises(MissingExtraError, match=r"--private-epsilon needs opacus.*pip install 'headrace\[private\]'"):
        CliRunner().invoke(train_command.train, arguments(tiny_interactions, tmp_path), catch_exceptions=False)
