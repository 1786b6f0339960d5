from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from engine.errors import DataError, SettingsError
from producers.simulation.shoppers import (
    ACTIONS,
    SESSION_CLICKS,
    ClickBatch,
    Simulation,
    SimulationSettings,
    shopper_id,
    shopper_number,
)
from producers.simulation.simulated_catalogue import MIN_ITEMS, TOPICS_PER_CATEGORY, make_catalogue

SMALL = SimulationSettings(seed=3, items=MIN_ITEMS, shoppers=60)


def same(left: ClickBatch, right: ClickBatch) -> bool:
    columns = ("shoppers", "items", "times_ms", "actions")
    return all(np.array_equal(getattr(left, column), getattr(right, column)) for column in columns)


def histories(batch: ClickBatch) -> list[list[int]]:
    """Items by shopper, in order of time."""
    return [batch.items[batch.shoppers == shopper].tolist() for shopper in np.unique(batch.shoppers)]


def test_the_same_seed_gives_the_same_clicks_and_another_seed_others() -> None:
    clicks = Simulation(SMALL).advance(2_000)

    assert same(clicks, Simulation(SMALL).advance(2_000))
    assert not same(clicks, Simulation(SimulationSettings(seed=4, items=MIN_ITEMS, shoppers=60)).advance(2_000))


def test_the_catalogue_does_not_depend_on_the_shoppers() -> None:
    catalogue = Simulation(SimulationSettings(seed=1, shoppers=10)).catalogue
    other = Simulation(SimulationSettings(seed=2, shoppers=70, clicks_per_s=5.0)).catalogue

    assert catalogue.ids == other.ids
    assert catalogue.ids[42] == "item-00042"
    assert np.array_equal(catalogue.successors, other.successors)
    assert np.array_equal(catalogue.appeal, other.appeal)
    assert not np.array_equal(catalogue.successors, make_catalogue(1, len(catalogue)).successors)


def test_successors_are_other_items_of_the_same_category() -> None:
    catalogue = make_catalogue(seed=0, items=1_000)
    categories = catalogue.topics // TOPICS_PER_CATEGORY

    assert (categories[catalogue.successors] == categories[:, None]).all()
    assert (catalogue.successors != np.arange(1_000)[:, None]).all()
    assert all(len(set(row)) == len(row) for row in catalogue.successors.tolist())


def test_a_few_items_are_popular_and_most_are_not() -> None:
    clicks = Simulation(SimulationSettings()).advance(50_000)
    counts = np.sort(np.bincount(clicks.items, minlength=2_000))[::-1]

    assert 0.3 < counts[:200].sum() / 50_000 < 0.7  # a tenth of the items
    assert counts[:10].sum() / 50_000 < 0.15


def test_the_last_item_predicts_the_next_click_far_better_than_popularity() -> None:
    clicks = Simulation(SimulationSettings(new_items=0.0, clicks_per_s=1_000.0)).advance(60_000)
    past, future = histories(clicks[:50_000]), histories(clicks[50_000:])
    popular = {item for item, _ in Counter(clicks.items[:50_000].tolist()).most_common(10)}
    followers: dict[int, Counter[int]] = {}
    for items in past:
        for item, following in pairwise(items):
            followers.setdefault(item, Counter())[following] += 1
    steps = [step for items in future for step in pairwise(items)]
    hits = [following in dict(followers.get(item, Counter()).most_common(10)) for item, following in steps]

    assert np.mean(hits) > 0.3
    assert np.mean([following in popular for _, following in steps]) < 0.1


def test_no_item_is_clicked_before_its_launch_and_launched_items_get_more_clicks() -> None:
    simulation = Simulation(SimulationSettings(new_items=0.3, seed=1))
    clicks = simulation.advance(100_000)
    launch_ms = simulation.launch_ms[clicks.items]

    assert (clicks.times_ms >= launch_ms).all()
    assert 0.2 < (simulation.launch_ms > simulation.settings.start_ms).mean() < 0.4
    young = (launch_ms > simulation.settings.start_ms) & (clicks.times_ms - launch_ms < 86_400_000)
    new_on_sale = (simulation.launch_ms > simulation.settings.start_ms) & (simulation.launch_ms <= clicks.times_ms[-1])
    days = (clicks.times_ms[-1] - simulation.settings.start_ms) / 86_400_000
    per_item_and_day = len(clicks) / 2_000 / days
    assert young.sum() / new_on_sale.sum() > 1.5 * per_item_and_day


