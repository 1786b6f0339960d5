"""Re-scoring by target attention: torch and onnxruntime agree, nothing held out is trained on, and it has to pay."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from engine.arrays import NO_ITEM
from engine.errors import SettingsError, UnfitReleaseError
from engine.releases import bundles, serving
from engine.releases.bundles import Bundle, Holdout
from engine.settings.sections import RecommendationSettings, Settings
from models.cli.rescore import rescore
from models.data import dataset
from models.data.dataset import Interactions
from models.evaluation import queries
from models.evaluation.queries import LIST_LENGTH, EvalData
from models.evaluation.release_under_test import ReleaseRecommender
from models.lab.rescoring import examples, measure, rescorer_training
from models.lab.rescoring.examples import RescorerData, RescorerExamples
from models.lab.rescoring.exported import TOLERANCE, ExportedRescorer, largest_difference, refuse_difference
from models.lab.rescoring.rescorer import Rescorer
from models.lab.rescoring.top_candidates import CandidateSearch
from models.settings import ALLOWED_COST, REQUIRED_GAIN, RescoreSettings

SMALL = RescoreSettings(candidates=40, events=5, negatives=20, validation_interval_steps=50, patience=2, minutes=0.2)


@pytest.fixture(scope="module")
def interactions(tiny_interactions: Path) -> Interactions:
    return dataset.read(tiny_interactions)


@pytest.fixture(scope="module")
def bundle(tiny_release: Path) -> Bundle:
    return bundles.read(tiny_release)


@pytest.fixture(scope="module")
def eval_data(interactions: Interactions) -> EvalData:
    deep = RecommendationSettings(candidates_per_interest=200)  # so that the depth of the search changes no list
    return EvalData(interactions, Settings(recommendations=deep))


@pytest.fixture(scope="module")
def search(bundle: Bundle, eval_data: EvalData) -> CandidateSearch:
    warm = serving.warm(bundle, eval_data.catalogue, eval_data.settings.index, 1)
    return CandidateSearch(warm, eval_data, SMALL.candidates)


@pytest.fixture(scope="module")
def data(bundle: Bundle, search: CandidateSearch, interactions: Interactions) -> RescorerData:
    return examples.prepare(bundle, search, interactions, SMALL)


def random_rescorer(dimensions: int, settings: RescoreSettings) -> Rescorer:
    """An untrained re-scorer with random gates, so that it changes scores."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        rescorer = Rescorer(dimensions, settings).eval()
        torch.nn.init.normal_(rescorer.gates.weight)
        torch.nn.init.normal_(rescorer.gates.bias)
    return rescorer


def random_examples(rng: np.random.Generator, length: int) -> RescorerExamples:
    """Three windows of 50 items, seven candidates each, the last one of the first user missing."""
    scores = rng.random((3, 7), np.float32)
    scores[0, -1] = -np.inf
    return RescorerExamples(
        rows=rng.integers(0, 50, (3, length), dtype=np.int32),
        ages=rng.random((3, length), np.float32),
        weights=rng.choice(np.array([0.5, 1.0, 3.0], np.float32), (3, length)),
        candidates=rng.integers(0, 50, (3, 7), dtype=np.int32),
        scores=scores,
        target_columns=np.zeros(3, np.int64),
    )


@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("length", [1, 4, 9])
def test_torch_and_onnxruntime_agree(heads: int, length: int) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((50, 16)).astype(np.float32)
    rescorer = random_rescorer(16, RescoreSettings(heads=heads, events=4))
    batch = random_examples(rng, length)
    exported = ExportedRescorer.export(rescorer, vectors)
    refuse_difference(largest_difference(rescorer, exported, vectors, batch))
    rescored, candidate_mask = exported.scores(batch), np.isfinite(batch.scores)
    assert (rescored[~candidate_mask] == -np.inf).all()  # a missing candidate stays missing
    assert np.abs(rescored[candidate_mask] - batch.scores[candidate_mask]).max() > 0.1


@pytest.mark.parametrize("difference", [2 * TOLERANCE, float("nan")])
def test_graphs_that_differ_from_torch_are_refused(difference: float) -> None:
    with pytest.raises(UnfitReleaseError, match="torch and onnxruntime differ"):
        refuse_difference(difference)


