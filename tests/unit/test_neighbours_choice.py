"""Neighbours, from the counts of pairs to the lists of a release that carries them."""

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from engine.arrays import FIRST_SEARCH, NO_ITEM, Windows
from engine.catalogue.ids import Catalogue
from engine.messages.recommendation import Recommendation
from engine.pipeline import Recommender
from engine.releases import bundles, serving
from engine.releases.bundles import Bundle, NeighbourArrays
from engine.retrieval import features
from engine.settings.sections import IndexSettings, RecommendationSettings
from models.data import co_visits, dataset
from models.data.co_visits import CoVisits
from models.data.histories import Histories

pytest.importorskip("torch", reason="a release is trained for this test: pip install 'headrace[train]'")

import headrace
from models.data.sequences import Sequences
from models.lab.compression import forms
from models.publishing import export
from models.settings import EncoderSettings, Form, TrainSettings
from models.training import neighbours_choice
from models.training.fit import TrainingResult, train
from models.training.training_data import TrainingData, prepare
from models.training.validation import Validation


def random_histories(rng: np.random.Generator, users: int = 6, items: int = 9) -> Histories:
    lengths = rng.integers(0, 40, users)
    count = int(lengths.sum())
    clicked = rng.integers(0, items, count).astype(np.int32)
    clicked[rng.random(count) < 0.1] = FIRST_SEARCH
    starts = np.append(0, np.cumsum(lengths))
    return Histories(clicked, np.arange(count, dtype=np.int64), np.ones(count, np.uint8), starts)


def pairs_by_hand(histories: Histories) -> dict[tuple[int, int], float]:
    counts: dict[tuple[int, int], float] = defaultdict(float)
    for begin, end in zip(histories.starts[:-1].tolist(), histories.starts[1:].tolist(), strict=True):
        clicks = [item for item in histories.items[begin:end].tolist() if item < FIRST_SEARCH]
        for place, first in enumerate(clicks):
            for step, second in enumerate(clicks[place + 1 : place + 31]):
                if first != second:
                    counts[first, second] += 0.9**step
    return counts


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("backward", [0.0, 0.3, 1.0])
def test_weights_are_those_of_the_formula(seed: int, backward: float) -> None:
    histories = random_histories(np.random.default_rng(seed))
    table, forward = CoVisits(histories, 9).table(backward), pairs_by_hand(histories)
    events = np.bincount(histories.items[histories.items < FIRST_SEARCH], minlength=9)
    for item in range(9):
        expected = {
            other: (forward[item, other] + backward * forward[other, item])
            / (events[item] ** 0.85 * events[other] ** 0.15 + 10.0)
            for other in range(9)
            if forward[item, other] + backward * forward[other, item] > 0.0
        }
        there = table.rows[item] != NO_ITEM
        weights = dict(zip(table.rows[item][there].tolist(), table.weights[item][there].tolist(), strict=True))
        assert weights == pytest.approx(expected, rel=1e-4)
        assert (np.diff(table.weights[item]) <= 0.0).all()


def test_parts_and_pruning_change_nothing_that_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    histories = random_histories(np.random.default_rng(1), users=40)
    whole = CoVisits(histories, 9).table(0.3)
    monkeypatch.setattr(co_visits, "_PART_EVENTS", 50)
    monkeypatch.setattr(co_visits, "_MOST_CELLS", 10)  # pruned after every step, to more than there are items
    parts = CoVisits(histories, 9).table(0.3)
    np.testing.assert_array_equal(parts.rows, whole.rows)
    np.testing.assert_allclose(parts.weights, whole.weights, rtol=1e-5)


@pytest.fixture(scope="module")
def prepared(tiny_interactions: Path) -> TrainingData:
    return prepare(dataset.read(tiny_interactions).histories(), chosen())


def chosen(**changes: object) -> TrainSettings:
    sizes = EncoderSettings(dimensions=16, interests=2, heads=2, window_length=20)
    values = {"encoder": sizes, "holdout": "last", "epochs": 2, "batch_sequences": 16}
    return TrainSettings.model_validate(values | changes)


@pytest.fixture(scope="module")
def trained(prepared: TrainingData) -> TrainingResult:
    return train(prepared, chosen())


