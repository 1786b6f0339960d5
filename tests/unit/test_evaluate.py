"""Evaluation through the engine agrees with a plain full ranking; events that were trained on give no figures."""

import json
from dataclasses import replace
from math import log2
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine import contract
from engine.releases import bundles
from engine.releases.bundles import Bundle, Holdout
from engine.retrieval.encoder import Encoder
from engine.retrieval.features import log_ages
from engine.settings.sections import IndexSettings, Settings, WindowSettings
from models.data import dataset, splits
from models.data.dataset import Interactions
from models.evaluation import ranking_metrics
from models.evaluation.evaluate import evaluate

SETTINGS = Settings(windows=WindowSettings(length=20))


@pytest.fixture(scope="module")
def rings(tiny_interactions: Path) -> Interactions:
    return dataset.read(tiny_interactions)


@pytest.fixture(scope="module")
def bundle(tiny_release: Path) -> Bundle:
    return bundles.read(tiny_release)


def report_of(bundle: Bundle, data: Interactions) -> dict[str, Any]:
    return evaluate(bundle, data, SETTINGS, lambda *_: None)


def rank_of_next(bundle: Bundle, history: list[str], times_ms: np.ndarray, target: str) -> int | None:
    """Rank of the target by plain arithmetic: one window, every item scored, those of the window left out."""
    encoder = Encoder(
        (bundle.folder / contract.ENCODER_FILE).read_bytes(),
        (bundle.folder / contract.ITEMS_FILE).read_bytes(),
        bundle.manifest.contract,
    )
    rows = {item: row for row, item in enumerate(bundle.ids)}
    window = [rows[item] for item in history[-20:]]
    ages = log_ages(times_ms[-20:], times_ms[-1:])[None]
    weights = np.ones((1, len(window)), np.float32)
    tables = encoder.tables(bundle.vectors)
    interests = encoder.encode(tables, np.array([window], np.int32), ages, weights)[0][0]
    scores = (interests @ bundle.vectors.T).max(axis=0)
    scores[window] = -np.inf
    ranked = np.argsort(-scores, kind="stable").tolist()
    return 1 + ranked.index(rows[target]) if target in rows and rows[target] not in window else None


def figures_of(ranks: list[int | None]) -> dict[str, float]:
    count = len(ranks)
    top_ten = [rank for rank in ranks if rank is not None and rank <= 10]
    return {
        "hr10": len(top_ten) / count,
        "ndcg10": sum(1 / log2(1 + rank) for rank in top_ten) / count,
        "hr20": sum(rank is not None and rank <= 20 for rank in ranks) / count,
        "mrr": sum(1 / rank for rank in ranks if rank is not None and rank <= 20) / count,
    }


def test_leave_last_out_agrees_with_plain_arithmetic(bundle: Bundle, rings: Interactions) -> None:
    report = report_of(bundle, rings)
    ranks = []
    for user in range(len(rings.user_ids)):
        of_user = rings.users == user
        items = [rings.item_ids[item] for item in rings.items[of_user]]
        ranks.append(rank_of_next(bundle, items[:-1], rings.times_ms[of_user][:-1], items[-1]))
    assert {name: report[name] for name in ranking_metrics.ACCURACY_METRICS} == pytest.approx(figures_of(ranks))
    assert report["targets"] == report["users"] == len(rings.user_ids)
    assert 0.0 < report["coverage"] <= 1.0
    assert set(report["baselines"]) == {"popularity_7d", "last_item_neighbours", "item_knn"}
    assert report["skipped"] == {}


def test_a_trained_release_beats_popularity_on_rings(bundle: Bundle, rings: Interactions) -> None:
    report = report_of(bundle, rings)
    popularity = report["baselines"]["popularity_7d"]
    assert report["ndcg10"] > 2 * popularity["ndcg10"]
    assert popularity["lead"]["ndcg10"] == pytest.approx(report["ndcg10"] - popularity["ndcg10"])
    assert popularity["lead"]["intervals"]["ndcg10"][0] > 0.0