def test_the_correction_by_two_events_by_hand() -> None:
    """One head, and all maps the identity: an event adds its attention times z(c) · z(x_j), which is 2 or -2 here."""
    rescorer = Rescorer(2, RescoreSettings(heads=1, events=20)).eval()
    with torch.no_grad():
        for layer in (rescorer.queries, rescorer.keys, rescorer.values, rescorer.gates):
            layer.weight.copy_(torch.eye(2))
        rescorer.rank_slope.fill_(0.5)
        rescorer.age_slope.fill_(0.25)
    vectors = np.array([[3.0, 1.0], [1.0, 3.0]], np.float32)  # normalised: [1, -1] and [-1, 1]
    example = RescorerExamples(
        rows=np.array([[1, 0]], np.int32),
        ages=np.array([[2.0, 0.0]], np.float32),
        weights=np.array([[3.0, 1.0]], np.float32),
        candidates=np.array([[0]], np.int32),
        scores=np.array([[10.0]], np.float32),
        target_columns=np.zeros(1, np.int64),
    )
    older = np.exp(-2.0 / np.sqrt(2.0) - 0.5 * np.log(2.0) - 0.25 * 2.0 + np.log(3.0))
    newer = np.exp(2.0 / np.sqrt(2.0))
    expected = 10.0 + (-2.0 * older + 2.0 * newer) / (older + newer)
    assert ExportedRescorer.export(rescorer, vectors).scores(example)[0, 0] == pytest.approx(expected, abs=1e-3)


def test_hidden_and_older_events_change_nothing() -> None:
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((50, 16)).astype(np.float32)
    exported = ExportedRescorer.export(random_rescorer(16, RescoreSettings(events=3)), vectors)
    batch = random_examples(rng, 6)
    batch.weights[:, -2] = 0.0
    other = replace(batch, rows=batch.rows.copy(), ages=batch.ages.copy())
    other.rows[:, [0, 1, 2, 4]] = rng.integers(0, 50, (3, 4))  # the first three are older than the newest three
    other.ages[:, [0, 1, 2, 4]] = 7.0
    np.testing.assert_allclose(exported.scores(other), exported.scores(batch), atol=1e-5)


def test_an_untrained_re_scorer_changes_no_list(bundle: Bundle, search: CandidateSearch, eval_data: EvalData) -> None:
    """Through the engine's own pipeline, the first candidates are the list."""
    exported = ExportedRescorer.export(Rescorer(16, SMALL).eval(), bundle.vectors)
    release = ReleaseRecommender(search.live, eval_data)
    for windows, targets in queries.last_event_queries(eval_data).batches():
        windows.items[0] = NO_ITEM  # a cold user
        top = search.search(windows)
        lists = top.ranked(exported.scores(top), LIST_LENGTH)
        times_ms = eval_data.interactions.times_ms[targets]
        np.testing.assert_array_equal(lists, release.lists(windows, times_ms, LIST_LENGTH))


def test_no_held_out_event_is_an_example(
    data: RescorerData, search: CandidateSearch, interactions: Interactions
) -> None:
    """Of n events of a user the last is held out and the first has none before it: at most n - 2 are targets."""
    users = len(interactions.user_ids)
    assert len(data.validation) <= users
    assert len(data.training) + len(data.validation) <= len(interactions) - 2 * users
    assert (data.training.target_columns >= 0).all()
    numbers, triples = search.live.numbers, training_triples(interactions)
    for part in (data.training, data.validation):
        hits = np.flatnonzero((part.target_columns >= 0) & (part.weights[:, -2] > 0.0))
        last_items = numbers[part.rows[hits, -2:]]
        target_items = numbers[part.candidates[hits, part.target_columns[hits]]]
        assert len(hits)
        assert set(map(tuple, np.column_stack([last_items, target_items]).tolist())) <= triples


def training_triples(interactions: Interactions) -> set[tuple[int, ...]]:
    """Every three items in a row of any user, without the users' last events."""
    order = interactions.by_user()
    triples = set[tuple[int, ...]]()
    for user in range(len(interactions.user_ids)):
        items = interactions.items[order][interactions.users[order] == user][:-1].tolist()
        triples |= set(zip(items, items[1:], items[2:], strict=False))
    return triples


