"""Re-scoring by target attention: torch and onnxruntime agree, it learns from nothing held out, and it has to pay."""

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
from models.evaluation.queries import LISTED, EvalData
from models.evaluation.release_under_test import Engine
from models.lab.rescoring import examples as teaching
from models.lab.rescoring import measure, rescorer_training
from models.lab.rescoring.examples import RescoringExamples, RescoringQueries
from models.lab.rescoring.exported import TOLERANCE, Exported, largest_difference, refuse_difference
from models.lab.rescoring.rescorer import Rescorer
from models.lab.rescoring.top_candidates import CandidateSearch
from models.settings import ALLOWED_COST, REQUIRED_GAIN, RescoreSettings

PLAN = RescoreSettings(candidates=40, events=5, negatives=20, validation_interval_steps=50, patience=2, minutes=0.2)


@pytest.fixture(scope="module")
def interactions(tiny_interactions: Path) -> Interactions:
    return dataset.read(tiny_interactions)


@pytest.fixture(scope="module")
def bundle(tiny_release: Path) -> Bundle:
    return bundles.read(tiny_release)


@pytest.fixture(scope="module")
def recording(interactions: Interactions) -> EvalData:
    deep = RecommendationSettings(candidates_per_interest=200)  # so that no list hangs on how deep the search goes
    return EvalData(interactions, Settings(recommendations=deep))


@pytest.fixture(scope="module")
def shortlisting(bundle: Bundle, recording: EvalData) -> CandidateSearch:
    warm = serving.warm(bundle, recording.catalogue, recording.settings.index, 1)
    return CandidateSearch(warm, recording, PLAN.candidates)


@pytest.fixture(scope="module")
def examples(bundle: Bundle, shortlisting: CandidateSearch, interactions: Interactions) -> RescoringExamples:
    return teaching.prepare(bundle, shortlisting, interactions, PLAN)


def outspoken(dimensions: int, settings: RescoreSettings) -> Rescorer:
    """A re-scorer whose votes count, though it was not trained."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        rescorer = Rescorer(dimensions, settings).eval()
        torch.nn.init.normal_(rescorer.gates.weight)
        torch.nn.init.normal_(rescorer.gates.bias)
    return rescorer


def asked(rng: np.random.Generator, length: int) -> RescoringQueries:
    """Three windows of 50 items, seven candidates each, the last of the first user missing."""
    scores = rng.random((3, 7), np.float32)
    scores[0, -1] = -np.inf
    return RescoringQueries(
        rows=rng.integers(0, 50, (3, length), dtype=np.int32),
        ages=rng.random((3, length), np.float32),
        weights=rng.choice(np.array([0.5, 1.0, 3.0], np.float32), (3, length)),
        candidates=rng.integers(0, 50, (3, 7), dtype=np.int32),
        scores=scores,
        places=np.zeros(3, np.int64),
    )


@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("length", [1, 4, 9])
def test_torch_and_onnxruntime_agree(heads: int, length: int) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((50, 16)).astype(np.float32)
    rescorer = outspoken(16, RescoreSettings(heads=heads, events=4))
    questions_ = asked(rng, length)
    exported = Exported.of(rescorer, vectors)
    refuse_difference(largest_difference(rescorer, exported, vectors, questions_))
    rescored, there = exported.run(**inputs(questions_)), np.isfinite(questions_.scores)
    assert (rescored[~there] == -np.inf).all()  # what is no candidate does not become one
    assert np.abs(rescored[there] - questions_.scores[there]).max() > 0.1


@pytest.mark.parametrize("difference", [2 * TOLERANCE, float("nan")])
def test_graphs_that_differ_from_torch_are_refused(difference: float) -> None:
    with pytest.raises(UnfitReleaseError, match="torch and onnxruntime differ"):
        refuse_difference(difference)


def inputs(asked_: RescoringQueries) -> dict[str, Any]:
    return {
        "items": asked_.rows,
        "ages": asked_.ages,
        "weights": asked_.weights,
        "candidates": asked_.candidates,
        "scores": asked_.scores,
    }


def test_the_votes_of_two_events_by_hand() -> None:
    """One head, and all maps the identity: an event votes z(c) · z(x_j), which is 2 or -2 here."""
    rescorer = Rescorer(2, RescoreSettings(heads=1, events=20)).eval()
    with torch.no_grad():
        for layer in (rescorer.queries, rescorer.keys, rescorer.values, rescorer.gates):
            layer.weight.copy_(torch.eye(2))
        rescorer.rank_slope.fill_(0.5)
        rescorer.age_slope.fill_(0.25)
    vectors = np.array([[3.0, 1.0], [1.0, 3.0]], np.float32)  # normalised: [1, -1] and [-1, 1]
    one = RescoringQueries(
        rows=np.array([[1, 0]], np.int32),
        ages=np.array([[2.0, 0.0]], np.float32),
        weights=np.array([[3.0, 1.0]], np.float32),
        candidates=np.array([[0]], np.int32),
        scores=np.array([[10.0]], np.float32),
        places=np.zeros(1, np.int64),
    )
    older = np.exp(-2.0 / np.sqrt(2.0) - 0.5 * np.log(2.0) - 0.25 * 2.0 + np.log(3.0))
    newer = np.exp(2.0 / np.sqrt(2.0))
    expected = 10.0 + (-2.0 * older + 2.0 * newer) / (older + newer)
    assert Exported.of(rescorer, vectors).run(**inputs(one))[0, 0] == pytest.approx(expected, abs=1e-3)


def test_hidden_and_older_events_have_no_vote() -> None:
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((50, 16)).astype(np.float32)
    exported = Exported.of(outspoken(16, RescoreSettings(events=3)), vectors)
    window = asked(rng, 6)
    window.weights[:, -2] = 0.0
    other = replace(window, rows=window.rows.copy(), ages=window.ages.copy())
    other.rows[:, [0, 1, 2, 4]] = rng.integers(0, 50, (3, 4))  # the first three are older than the newest three
    other.ages[:, [0, 1, 2, 4]] = 7.0
    np.testing.assert_allclose(exported.run(**inputs(other)), exported.run(**inputs(window)), atol=1e-5)


def test_an_untrained_re_scorer_changes_no_list(
    bundle: Bundle, shortlisting: CandidateSearch, recording: EvalData
) -> None:
    """Through the engine's own path, the first places of a shortlist are the list."""
    exported = Exported.of(Rescorer(16, PLAN).eval(), bundle.vectors)
    engine = Engine(shortlisting.live, recording)
    for windows, targets in queries.last_event(recording).ask():
        windows.items[0] = NO_ITEM  # a user about whom nothing is known
        best = shortlisting.of(windows)
        lists = best.ranked(exported.scores(best), LISTED)
        np.testing.assert_array_equal(lists, engine.lists(windows, recording.interactions.times_ms[targets], LISTED))


