"""Evaluation goes the engine's way and comes out where a plain ranking does; what was trained on gets no figures."""

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


def asked(bundle: Bundle, data: Interactions) -> dict[str, Any]:
    return evaluate(bundle, data, SETTINGS, lambda *_: None)


def place_of_next(bundle: Bundle, history: list[str], times_ms: np.ndarray, target: str) -> int | None:
    """Place of the target by plain arithmetic: one window, every item scored, those of the window left out."""
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


def figures_of(places: list[int | None]) -> dict[str, float]:
    count = len(places)
    ten = [place for place in places if place is not None and place <= 10]
    return {
        "hr10": len(ten) / count,
        "ndcg10": sum(1 / log2(1 + place) for place in ten) / count,
        "hr20": sum(place is not None and place <= 20 for place in places) / count,
        "mrr": sum(1 / place for place in places if place is not None and place <= 20) / count,
    }


def test_leave_last_out_is_what_plain_arithmetic_says(bundle: Bundle, rings: Interactions) -> None:
    report = asked(bundle, rings)
    places = []
    for user in range(len(rings.user_ids)):
        mine = rings.users == user
        items = [rings.item_ids[item] for item in rings.items[mine]]
        places.append(place_of_next(bundle, items[:-1], rings.times_ms[mine][:-1], items[-1]))
    assert {name: report[name] for name in ranking_metrics.ACCURACY} == pytest.approx(figures_of(places))
    assert report["targets"] == report["users"] == len(rings.user_ids)
    assert 0.0 < report["coverage"] <= 1.0
    assert set(report["baselines"]) == {"popularity_7d", "last_item_neighbours"}


def test_a_trained_release_beats_popularity_on_rings(bundle: Bundle, rings: Interactions) -> None:
    report = asked(bundle, rings)
    beaten = report["baselines"]["popularity_7d"]
    assert report["ndcg10"] > 2 * beaten["ndcg10"]
    assert beaten["lead"]["ndcg10"] == pytest.approx(report["ndcg10"] - beaten["ndcg10"])
    assert beaten["lead"]["intervals"]["ndcg10"][0] > 0.0


def test_breakdowns_tell_the_same_story(bundle: Bundle, rings: Interactions) -> None:
    """All users have 39 events before their last one, and two interests fill the ten places of their 60 lists."""
    report = asked(bundle, rings)
    (history,) = report["by_history"]
    assert (history["label"], history["targets"]) == ("21-50", 60)
    assert {name: history[name] for name in ranking_metrics.ACCURACY} == {
        name: report[name] for name in ranking_metrics.ACCURACY
    }
    for rows in (report["by_history"], report["by_item_age"]):
        assert sum(row["targets"] for row in rows) == report["targets"]
        assert sum(row["hr10"] * row["targets"] for row in rows) == pytest.approx(report["hr10"] * report["targets"])
    assert sum(report["interests_in_use"]["lists"]) == 60
    assert sum(report["interests_in_use"]["places"]) == 600
    assert 1.0 <= report["interests_in_use"]["effective"] <= 2.0
    assert report["index"] == {"kind": "exact"}


def test_the_time_splits_breakdowns_follow_the_order_of_asking(bundle: Bundle, rings: Interactions) -> None:
    """Users are asked turn by turn, not event by event; the rows must still belong to their own answers."""
    from_ms = splits.split_ms(rings.histories())
    judged = replace(bundle, manifest=_with_holdout(bundle, Holdout(last_event=False, from_ms=from_ms)))
    split = asked(judged, rings)["time_split"]
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
    assert report["ndcg10"] == pytest.approx(asked(bundle, rings)["ndcg10"], abs=0.05)


def test_users_of_one_event_leave_nothing_to_ask(bundle: Bundle, rings: Interactions, tmp_path: Path) -> None:
    """Everybody came once: no window stands before a last event. In the time split they are cold, and asked."""
    from_ms = splits.split_ms(rings.histories())
    once = rings.select(splits.newest(rings))
    trained_on_it = json.dumps({"data_fingerprint": once.fingerprint()})
    (tmp_path / contract.REPORT_FILE).write_text(trained_on_it)
    manifest = _with_holdout(bundle, Holdout(last_event=True, from_ms=from_ms))
    report = asked(replace(bundle, folder=tmp_path, manifest=manifest), once)
    assert report["hr10"] is None
    assert "no user has an event before the last one" in report["reason"]
    assert [row["label"] for row in report["time_split"]["by_history"]] == ["0"]
    assert report["time_split"]["interests_in_use"]["effective"] is None


