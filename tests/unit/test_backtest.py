"""Recorded clicks played as a stream: who is judged by what, and rivals that learn click by click."""

import csv
import json
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

pytest.importorskip("matplotlib", reason="backtests draw with matplotlib: pip install 'headrace[report]'")
pytest.importorskip("torch", reason="training needs torch: pip install 'headrace[train]'")

import torch

from engine.errors import DataError, SettingsError
from engine.messages.recommendation import Recommendation, decode_recommendation
from engine.settings.sections import RetrainSettings, Settings
from models import evaluation
from models.cli import tables
from models.cli.backtest import backtest as command
from models.data import dataset
from models.data.dataset import Interactions
from models.evaluation.ranking_metrics import NOT_LISTED
from models.jobs.retraining import Reports, RetrainOutcome
from models.jobs.training_job import Callbacks
from models.lab.backtest import backtest_plot, backtest_report
from models.lab.backtest.backtest import BacktestInput, Played, _Stream, backtest, batches, together
from models.lab.backtest.stream_rivals import (
    CONFIGURATIONS,
    RIVALS,
    StreamItemKnn,
    StreamPopularity,
    StreamRivals,
    StreamSessionKnn,
    rank_unseen,
    top_unseen,
)
from models.settings import EncoderSettings, TrainSettings
from tests.conftest import only_long

SIZES = EncoderSettings(dimensions=16, interests=2, heads=2, hidden=32, window_length=10)
TRAINING = TrainSettings(
    encoder=SIZES, holdout="time", epochs=4, batch_sequences=16, learning_rate=1e-2, neighbours=False
)
DAY_MS = 86_400_000
QUIET = Reports(Callbacks(lambda _message: None, lambda _progress: None), lambda *_progress: None)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def clicks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Users who walk along one of two rings of items, a click every five minutes."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("clicks")
    rows = []
    for user in range(30):
        places = (rng.integers(15) + np.cumsum(rng.integers(1, 3, 24))) % 15 + 15 * (user % 2)
        rows += [(f"u{user}", f"i{place}", 300 * turn + user) for turn, place in enumerate(places.tolist())]
    with (folder / "interactions.csv").open("w") as file:
        csv.writer(file).writerows([("user", "item", "ts"), *sorted(rows, key=lambda row: row[2])])
    return folder


def inputs(clicks: Path, folder: Path, parts: int = 3) -> BacktestInput:
    settings = Settings(retrain=RetrainSettings(max_slowdown=100.0))
    settings = settings.model_copy(update={"windows": settings.windows.model_copy(update={"length": 10})})
    return BacktestInput(dataset.read(clicks), {}, settings, TRAINING, folder, parts)


@dataclass(frozen=True)
class Replay:
    """A stream of three parts that was played, and the lists that were pushed, by user."""

    data: Interactions
    played: Played
    lists: dict[str, list[Recommendation]]
    outcome: RetrainOutcome
    """Of the retraining after the second part, which serves in spite of the gate."""


@pytest.fixture(scope="module")
def replay(clicks: Path, tmp_path_factory: pytest.TempPathFactory) -> Replay:
    """Once for all tests, as it trains twice."""
    torch.set_num_threads(1)
    given = inputs(clicks, tmp_path_factory.mktemp("replay"))
    cut = len(given.interactions) // 3
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        patch.delattr(evaluation, "report", raising=False)  # as without the extra `report`, for the gate's page
        patch.setitem(sys.modules, "models.evaluation.report", None)
        stream = _Stream(given, QUIET, stack)
        stream.play_first(np.arange(cut))
        stream.play(np.arange(cut, 2 * cut), "part", lambda *_progress: None)
        outcome = stream.retrain(force=True)
        stream.play(np.arange(2 * cut, 3 * cut), "part", lambda *_progress: None)
        with stream._retrained.log.reader([stream._settings.recommendations.topic]) as reader:
            values = [value for records in reader.poll(0.0, 1_000_000) for value in records.values]
    by_user: dict[str, list[Recommendation]] = {}
    for message in (decode_recommendation(value) for value in values if value is not None):
        by_user.setdefault(message.user, []).append(message)
    return Replay(given.interactions, stream.played, by_user, outcome)