def test_nothing_held_out_is_taught(
    examples: RescoringExamples, shortlisting: CandidateSearch, interactions: Interactions
) -> None:
    """Of n events of a user the last is held out and the first has none before it: n - 2 are left to ask for."""
    users = len(interactions.user_ids)
    assert len(examples.kept_aside) <= users
    assert len(examples.training) + len(examples.kept_aside) <= len(interactions) - 2 * users
    assert (examples.training.places >= 0).all()
    numbers, walked = shortlisting.live.numbers, walks(interactions)
    for one in (examples.training, examples.kept_aside):
        hit = np.flatnonzero((one.places >= 0) & (one.weights[:, -2] > 0.0))
        before, wanted = numbers[one.rows[hit, -2:]], numbers[one.candidates[hit, one.places[hit]]]
        assert len(hit)
        assert set(map(tuple, np.column_stack([before, wanted]).tolist())) <= walked


def walks(interactions: Interactions) -> set[tuple[int, ...]]:
    """Every three items in a row of any user, without the users' last events."""
    order = interactions.by_user()
    found = set[tuple[int, ...]]()
    for user in range(len(interactions.user_ids)):
        items = interactions.items[order][interactions.users[order] == user][:-1].tolist()
        found |= set(zip(items, items[1:], items[2:], strict=False))
    return found


def test_training_gets_better_and_is_the_same_for_a_seed(examples: RescoringExamples, bundle: Bundle) -> None:
    plan = PLAN.model_copy(update={"minutes": 10.0, "patience": 1, "validation_interval_steps": 20})
    first, again = (rescorer_training.train(examples, bundle.vectors, plan) for _ in range(2))
    assert first.rounds == again.rounds
    for ours, theirs in zip(first.rescorer.parameters(), again.rescorer.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert len(first.rounds) >= 2
    assert max(one.ndcg for one in first.rounds) >= first.rounds[0].ndcg


def test_what_never_gets_better_changes_nothing(examples: RescoringExamples, bundle: Bundle) -> None:
    hopeless = replace(examples, kept_aside=replace(examples.kept_aside, places=np.full(len(examples.kept_aside), -1)))
    trained = rescorer_training.train(hopeless, bundle.vectors, PLAN)
    assert len(trained.rounds) == 1 + PLAN.patience
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


def test_the_verb_puts_gain_and_cost_side_by_side(tiny_release: Path, tiny_interactions: Path, tmp_path: Path) -> None:
    plan = ["--candidates", "40", "--events", "5", "--minutes", "0.05", "--patience", "1"]
    plan += ["--validation-interval-steps", "20"]
    arguments = [str(tiny_release), "--data", str(tiny_interactions), "--out", str(tmp_path / "out"), *plan]
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
    written = Exported(items_onnx, rescorer_onnx, vectors)
    assert {table.shape for table in written.tables.values()} == {vectors.shape}


def measured(bundle: Bundle, interactions: Interactions, plan: RescoreSettings = PLAN) -> Any:
    return measure.measure(bundle, interactions, Settings(), plan, lambda _now: None)


def test_a_release_that_cannot_be_taught_or_asked_is_refused(
    bundle: Bundle, interactions: Interactions, tmp_path: Path
) -> None:
    everything = msgspec.structs.replace(bundle.manifest, holdout=Holdout())
    with pytest.raises(UnfitReleaseError, match="trained on all there is"):
        measured(replace(bundle, manifest=everything), interactions)
    fewer = interactions.select(np.arange(len(interactions)) > 0)
    with pytest.raises(UnfitReleaseError, match="trained on other data"):
        measured(bundle, fewer)
    (tmp_path / "report.json").write_text(json.dumps({"privacy": {}}))
    with pytest.raises(UnfitReleaseError, match="trained privately"):
        measured(replace(bundle, folder=tmp_path), interactions)


def test_heads_must_divide_the_dimensions(bundle: Bundle, interactions: Interactions) -> None:
    with pytest.raises(SettingsError, match="heads: found 3, expected a divisor of the 16 dimensions"):
        measured(bundle, interactions, PLAN.model_copy(update={"heads": 3}))
