"""Neighbours of a window count up to twice, by the share of its newest clicks that came after training."""

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from engine.arrays import NO_ITEM, Windows
from engine.catalogue.ids import Catalogue
from engine.contract import NeighbourSizes
from engine.pipeline import Recommender
from engine.ranking.popularity import Popularity
from engine.releases import bundles, serving
from engine.releases.bundles import NeighbourArrays, Provenance
from engine.releases.serving import LiveRelease
from engine.settings.sections import IndexSettings, RecommendationSettings
from producers.demo.bundled import DEMO_RELEASE

LENGTH, LAST_ITEMS, STEP_MS, START_MS = 20, 4, 60_000, 1_700_000_000_000
SIZES = NeighbourSizes(count=1, last_items=LAST_ITEMS, decay=0.5, weight=2.0, floor=0.01)
CLICKED, NEAR = 7, 900
WEIGHT = 0.25
VIEW, DISLIKE = 1, 2
WEIGHTS = np.zeros(256, np.float32)
WEIGHTS[[VIEW, DISLIKE]] = 1.0, -1.0


def release_trained_until(until_ms: int) -> LiveRelease:
    """The demo's release with a table in which one item has one neighbour."""
    demo = bundles.read(DEMO_RELEASE)
    rows = np.full((demo.manifest.items, 1), NO_ITEM, np.int32)
    weights = np.zeros(rows.shape, np.float32)
    rows[CLICKED], weights[CLICKED] = NEAR, WEIGHT
    contract = replace(demo.manifest.contract, neighbours=SIZES)
    manifest = msgspec.structs.replace(demo.manifest, contract=contract, provenance=Provenance(until_ms=until_ms))
    bundle = replace(demo, manifest=manifest, neighbours=NeighbourArrays(rows, weights))
    return serving.warm(bundle, Catalogue(), IndexSettings(kind="exact"), threads=1)


def score_of_neighbour(until_ms: int, actions: list[int]) -> float:
    """In the list from a window of as many events, a minute apart, of which the last is on `CLICKED`."""
    live = release_trained_until(until_ms)
    empty = LENGTH - len(actions)
    items = live.numbers[[*range(20, 20 + len(actions) - 1), CLICKED]]
    times_ms = START_MS + STEP_MS * np.arange(len(actions))
    window = Windows(
        np.array([[NO_ITEM] * empty + items.tolist()], np.int32),
        np.array([[0] * empty + times_ms.tolist()]),
        np.array([[0] * empty + actions], np.uint8),
    )
    settings = RecommendationSettings(count=200, push_away=0.0)
    lists = Recommender(settings, WEIGHTS, Popularity()).recommend(window, live)
    (place,) = np.flatnonzero(lists.items[0] == live.numbers[NEAR])
    return float(lists.scores[0, place])


@pytest.mark.parametrize(
    ("actions", "later", "share"),
    [
        ([VIEW] * 6, 1, 1 / 4),  # of the last four
        ([VIEW] * 6, 3, 3 / 4),
        ([VIEW] * 6, 6, 1.0),
        ([VIEW] * 2, 1, 1 / 2),
        ([VIEW, VIEW, DISLIKE, VIEW], 2, 1 / 3),  # a dislike is no click
    ],
)
def test_the_part_of_neighbours_grows_by_the_share_of_later_clicks(
    actions: list[int], later: int, share: float
) -> None:
    newest_ms = START_MS + STEP_MS * (len(actions) - 1)
    known = score_of_neighbour(newest_ms, actions)
    part = SIZES.weight * np.log1p(WEIGHT / SIZES.floor)
    assert score_of_neighbour(newest_ms - later * STEP_MS, actions) == pytest.approx(known + share * part, abs=1e-3)