def test_some_shoppers_arrive_during_the_run() -> None:
    clicks = Simulation(SimulationSettings(new_shoppers=0.5, shoppers=200)).advance(40_000)
    half = clicks.times_ms[0] + (clicks.times_ms[-1] - clicks.times_ms[0]) // 2
    early = set(clicks.shoppers[clicks.times_ms < half].tolist())

    assert set(range(100)) <= early
    assert len(set(clicks.shoppers.tolist()) - early) > 20


def test_topics_change_only_with_drift() -> None:
    def changed(drift: float) -> int:
        simulation = Simulation(SimulationSettings(shoppers=50, drift=drift, new_shoppers=0.0))
        before = [simulation.interests(shopper)[0].copy() for shopper in range(50)]
        simulation.advance(10_000)
        return sum(not np.array_equal(before[shopper], simulation.interests(shopper)[0]) for shopper in range(50))

    assert changed(0.0) == 0
    assert changed(0.1) > 25  # about 25 sessions each


def test_sessions_are_bursts_of_clicks_hours_apart() -> None:
    clicks = Simulation(SMALL).advance(10_000)
    gaps_s = (
        np.concatenate([np.diff(clicks.times_ms[clicks.shoppers == shopper]) for shopper in np.unique(clicks.shoppers)])
        / 1000
    )
    breaks = gaps_s > 1_800

    assert breaks.mean() == pytest.approx(1 / SESSION_CLICKS, rel=0.1)
    assert np.median(gaps_s[~breaks]) == pytest.approx(30, rel=0.1)
    assert 4 < np.median(gaps_s[breaks]) / 3_600 < 12


@pytest.mark.parametrize("shoppers", [100, 1_000])
def test_the_rate_holds_from_the_first_second_on(shoppers: int) -> None:
    settings = SimulationSettings(shoppers=shoppers, clicks_per_s=200.0, new_shoppers=0.0)
    simulation = Simulation(settings)

    for second in (10, 20, 30):
        clicks = simulation.advance_to(settings.start_ms + second * 1_000)
        assert len(clicks) / 10 == pytest.approx(200, rel=0.2)


def test_most_actions_are_views_and_dislikes_are_rare() -> None:
    shares = np.bincount(Simulation(SMALL).advance(10_000).actions, minlength=len(ACTIONS)) / 10_000

    assert shares == pytest.approx([0.85, 0.09, 0.04, 0.02], abs=0.02)


def test_clicks_have_the_distribution_of_the_relevance() -> None:
    """The ten most relevant items get the share of the clicks that their probabilities add up to."""
    simulation = Simulation(SimulationSettings(seed=5, items=MIN_ITEMS, shoppers=1, clicks_per_s=1.0, new_items=0.2))
    expected, hits = [], []
    for _ in range(3_000):
        relevance = simulation.relevance(0)
        best = np.argsort(-relevance)[:10]
        expected.append(float(relevance[best].sum()))
        hits.append(simulation.advance(1).items[0] in best)

    assert np.mean(hits) == pytest.approx(np.mean(expected), abs=3 * np.sqrt(0.25 / 3_000))
    assert np.mean(expected) > 0.4


def test_shopper_ids_decode() -> None:
    assert shopper_id(17) == "shopper-00017"
    assert shopper_number(shopper_id(123_456)) == 123_456
    for user in ("17", "shopper-17", "shopper-", "shopper-0001x"):
        with pytest.raises(DataError, match="shopper-00042"):
            shopper_number(user)


def test_the_relevance_for_an_unknown_shopper_is_refused() -> None:
    with pytest.raises(DataError, match="shoppers 0 to 59"):
        Simulation(SMALL).relevance(60)


@pytest.mark.parametrize(
    ("name", "value"),
    [("shoppers", 0), ("new_items", 1.0), ("new_shoppers", -0.1), ("drift", 2.0), ("clicks_per_s", 0.0), ("seed", -1)],
)
def test_settings_out_of_range_are_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(SettingsError, match=name):
        SimulationSettings(**{name: value})  # type: ignore[arg-type]


def test_a_catalogue_too_small_for_its_categories_is_refused() -> None:
    with pytest.raises(SettingsError, match="items: found 10"):
        make_catalogue(seed=0, items=10)