def test_breakdowns_agree_with_the_whole(bundle: Bundle, rings: Interactions) -> None:
    """All users have 39 events before their last one, and two interests fill the ten positions of their 60 lists."""
    report = report_of(bundle, rings)
    (history,) = report["by_history"]
    assert (history["label"], history["targets"]) == ("21-50", 60)
    assert {name: history[name] for name in ranking_metrics.ACCURACY_METRICS} == {
        name: report[name] for name in ranking_metrics.ACCURACY_METRICS
    }
    for rows in (report["by_history"], report["by_item_age"]):
        assert sum(row["targets"] for row in rows) == report["targets"]
        assert sum(row["hr10"] * row["targets"] for row in rows) == pytest.approx(report["hr10"] * report["targets"])
    assert sum(report["interests_in_use"]["lists"]) == 60
    assert 10 <= report["listed_items"] <= report["catalogue"]
    assert sum(report["interests_in_use"]["positions"]) == 600
    assert 1.0 <= report["interests_in_use"]["effective"] <= 2.0
    assert report["index"] == {"kind": "exact"}


def test_the_time_splits_breakdowns_follow_the_order_of_queries(bundle: Bundle, rings: Interactions) -> None:
    """Queries come by users' turns, not in order of events; each row of a breakdown must have its own targets."""
    from_ms = splits.split_ms(rings.histories())
    with_time_split = replace(bundle, manifest=_with_holdout(bundle, Holdout(last_event=False, from_ms=from_ms)))
    split = report_of(with_time_split, rings)["time_split"]
    late = np.flatnonzero(rings.times_ms >= from_ms)
    counts = [int((rings.users[:event] == rings.users[event]).sum()) for event in late.tolist()]
    assert {row["label"]: row["targets"] for row in split["by_history"]} == {
        label: number
        for label, low, high in (("11-20", 11, 20), ("21-50", 21, 50))
        if (number := sum(low <= count <= high for count in counts))
    }
    assert sum(row["hr20"] * row["targets"] for row in split["by_item_age"]) == pytest.approx(
        split["hr20"] * split["targets"]
    )


def test_the_hnsw_index_is_compared_with_an_exact_one(bundle: Bundle, rings: Interactions) -> None:
    hnsw = SETTINGS.model_copy(update={"index": IndexSettings(kind="hnsw")})
    report = evaluate(bundle, rings, hnsw, lambda *_: None)
    assert report["index"]["kind"] == "hnsw"
    assert report["index"]["searches"] == 60 * 2
    assert len(report["index"]["recall_by_rank"]) == SETTINGS.recommendations.candidates_per_interest
    assert 0.9 < report["index"]["recall"] <= 1.0
    assert report["ndcg10"] == pytest.approx(report_of(bundle, rings)["ndcg10"], abs=0.05)


def test_users_of_one_event_give_no_leave_last_out_queries(bundle: Bundle, rings: Interactions, tmp_path: Path) -> None:
    """Every user has one event: no last event has a window before it. In the time split all of them are cold users."""
    from_ms = splits.split_ms(rings.histories())
    once = rings.select(splits.newest(rings))
    training_report = json.dumps({"data_fingerprint": once.fingerprint()})
    (tmp_path / contract.REPORT_FILE).write_text(training_report)
    manifest = _with_holdout(bundle, Holdout(last_event=True, from_ms=from_ms))
    report = report_of(replace(bundle, folder=tmp_path, manifest=manifest), once)
    assert report["hr10"] is None
    assert "no user has an event before the last one" in report["reason"]
    assert [row["label"] for row in report["time_split"]["by_history"]] == ["0"]
    assert report["time_split"]["interests_in_use"]["effective"] is None


