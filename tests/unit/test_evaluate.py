"""Evaluation goes the engine's way and comes out where a plain ranking does; what was trained on gets no figures."""

from dataclasses import replace
from math import log2
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine import contract, release
from engine.encoder import Encoder
from engine.features import log_ages
from engine.release import Bundle, Holdout
from engine.settings import Settings, WindowSettings
from models import dataset, protocol
from models.dataset import Interactions
from models.evaluate import evaluate

SETTINGS = Settings(windows=WindowSettings(length=20))


@pytest.fixture(scope="module")
def rings(tiny_interactions: Path) -> Interactions:
    return dataset.read(tiny_interactions)


@pytest.fixture(scope="module")
def bundle(tiny_release: Path) -> Bundle:
    return release.read(tiny_release)


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
    }


def test_leave_last_out_is_what_plain_arithmetic_says(bundle: Bundle, rings: Interactions) -> None:
    report = asked(bundle, rings)
    places = []
    for user in range(len(rings.user_ids)):
        mine = rings.users == user
        items = [rings.item_ids[item] for item in rings.items[mine]]
        places.append(place_of_next(bundle, items[:-1], rings.times_ms[mine][:-1], items[-1]))
    assert {name: report[name] for name in ("hr10", "ndcg10", "hr20")} == pytest.approx(figures_of(places))
    assert report["targets"] == report["users"] == len(rings.user_ids)
    assert 0.0 < report["coverage"] <= 1.0
    assert set(report["baselines"]) == {"popularity_7d", "last_item_neighbours"}


def test_a_trained_release_beats_popularity_on_rings(bundle: Bundle, rings: Interactions) -> None:
    report = asked(bundle, rings)
    assert report["ndcg10"] > 2 * report["baselines"]["popularity_7d"]["ndcg10"]


def test_the_time_split_rolls(bundle: Bundle, rings: Interactions) -> None:
    """Every held-out event is asked from all of its user's earlier ones, held-out ones among them."""
    from_ms = protocol.split_ms(rings.times_ms)
    judged = replace(bundle, manifest=_with_holdout(bundle, Holdout(last_event=False, from_ms=from_ms)))
    report = asked(judged, rings)["time_split"]
    places: list[int | None] = []
    for event in np.flatnonzero(rings.times_ms >= from_ms).tolist():
        before = np.flatnonzero(rings.users[:event] == rings.users[event])
        items = [rings.item_ids[item] for item in rings.items[before]]
        target = rings.item_ids[rings.items[event]]
        places.append(place_of_next(bundle, items, rings.times_ms[before], target))
    assert report["targets"] == len(places) > 100
    assert {name: report[name] for name in ("hr10", "ndcg10", "hr20")} == pytest.approx(figures_of(places))


def _with_holdout(bundle: Bundle, holdout: Holdout) -> release.Manifest:
    manifest = bundle.manifest
    return release.Manifest(
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
    from_ms = protocol.split_ms(rings.times_ms)
    late = rings.times_ms >= from_ms
    items = np.where(late, np.int32(len(rings.item_ids)), rings.items)
    data = replace(rings, items=items, item_ids=[*rings.item_ids, "brand new"])
    judged = replace(bundle, manifest=_with_holdout(bundle, Holdout(from_ms=from_ms)))
    split = asked(judged, data)["time_split"]
    assert split["unknown_targets"] == split["targets"] == int(late.sum())
    assert split["hr20"] == 0.0
