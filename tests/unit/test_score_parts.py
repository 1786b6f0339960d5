"""Neighbours and popularity, from counts to the lists of a release in whose scores they are."""

import gzip
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from engine.arrays import FIRST_SEARCH, NO_ITEM, Windows
from engine.catalogue.ids import Catalogue
from engine.contract import PopularityScore
from engine.messages.recommendation import Recommendation
from engine.pipeline import Recommender
from engine.ranking.lists import FROM_POPULAR, NO_INTEREST
from engine.ranking.popularity import Popularity
from engine.releases import bundles, serving
from engine.releases.bundles import Bundle, Manifest, NeighbourArrays
from engine.retrieval import features
from engine.settings.sections import IndexSettings, RecommendationSettings
from models.data import co_visits, dataset
from models.data.co_visits import CoVisits
from models.data.dataset import Interactions
from models.data.histories import Histories

pytest.importorskip("torch", reason="a release is trained for this test: pip install 'headrace[train]'")

import torch

import headrace
from models.data.sequences import Sequences
from models.evaluation import queries
from models.evaluation.list_evaluation import RELEASE
from models.evaluation.release_under_test import BaselineComparison, ReleaseRecommender, ReleaseUnderTest
from models.lab.compression import forms
from models.publishing import export
from models.settings import EncoderSettings, Form, TrainSettings
from models.training import score_parts
from models.training import validation as validations
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


def pairs_by_hand(histories: Histories, step_decay: float) -> dict[tuple[int, int], float]:
    counts: dict[tuple[int, int], float] = defaultdict(float)
    for begin, end in zip(histories.starts[:-1].tolist(), histories.starts[1:].tolist(), strict=True):
        clicks = [item for item in histories.items[begin:end].tolist() if item < FIRST_SEARCH]
        for place, first in enumerate(clicks):
            for step, second in enumerate(clicks[place + 1 : place + 31]):
                if first != second:
                    counts[first, second] += step_decay**step
    return counts


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("backward", "step_decay"), [(0.0, 0.9), (0.3, 0.6), (1.0, 0.9)])
def test_weights_are_those_of_the_formula(seed: int, backward: float, step_decay: float) -> None:
    histories = random_histories(np.random.default_rng(seed))
    table, forward = CoVisits(histories, 9, step_decay).table(backward), pairs_by_hand(histories, step_decay)
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
    values = {"encoder": sizes, "holdout": "last", "epochs": 2, "batch_sequences": 16, "spectral_start": False}
    return TrainSettings.model_validate(values | changes)


@pytest.fixture(scope="module")
def trained(prepared: TrainingData) -> TrainingResult:
    return train(prepared, chosen())