def test_the_time_split_rolls(bundle: Bundle, rings: Interactions) -> None:
    """The window of a held-out event has all of its user's earlier events, held-out ones among them."""
    from_ms = splits.split_ms(rings.histories())
    with_time_split = replace(bundle, manifest=_with_holdout(bundle, Holdout(last_event=False, from_ms=from_ms)))
    report = report_of(with_time_split, rings)["time_split"]
    ranks: list[int | None] = []
    for event in np.flatnonzero(rings.times_ms >= from_ms).tolist():
        before = np.flatnonzero(rings.users[:event] == rings.users[event])
        items = [rings.item_ids[item] for item in rings.items[before]]
        target = rings.item_ids[rings.items[event]]
        ranks.append(rank_of_next(bundle, items, rings.times_ms[before], target))
    assert report["targets"] == len(ranks) > 100
    assert {name: report[name] for name in ranking_metrics.ACCURACY_METRICS} == pytest.approx(figures_of(ranks))


def test_only_items_with_enough_training_events_are_targets(bundle: Bundle, rings: Interactions) -> None:
    """Counted by hand: training has all but the last event of each user, and more of some items than of others."""
    last = splits.newest(rings)
    training_events = np.bincount(rings.items[~last], minlength=len(rings.item_ids))
    least = int(np.median(training_events)) + 1
    target_mask = training_events[rings.items[last]] >= least
    assert 5 < target_mask.sum() < 55
    report = evaluate(bundle, rings, SETTINGS, lambda *_: None, min_item_events=least)
    assert (report["targets"], report["min_item_events"]) == (target_mask.sum(), least)
    ranks = [
        rank_of_next(
            bundle,
            [rings.item_ids[item] for item in rings.items[rings.users == user]][:-1],
            rings.times_ms[rings.users == user][:-1],
            rings.item_ids[rings.items[rings.users == user][-1]],
        )
        for user in rings.users[last][target_mask].tolist()
    ]
    assert {name: report[name] for name in ranking_metrics.ACCURACY_METRICS} == pytest.approx(figures_of(ranks))
    nothing = evaluate(bundle, rings, SETTINGS, lambda *_: None, min_item_events=10_000)
    assert "an item of at least 10000 training events" in nothing["reason"]


def _with_holdout(bundle: Bundle, holdout: Holdout) -> bundles.Manifest:
    manifest = bundle.manifest
    return bundles.Manifest(
        **{name: getattr(manifest, name) for name in manifest.__struct_fields__} | {"holdout": holdout}
    )


def test_a_split_that_was_trained_on_has_a_reason_and_no_figures(bundle: Bundle, rings: Interactions) -> None:
    split = report_of(bundle, rings)["time_split"]
    assert split["ndcg10"] is None
    assert "train with --holdout time or both" in split["reason"]
    everything = replace(bundle, manifest=_with_holdout(bundle, Holdout()))
    report = report_of(everything, rings)
    assert report["hr10"] is None
    assert "train with --holdout last or both" in report["reason"]


def test_other_data_has_no_leave_last_out(bundle: Bundle, rings: Interactions) -> None:
    shorter = rings.select(np.arange(len(rings)) < len(rings) - 1)
    report = report_of(bundle, shorter)
    assert report["ndcg10"] is None
    assert "other data" in report["reason"]


def test_unknown_targets_are_misses_and_counted(bundle: Bundle, rings: Interactions) -> None:
    """Every event in the last tenth of time has one item that no release knows."""
    from_ms = splits.split_ms(rings.histories())
    late = rings.times_ms >= from_ms
    items = np.where(late, np.int32(len(rings.item_ids)), rings.items)
    data = replace(rings, items=items, item_ids=[*rings.item_ids, "brand new"])
    with_time_split = replace(bundle, manifest=_with_holdout(bundle, Holdout(from_ms=from_ms)))
    split = report_of(with_time_split, data)["time_split"]
    assert split["unknown_targets"] == split["targets"] == int(late.sum())
    assert split["hr20"] == 0.0