@pytest.fixture(scope="module")
def bundle(trained: TrainingResult, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return bundles.read(export.write(trained, chosen(), ("two-hop", "near"), 0, tmp_path_factory.mktemp("releases")))


def test_a_hasty_encoder_gets_neighbours_and_says_what_they_bring(trained: TrainingResult, bundle: Bundle) -> None:
    assert trained.neighbours is not None
    assert trained.neighbours.ndcg > 1.5 * trained.neighbours.encoder_ndcg
    assert bundle.manifest.contract.neighbours == trained.neighbours.sizes
    assert bundle.manifest.figures["validation_ndcg_with_neighbours"] == trained.neighbours.ndcg
    assert bundle.neighbours is not None
    np.testing.assert_array_equal(bundle.neighbours.rows, trained.neighbours.table.rows)


def test_the_validation_events_are_in_the_last_count_alone(trained: TrainingResult, prepared: TrainingData) -> None:
    assert trained.neighbours is not None
    everything = CoVisits(prepared.histories, len(prepared.ids)).table(trained.neighbours.backward)
    np.testing.assert_array_equal(trained.neighbours.table.rows, everything.rows)


def test_neighbours_that_mislead_are_left_out(
    trained: TrainingResult, prepared: TrainingData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every item's neighbours are items of the other ring, which its user never clicks."""
    count = len(prepared.ids)

    class Misleading(CoVisits):
        def table(self, backward: float) -> NeighbourArrays:
            right = super().table(backward)
            wrong = np.array([_other_ring(prepared.ids, row) for row in range(count)], np.int32)
            return NeighbourArrays(np.where(right.rows == NO_ITEM, NO_ITEM, wrong[right.rows]), right.weights)

    monkeypatch.setattr(neighbours_choice, "CoVisits", Misleading)
    ends = prepared.histories.starts[1:] - 1
    validation = Validation(prepared.histories, Sequences(np.maximum(ends - 20, 0), ends, ends - 1), 16)
    assert neighbours_choice.choose(trained.encoder, prepared, validation) is None


def _other_ring(ids: list[str], row: int) -> int:
    number = int(ids[row][1:])
    return ids.index(f"i{(number + 60) % 120}")


def test_lists_have_the_order_of_the_formula(bundle: Bundle) -> None:
    """With an exact index and places for every item, down to the last digit that a message shows."""
    release = serving.warm(bundle, Catalogue(), IndexSettings(kind="exact"), threads=1)
    every = len(bundle.ids)
    weights = np.zeros(256, np.float32)
    weights[1] = 1.0
    settings = RecommendationSettings(count=20, candidates_per_interest=every)
    rng, shape = np.random.default_rng(0), (12, 20)
    windows = Windows(
        rng.choice(release.numbers, shape), np.broadcast_to(60_000 * np.arange(20), shape), np.ones(shape, np.uint8)
    )
    lists = Recommender.starting(settings, weights, release).recommend(windows, release)
    rows = release.rows(windows.items)
    sizes = bundle.manifest.contract.neighbours
    assert sizes is not None
    assert bundle.neighbours is not None
    affinity = neighbours_choice.affinities(bundle.neighbours, rows[:, : -sizes.last_items - 1 : -1])
    interests, _ = release.encode(features.make(windows, rows, weights, 20))
    for user in range(len(rows)):
        listed = release.rows(lists.items[user])
        scores = lists.scores[user] - sizes.weight * np.log1p(affinity[user, listed] / sizes.floor)
        by_interest = release.vectors[listed] @ interests[user].T  # [N, K]
        np.testing.assert_allclose(scores, by_interest.max(axis=1), atol=2e-3)
        assert (np.diff(lists.scores[user]) <= 0.0).all()


def test_a_neighbour_names_the_click_it_comes_from(bundle: Bundle) -> None:
    """One candidate an interest: what follows in the list comes from neighbours, which are of the click's own ring."""
    settings = headrace.Settings(
        recommendations=RecommendationSettings(count=5, candidates_per_interest=1), index=IndexSettings(kind="exact")
    )
    made: Recommendation = headrace.open_release(bundle.folder, settings).recommend(["i3", "i5", "i6"])
    neighbours = [item for item in made.items if item.source == "neighbour"]
    assert neighbours
    assert {item.neighbour_of for item in neighbours} <= {"i3", "i5", "i6"}
    assert all(int(item.item[1:]) < 60 for item in neighbours)
    assert all(item.interest >= 0 for item in neighbours)


def test_compressed_releases_keep_the_table(bundle: Bundle, tmp_path: Path, tiny_interactions: Path) -> None:
    check = forms.CompressionCheck(bundle, dataset.read(tiny_interactions), headrace.Settings().clicks)
    written = bundles.read(forms.write(check.run(Form()), None, 0, tmp_path))
    assert written.neighbours is not None
    np.testing.assert_array_equal(written.neighbours.rows, bundle.neighbours.rows if bundle.neighbours else [])


def test_without_the_setting_there_is_no_table(prepared: TrainingData) -> None:
    assert train(prepared, chosen(epochs=1, neighbours=False)).neighbours is None