def test_the_time_split_rolls(bundle: Bundle, rings: Interactions) -> None:
    """Every held-out event is asked from all of its user's earlier ones, held-out ones among them."""
    from_ms = splits.split_ms(rings.histories())
    judged = replace(bundle, manifest=_with_holdout(bundle, Holdout(last_event=False, from_ms=from_ms)))
    report = asked(judged, rings)["time_split"]
    places: list[int | None] = []
    for event in np.flatnonzero(rings.times_ms >= from_ms).tolist():
        before = np.flatnonzero(rings.users[:event] == rings.users[event])
        items = [rings.item_ids[item] for item in rings.items[before]]
        target = rings.item_ids[rings.items[event]]
        places.append(place_of_next(bundle, items, rings.times_ms[before], target))
    assert report["targets"] == len(places) > 100
    assert {name: report[name] for name in ranking_metrics.ACCURACY} == pytest.approx(figures_of(places))


def test_only_items_with_events_to_learn_from_are_asked_for(bundle: Bundle, rings: Interactions) -> None:
    """Counted by hand: the last event of each user is left out, and of the rest some items have more than others."""
    last = splits.newest(rings)
    learned = np.bincount(rings.items[~last], minlength=len(rings.item_ids))
    least = int(np.median(learned)) + 1
    wanted = learned[rings.items[last]] >= least
    assert 5 < wanted.sum() < 55
    report = evaluate(bundle, rings, SETTINGS, lambda *_: None, min_item_events=least)
    assert (report["targets"], report["min_item_events"]) == (wanted.sum(), least)
    places = [
        place_of_next(
            bundle,
            [rings.item_ids[item] for item in rings.items[rings.users == user]][:-1],
            rings.times_ms[rings.users == user][:-1],
            rings.item_ids[rings.items[rings.users == user][-1]],
        )
        for user in rings.users[last][wanted].tolist()
    ]
    assert {name: report[name] for name in ranking_metrics.ACCURACY} == pytest.approx(figures_of(places))
    nothing = evaluate(bundle, rings, SETTINGS, lambda *_: None, min_item_events=10_000)
    assert "items with 10000 events to learn from" in nothing["reason"]


def _with_holdout(bundle: Bundle, holdout: Holdout) -> bundles.Manifest:
    manifest = bundle.manifest
    return bundles.Manifest(
        **{name: getattr(manifest, name) for name in manifest.__struct_fields__} | {"holdout": holdout}
    )


def test_what_was_trained_on_gets_a_reason_and_no_figures(bundle: Bundle, rings: Interactions) -> None:
    split = asked(bundle, rings)["time_split"]
    assert split["ndcg10"] is None
    assert "train with --holdout time or both" in split["reason"]
    everything = replace(bundle, manifest=_with_holdout(bundle, Holdout()))
    report = asked(everything, rings)
    assert report["hr10"] is None
    assert "train with --holdout last or both" in report["reason"]


def test_other_data_gets_no_leave_last_out(bundle: Bundle, rings: Interactions) -> None:
    shorter = rings.select(np.arange(len(rings)) < len(rings) - 1)
    report = asked(bundle, shorter)
    assert report["ndcg10"] is None
    assert "other data" in report["reason"]


def test_unknown_targets_are_misses_and_counted(bundle: Bundle, rings: Interactions) -> None:
    """The last tenth of time is all about one item that no release has seen."""
    from_ms = splits.split_ms(rings.histories())
    late = rings.times_ms >= from_ms
    items = np.where(late, np.int32(len(rings.item_ids)), rings.items)
    data = replace(rings, items=items, item_ids=[*rings.item_ids, "brand new"])
    judged = replace(bundle, manifest=_with_holdout(bundle, Holdout(from_ms=from_ms)))
    split = asked(judged, data)["time_split"]
    assert split["unknown_targets"] == split["targets"] == int(late.sum())
    assert split["hr20"] == 0.0