def test_a_click_is_judged_by_the_last_list_pushed_before_it_alone(replay: Replay) -> None:
    data, cut = replay.data, len(replay.data) // 3
    judged = together([part.judged for part in replay.played.parts if part.judged is not None])
    assert judged.events.tolist() == list(range(cut, 3 * cut))  # every user has clicked in the first part
    releases = {message.release for messages in replay.lists.values() for message in messages}
    assert releases == {replay.played.parts[1].release, replay.outcome.release}
    for event, rank in zip(judged.events.tolist(), judged.retrained.tolist(), strict=True):
        user, item = data.user_ids[data.users[event]], data.item_ids[data.items[event]]
        pushed = [message for message in replay.lists[user] if message.event_ms < data.times_ms[event]][-1]
        earlier = np.flatnonzero(data.users[:event] == data.users[event])
        assert pushed.event_ms == data.times_ms[earlier[-1]]
        items = [place.item for place in pushed.items]
        assert rank == (items.index(item) + 1 if item in items else NOT_LISTED)
    assert (judged.retrained == judged.first_release)[:cut].all()  # one release so far
    assert (judged.retrained != judged.first_release)[cut:].any()
    assert (judged.retrained <= 10).mean() > 0.5  # two of 15 items follow each


def test_the_report_has_every_part_and_its_retraining(replay: Replay, tmp_path: Path) -> None:
    report = backtest_report.report(replay.played, replay.data)
    backtest_plot.plot(report, tmp_path / "plot.svg")
    assert (tmp_path / "plot.svg").read_text().count("<path") > len(backtest_report.PUSHED)
    assert [part["judged"] for part in report["parts"]] == [240, 240]
    assert [row["after_part"] for row in report["retrainings"]] == [1, 2]
    assert [part["release"] for part in report["parts"]] == [row["release"] for row in report["retrainings"]]
    assert [part["unknown_share"] for part in report["parts"]] == [0.0, 0.0]
    assert [part["popular_share"]["retrained"] for part in report["parts"]] == [0.0, 0.0]  # 30 items, 10 of them seen
    systems = report["systems"]
    for name in backtest_report.SYSTEMS:
        rates = [part["systems"][name]["hr10"] for part in report["parts"]]
        assert systems[name]["hr10"] == pytest.approx(np.mean(rates))
    lead = systems["popularity_7d"]["lead"]["hr10"]
    assert lead == pytest.approx(systems["retrained"]["hr10"] - systems["popularity_7d"]["hr10"])
    assert lead > 0.1
    assert tables.backtest(report).row_count == 15
    assert tables.backtest_parts(report).row_count == 2


def test_batches_have_each_user_once_and_keep_the_order() -> None:
    rng = np.random.default_rng(1)
    users, times_ms = rng.integers(0, 12, 400).astype(np.int32), np.cumsum(rng.integers(0, 120_000, 400))
    data = Interactions(users, users, times_ms, users * 0, [str(user) for user in range(12)], [], [""])
    parts = list(batches(data, np.arange(50, 400)))
    assert np.concatenate(parts).tolist() == list(range(50, 400))
    for batch in parts:
        assert len(set(users[batch].tolist())) == len(batch)
        assert times_ms[batch[-1]] - times_ms[batch[0]] <= 600_000


@only_long
def test_the_verb_plays_and_writes_its_report_and_its_plot(clicks: Path, tmp_path: Path) -> None:
    (tmp_path / "training.toml").write_text(
        "dimensions = 16\ninterests = 2\nheads = 2\nwindow_length = 10\nbatch_sequences = 16\nlearning_rate = 1e-2\n"
        "neighbours = false\n"
    )
    words = ["--data", str(clicks), "--parts", "3", "--epochs", "4", "--json", "--no-content", "--events", "600"]
    environ = {"HEADRACE_RETRAIN__TRAINING": str(tmp_path / "training.toml"), "HEADRACE_WINDOWS__LENGTH": "10"}
    plot, out = tmp_path / "plot.svg", tmp_path / "out"
    result = CliRunner().invoke(command, [*words, "--out", str(out), "--plot", str(plot)], env=environ)
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert json.loads((out / "backtest.json").read_text()) == report
    assert plot.exists()
    assert [part["judged"] for part in report["parts"]] == [200, 200]
    assert len(report["retrainings"]) == 2