@pytest.fixture(scope="module")
def bundle(trained: TrainingResult, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return bundles.read(export.write(trained, chosen(), ("two-hop", "near"), 0, tmp_path_factory.mktemp("releases")))


def test_a_hasty_encoder_gets_neighbours_and_says_what_they_bring(trained: TrainingResult, bundle: Bundle) -> None:
    parts = trained.score_parts
    assert parts is not None
    assert parts.neighbours is not None
    assert parts.ndcg > 1.5 * parts.encoder_ndcg
    assert bundle.manifest.contract.neighbours == parts.neighbours.sizes
    assert bundle.manifest.contract.popularity == parts.popularity
    assert bundle.manifest.figures["validation_ndcg_of_scores"] == parts.ndcg
    assert bundle.neighbours is not None
    np.testing.assert_array_equal(bundle.neighbours.rows, parts.neighbours.table.rows)


def test_the_validation_events_are_in_the_last_count_alone(trained: TrainingResult, prepared: TrainingData) -> None:
    assert trained.score_parts is not None
    neighbours = trained.score_parts.neighbours
    assert neighbours is not None
    counting = neighbours.counting
    everything = CoVisits(prepared.histories, len(prepared.ids), counting.step_decay).table(counting.backward)
    np.testing.assert_array_equal(neighbours.table.rows, everything.rows)


@torch.no_grad()
def test_the_sum_of_scores_is_that_of_the_validation_windows(trained: TrainingResult, prepared: TrainingData) -> None:
    """So that what is clicked later has scores on the same scale."""
    _, validation = validations.split(prepared.histories, chosen())
    search = score_parts._Search(trained.encoder, prepared, validation)
    sums = [np.logaddexp.reduce(queries.scores.astype(np.float64), axis=1) for queries in search._queries()]
    assert search.result().log_partition == pytest.approx(np.concatenate(sums).mean(), rel=1e-4)
    search.neighbours = score_parts._Weighting(2.0, 0.01, decay=0.8)
    with_neighbours = search.result().log_partition
    assert with_neighbours is not None
    assert with_neighbours > np.concatenate(sums).mean()
    assert trained.score_parts is not None
    assert trained.score_parts.log_partition is not None


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

    monkeypatch.setattr(score_parts, "CoVisits", Misleading)
    ends = prepared.histories.starts[1:] - 1
    validation = Validation(prepared.histories, Sequences(np.maximum(ends - 20, 0), ends, ends - 1), 16)
    parts = score_parts.choose(trained.encoder, prepared, validation, chosen(popularity=False))
    assert parts.neighbours is None
    assert parts.ndcg == parts.encoder_ndcg


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
    affinity = score_parts.affinities(bundle.neighbours, rows[:, : -sizes.last_items - 1 : -1], sizes.decay)
    interests, _ = release.encode(features.make(windows, rows, weights, 20))
    for user in range(len(rows)):
        listed = release.rows(lists.items[user])
        scores = lists.scores[user] - sizes.weight * np.log1p(affinity[user, listed] / sizes.floor)
        by_interest = release.vectors[listed] @ interests[user].T  # [N, K]
        np.testing.assert_allclose(scores, by_interest.max(axis=1), atol=2e-3)
        assert (np.diff(lists.scores[user]) <= 0.0).all()


def test_served_scores_sum_up_to_what_the_contract_says(bundle: Bundle, prepared: TrainingData) -> None:
    """Windows of the training's users, scored by the release as it is served: later items are put on this scale."""
    release = serving.warm(bundle, Catalogue(), IndexSettings(kind="exact"), threads=1)
    sizes, histories = bundle.manifest.contract.neighbours, prepared.histories
    assert sizes is not None
    assert bundle.neighbours is not None
    assert bundle.manifest.contract.log_partition is not None
    ends = histories.starts[1:][np.diff(histories.starts) > 20]
    events = ends[:, None] - np.arange(20, 0, -1)
    windows = Windows(
        release.numbers[histories.items[events]], histories.times_ms[events], np.ones(events.shape, np.uint8)
    )
    rows = release.rows(windows.items)
    weights = np.zeros(256, np.float32)
    weights[1] = 1.0
    interests, _ = release.encode(features.make(windows, rows, weights, 20))
    affinity = score_parts.affinities(bundle.neighbours, rows[:, : -sizes.last_items - 1 : -1], sizes.decay)
    scores = (interests @ release.vectors.T).max(axis=1) + sizes.weight * np.log1p(affinity / sizes.floor)
    if bundle.manifest.contract.popularity is not None:
        score, shares = bundle.manifest.contract.popularity, release.popularity / release.popularity.sum()
        scores += score.weight * np.log1p(shares / score.floor)
    users, places = np.arange(len(rows))[:, None], rows
    scores[users, places] = -np.inf  # as in lists without what the window holds
    sums = np.logaddexp.reduce(scores.astype(np.float64), axis=1)
    assert sums.mean() == pytest.approx(bundle.manifest.contract.log_partition, abs=0.5)


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


def test_without_the_settings_there_is_no_part(prepared: TrainingData) -> None:
    assert train(prepared, chosen(epochs=1, neighbours=False, popularity=False)).score_parts is None
    parts = train(prepared, chosen(epochs=1, neighbours=False)).score_parts
    assert parts is not None
    assert parts.neighbours is None


@pytest.fixture(scope="module")
def fashions(tmp_path_factory: pytest.TempPathFactory) -> Interactions:
    """Every six days have five items that everybody clicks, and no user has a taste: only the date tells."""
    rng = np.random.default_rng(0)
    day_s, folder = 86_400, tmp_path_factory.mktemp("fashions")
    times_s = rng.integers(60 * day_s, size=(600, 4))
    items = 5 * (times_s // (6 * day_s)) + rng.integers(5, size=times_s.shape)
    users = np.arange(600)[:, None] + np.zeros((1, 4), np.int64)
    events = sorted(zip(times_s.ravel().tolist(), users.ravel().tolist(), items.ravel().tolist(), strict=True))
    with gzip.open(folder / "interactions.csv.gz", "wt") as file:
        file.write("user,item,ts,weight\n")
        file.writelines(f"u{user},i{item},{time},1\n" for time, user, item in events)
    return dataset.read(folder)


def test_popularity_counts_where_fashion_is_all_there_is(fashions: Interactions, tmp_path: Path) -> None:
    trained = train(fashions, chosen(neighbours=False, batch_sequences=64))
    assert trained.score_parts is not None
    assert trained.score_parts.popularity is not None
    assert trained.score_parts.ndcg > 1.2 * trained.score_parts.encoder_ndcg
    written = bundles.read(export.write(trained, chosen(), ("two-hop", "fashion"), 0, tmp_path))
    without = replace(written, manifest=replace_popularity(written.manifest, None))
    assert ndcg10(written, fashions) > 1.2 * ndcg10(without, fashions)


def ndcg10(bundle: Bundle, interactions: Interactions) -> float:
    """Of the users' last events, with the popularity of their time."""
    under_test = ReleaseUnderTest(bundle, interactions, headrace.Settings())
    last = queries.last_event_queries(under_test)
    release = ReleaseRecommender(under_test.live, under_test, last.popularity_mask)
    comparison = BaselineComparison(under_test, {RELEASE: release})
    comparison.run(last)
    return float(comparison.figures()["ndcg10"])


def replace_popularity(manifest: Manifest, score: PopularityScore | None) -> Manifest:
    return msgspec.structs.replace(manifest, contract=replace(manifest.contract, popularity=score))


def test_a_worker_scores_by_the_popularity_it_has_counted(bundle: Bundle) -> None:
    """One item that becomes popular comes to the front of every list, and says that it is popular."""
    strong = replace(bundle, manifest=replace_popularity(bundle.manifest, PopularityScore(weight=200.0, floor=0.01)))
    release = serving.warm(strong, Catalogue(), IndexSettings(kind="exact"), threads=1)
    weights = np.zeros(256, np.float32)
    weights[1] = 1.0
    popularity = Popularity()
    recommender = Recommender(RecommendationSettings(count=5, candidates_per_interest=5), weights, popularity)
    shape = (4, 6)
    rng = np.random.default_rng(0)
    items = rng.choice(release.numbers[:50], shape)
    windows = Windows(items, np.broadcast_to(60_000 * np.arange(6), shape), np.ones(shape, np.uint8))
    newcomer = int(release.numbers[100])
    assert newcomer not in recommender.recommend(windows, release).items[:, 0]
    popularity.add(np.full(500, newcomer, np.int32), np.zeros(500, np.int64))
    lists = recommender.recommend(windows, release)
    assert (lists.items[:, 0] == newcomer).all()
    assert (lists.sources[:, 0] == FROM_POPULAR).all()
    assert (lists.interests[:, 0] == NO_INTEREST).all()
    assert (lists.origins[:, 0] == NO_ITEM).all()
    assert (lists.scores[:, 0] > 0).all()
    windows.items[0, -1] = newcomer
    assert newcomer not in recommender.recommend(windows, release).items[0]