def test_training_gets_better_and_is_the_same_for_a_seed(data: RescorerData, bundle: Bundle) -> None:
    settings = SMALL.model_copy(update={"minutes": 10.0, "patience": 1, "validation_interval_steps": 20})
    first, again = (rescorer_training.train(data, bundle.vectors, settings) for _ in range(2))
    assert first.rounds == again.rounds
    for weights, same_weights in zip(first.rescorer.parameters(), again.rescorer.parameters(), strict=True):
        assert torch.equal(weights, same_weights)
    assert len(first.rounds) >= 2
    assert max(progress.ndcg for progress in first.rounds) >= first.rounds[0].ndcg


def test_a_training_that_never_gets_better_changes_nothing(data: RescorerData, bundle: Bundle) -> None:
    misses = replace(data.validation, target_columns=np.full(len(data.validation), -1))
    trained = rescorer_training.train(replace(data, validation=misses), bundle.vectors, SMALL)
    assert len(trained.rounds) == 1 + SMALL.patience
    assert not trained.rescorer.gates.weight.any()


@pytest.mark.parametrize(
    ("low", "gain", "ratio", "pays"),
    [
        (0.001, REQUIRED_GAIN * 0.1, ALLOWED_COST, True),
        (0.001, REQUIRED_GAIN * 0.099, 1.0, False),
        (0.0, 0.05, 1.0, False),
        (0.001, 0.05, ALLOWED_COST + 0.01, False),
    ],
)
def test_when_it_pays(low: float, gain: float, ratio: float, pays: bool) -> None:
    verdict = measure.verdict(
        {
            "lead": {"ndcg10": gain, "intervals": {"ndcg10": (low, 1.0)}},
            "without": {"ndcg10": 0.1},
            "cost": {"16": {"ratio": 1.0}, "256": {"ratio": ratio}},
        }
    )
    assert verdict["pays"] is pays
    assert verdict["sentence"].startswith("It pays: " if pays else "It does not pay: ")


def test_the_verb_reports_gain_and_cost(tiny_release: Path, tiny_interactions: Path, tmp_path: Path) -> None:
    options = [
        "--candidates",
        "40",
        "--events",
        "5",
        "--minutes",
        "0.05",
        "--validation-interval-steps",
        "20",
        "--patience",
        "1",
    ]
    arguments = [str(tiny_release), "--data", str(tiny_interactions), "--out", str(tmp_path / "out"), *options]
    result = CliRunner().invoke(rescore, arguments, catch_exceptions=False)
    assert "with leads by" in result.output
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["verdict"]["sentence"] in result.output
    lead = report["with"]["ndcg10"] - report["without"]["ndcg10"]
    assert report["lead"]["ndcg10"] == pytest.approx(lead)
    assert set(report["cost"]) == {"16", "256"}
    vectors = bundles.read(tiny_release).vectors
    items_onnx = (tmp_path / "out" / "rescorer_items.onnx").read_bytes()
    rescorer_onnx = (tmp_path / "out" / "rescorer.onnx").read_bytes()
    written = ExportedRescorer(items_onnx, rescorer_onnx, vectors)
    assert {table.shape for table in written.tables.values()} == {vectors.shape}


def measured(bundle: Bundle, interactions: Interactions, settings: RescoreSettings = SMALL) -> Any:
    return measure.measure(bundle, interactions, Settings(), settings, lambda _stage: None)


def test_a_release_without_examples_or_queries_is_refused(
    bundle: Bundle, interactions: Interactions, tmp_path: Path
) -> None:
    everything = msgspec.structs.replace(bundle.manifest, holdout=Holdout())
    with pytest.raises(UnfitReleaseError, match="trained on all events"):
        measured(replace(bundle, manifest=everything), interactions)
    fewer = interactions.select(np.arange(len(interactions)) > 0)
    with pytest.raises(UnfitReleaseError, match="trained on other data"):
        measured(bundle, fewer)
    (tmp_path / "report.json").write_text(json.dumps({"privacy": {}}))
    with pytest.raises(UnfitReleaseError, match="trained privately"):
        measured(replace(bundle, folder=tmp_path), interactions)


def test_heads_must_divide_the_dimensions(bundle: Bundle, interactions: Interactions) -> None:
    with pytest.raises(SettingsError, match="heads: found 3, expected a divisor of the 16 dimensions"):
        measured(bundle, interactions, SMALL.model_copy(update={"heads": 3}))
