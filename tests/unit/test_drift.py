"""Counters of drift, on a release and on hand-made lists."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from engine.arrays import NO_ITEM
from engine.catalogue.ids import Catalogue
from engine.metrics import Metrics
from engine.quality.drift import AGES, DriftCounts, ItemAges, effective_interests
from engine.ranking import lists
from engine.ranking.lists import Lists
from engine.releases import bundles, serving
from engine.releases.bundles import Provenance
from engine.releases.serving import LiveRelease
from engine.settings.sections import IndexSettings

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
TRAINED_MS = 1_700_000_000_000


@pytest.fixture
def live(tiny_release: Path) -> LiveRelease:
    """A release that was trained until a certain time."""
    release = serving.warm(bundles.read(tiny_release), Catalogue(), IndexSettings(kind="exact"), 1)
    manifest = msgspec.structs.replace(release.manifest, provenance=Provenance(until_ms=TRAINED_MS))
    return replace(release, manifest=manifest)


def values(metrics: Metrics, name: str) -> Mapping[str, float]:
    """Values of a counter by age, or by release where it has no age."""
    samples = next(iter(getattr(metrics, name).collect())).samples
    totals = [sample for sample in samples if sample.name.endswith("_total")]
    return {sample.labels.get("age", sample.labels["release"]): sample.value for sample in totals}


def test_clicks_are_counted_by_age_and_those_on_unknown_items_apart(live: LiveRelease) -> None:
    metrics = Metrics()
    drift = DriftCounts(metrics)
    drift.add_release(live)
    known, new = int(live.numbers[0]), int(live.numbers.max()) + 1
    #                              known: two days after the training     new: now, half an hour and nine days later
    times_ms = TRAINED_MS + 2 * DAY_MS + np.array([0, 0, HOUR_MS // 2, 9 * DAY_MS])
    drift.add_clicks(live, np.array([known, new, new, new], np.int32), times_ms)
    assert values(metrics, "item_clicks") == {"hour": 2.0, "week": 1.0, "month": 1.0}
    assert values(metrics, "unknown_item_clicks") == {live.name: 3.0}
    drift.add_clicks(live, np.empty(0, np.int32), np.empty(0, np.int64))
    assert sum(values(metrics, "item_clicks").values()) == 4.0


def test_an_item_is_as_old_as_its_first_click_and_forgotten_with_its_number() -> None:
    ages = ItemAges()
    ages.know(np.array([3, 5], np.int32), 50)
    ages.know(np.array([3, 0, 5], np.int32), np.array([80, 90, 20]))
    assert ages.ages_ms(np.array([3, 0, 5], np.int32), np.array([100, 100, 100])).tolist() == [50, 10, 80]
    ages.forget(np.array([5, 77], np.int32))
    ages.know(np.array([5], np.int32), 95)
    assert ages.ages_ms(np.array([5], np.int32), np.array([100])).tolist() == [5]


@pytest.mark.parametrize(
    ("age_ms", "age"),
    [
        (0, "hour"),
        (HOUR_MS - 1, "hour"),
        (HOUR_MS, "day"),
        (DAY_MS, "week"),
        (7 * DAY_MS, "month"),
        (30 * DAY_MS, "older"),
    ],
)
def test_ages_have_a_lowest_value_each(live: LiveRelease, age_ms: int, age: str) -> None:
    metrics = Metrics()
    drift = DriftCounts(metrics)
    drift.add_release(live)
    drift.add_clicks(live, live.numbers[:1], np.array([TRAINED_MS + age_ms]))
    assert values(metrics, "item_clicks") == {age: 1.0}
    assert age in AGES


def made(interests: list[list[int]], norms: list[float]) -> Lists:
    ranking = lists.no_ranking(len(interests), len(interests[0]))
    ranking.interests[:], ranking.interest_norms[:] = interests, norms
    ranking.items[:] = np.where(ranking.interests >= 0, 1, NO_ITEM)
    return lists.assemble(ranking, ranking.items, lists.no_reasons(len(interests), 2, 1), {})


def test_lists_of_users_without_interests_do_not_count(live: LiveRelease) -> None:
    metrics = Metrics()
    drift = DriftCounts(metrics)
    drift.add_lists(live, made([[0, 1, 0, 1], [1, 1, 1, 1], [-1, -1, -1, -1]], [2.0, 4.0, 0.0]))
    assert values(metrics, "interest_lists") == {live.name: 2.0}
    assert values(metrics, "interest_norms") == {live.name: 6.0}
    assert values(metrics, "listed_interests") == {live.name: pytest.approx(3.0)}  # two of one list, one of the other
    drift.add_lists(live, made([[-1, -1]], [0.0]))
    assert values(metrics, "interest_lists") == {live.name: 2.0}


def test_the_effective_number_is_between_one_and_all() -> None:
    shares = np.array([0.75, 0.25])
    expected = [1.0, 3.0, np.exp(-(shares * np.log(shares)).sum()), 0.0]
    interests = np.array([[2, 2, 2, -1], [0, 1, 2, -1], [0, 0, 0, 1], [-1, -1, -1, -1]], np.int32)
    assert effective_interests(interests) == pytest.approx(expected)