def test_places_that_are_not_free_are_refused_before_anything_is_trained(clicks: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    words = ["--data", str(clicks), "--out", str(tmp_path / "full")]
    refused = CliRunner().invoke(command, words)
    assert isinstance(refused.exception, SettingsError)
    assert "expected a folder that is empty or not there; name another" in str(refused.exception)
    nowhere = CliRunner().invoke(command, ["--data", str(clicks), "--plot", str(tmp_path / "none" / "plot.svg")])
    assert nowhere.exit_code == 2
    assert "name a file in a folder that does" in " ".join(nowhere.output.split())


def test_more_parts_than_events_are_refused(clicks: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="found 720 events and 721 parts, expected 2 parts or more"):
        backtest(inputs(clicks, tmp_path, 721), QUIET, lambda *_progress: None)


def test_a_rank_counts_unseen_items_alone_with_ties_by_number() -> None:
    scores = np.array([3.0, 5.0, 3.0, 0.0, 4.0])
    assert rank_unseen(1, scores, np.array([], np.int32)) == 1
    assert rank_unseen(2, scores, np.array([], np.int32)) == 4  # after 1, 4 and its equal, 0
    assert rank_unseen(2, scores, np.array([0, 1, 3], np.int32)) == 2
    assert rank_unseen(2, scores, np.array([2], np.int32)) == NOT_LISTED
    assert rank_unseen(3, scores, np.array([], np.int32)) == NOT_LISTED


@pytest.mark.parametrize("count", [2, 20])
def test_a_pushed_list_has_the_ranks_of_its_scores(count: int) -> None:
    scores, seen = np.array([3.0, 5.0, 3.0, 0.0, 4.0, 3.0]), np.array([1], np.int32)
    items = top_unseen(scores, seen, count)
    assert items.tolist() == [4, 0, 2, 5][:count]
    assert [rank_unseen(item, scores, seen) for item in items.tolist()] == [*range(1, len(items) + 1)]


def test_a_pushed_list_does_not_know_what_came_after_it() -> None:
    rivals, nothing = StreamRivals(5), np.empty(0, np.int32)
    assert rivals.pushed_ranks(0, 1) == [NOT_LISTED] * RIVALS
    rivals.add(1, 2, 0, nothing)
    rivals.push(0, 0, nothing, nothing)
    for _ in range(3):
        rivals.add(1, 3, 1, nothing)
    assert rivals.pushed_ranks(0, 2) == [1] * RIVALS
    assert rivals.pushed_ranks(0, 3) == [NOT_LISTED] * RIVALS
    assert rivals.ranks(0, 3, 1, nothing, nothing) == [1] * RIVALS


def test_popularity_is_that_of_the_seven_days_before() -> None:
    popularity = StreamPopularity(3)
    for item, day in ((0, 0), (0, 0), (1, 6)):
        popularity.add(item, day * DAY_MS)
    assert popularity.scores(7 * DAY_MS).argsort().tolist()[::-1][:2] == [0, 1]
    after = popularity.scores(7 * DAY_MS + 1)
    assert after.argmax() == 1
    assert 0.0 < after[0] < 1.0  # earlier events decide ties alone


@pytest.mark.parametrize("dense", [True, False])
def test_item_knn_counts_users_in_common(dense: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.lab.backtest.stream_rivals._DENSE_ITEMS", 100 if dense else 0)
    rng, knn, histories = np.random.default_rng(2), StreamItemKnn(12), [list[int]() for _ in range(8)]
    for _ in range(200):
        user, item = int(rng.integers(8)), int(rng.integers(12))
        knn.add(item, np.array(histories[user], np.int32))
        if item not in histories[user]:
            histories[user].append(item)
    clicked = np.array([[item in history for item in range(12)] for history in histories], float)  # [U, V]
    common = clicked.T @ clicked
    np.fill_diagonal(common, 0.0)
    lengths = np.sqrt(np.outer(clicked.sum(axis=0), clicked.sum(axis=0)))
    liked = np.array([3, 7, 1], np.int32)
    for (decay, shrinkage), scores in zip(CONFIGURATIONS, knn.scores(liked), strict=True):
        expected = decay ** np.arange(3) @ (common / (lengths + shrinkage))[liked]
        assert scores == pytest.approx(expected, rel=1e-5)


def test_session_knn_ranks_what_came_in_like_sessions() -> None:
    knn = StreamSessionKnn(6)
    for user, items in enumerate(([0, 1, 2], [0, 1, 3], [4, 5])):
        for item in items:
            knn.add(user, item, 0)
    knn.add(9, 0, 0)
    knn.add(9, 2, 60_000)
    scores = knn.scores(9)
    assert scores.argmax() in {0, 1}
    assert scores[1] > scores[3] > 0.0  # both came with 0, and 1 with 2 as well
    assert scores[4] == scores[5] == 0.0
    knn.add(9, 4, 10**9)  # days later, a session of its own
    later = knn.scores(9)
    assert later[5] > 0.0
    assert later[1] == 0.0
    assert (knn.scores(77) == 0.0).all()


def test_a_click_by_a_user_without_a_list_is_not_judged(clicks: Path, tmp_path: Path) -> None:
    with ExitStack() as stack:
        stream = _Stream(inputs(clicks, tmp_path), QUIET, stack)
        batch = np.arange(5)
        windows = stream._windows(batch)
        judged = stream._judge(batch, windows, stream._liked(windows))
    assert len(judged.events) == 0
    assert judged.rivals.shape == (0, 2, RIVALS)
