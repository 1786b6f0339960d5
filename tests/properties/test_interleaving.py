"""Team draft: what every draft keeps, and how many users it takes beside two groups of users for one decision."""

import os
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from engine.arrays import NO_ITEM, Bool, Float32, Int8, Int32, Int64
from engine.quality import experiment
from engine.quality.experiment import ARMS, CANARY, CLUSTERS, CONTROL, ArmSums
from engine.quality.next_click import PLACES, target_ranks
from engine.ranking import interleave, lists
from engine.ranking.interleave import NO_TEAM
from engine.settings.sections import CanarySettings
from producers.simulation.shoppers import Simulation, SimulationSettings
from tests.conftest import Report

COUNT = 6
LONG = os.environ.get("LONG_TESTS") == "1"


def ranked(items: list[int]) -> list[int]:
    """A list of distinct items, with empty places after the last."""
    distinct = list(dict.fromkeys(items))[:COUNT]
    return distinct + [NO_ITEM] * (COUNT - len(distinct))


item_lists = st.lists(st.integers(0, 9), max_size=12).map(ranked)
flips = arrays.arrays(np.bool_, (1, COUNT // 2))


@given(item_lists, item_lists, flips)
def test_a_draft_is_fair_and_takes_no_item_twice(first: list[int], second: list[int], coins: Bool) -> None:
    both = np.array([first], np.int32), np.array([second], np.int32)
    draft = interleave.team_draft(*both, coins)
    teams, columns = draft.teams[0], draft.columns[0]
    items = [both[team][0, column] for team, column in zip(teams, columns, strict=True) if team != NO_TEAM]
    assert len({*items}) == len(items) == min(COUNT, len({*first, *second} - {NO_ITEM}))
    assert NO_ITEM not in items
    assert (teams[: len(items)] != NO_TEAM).all()
    for team in (0, 1):  # each team's items come in its own order
        assert (np.diff(columns[teams == team]) > 0).all()
    if len({*first, *second}) == 2 * COUNT:  # nothing in common, no list runs out
        for end in range(0, COUNT + 1, 2):
            assert (teams[:end] == 0).sum() == end // 2
    if first == second:
        assert items == [item for item in first if item != NO_ITEM]


@given(item_lists, item_lists)
def test_the_two_releases_may_change_places(first: list[int], second: list[int]) -> None:
    """With the coins turned over, too, the list is the same and the teams are the others."""
    both = np.array([first], np.int32), np.array([second], np.int32)
    coins = interleave.coins(np.array([7], np.uint64), COUNT // 2)
    one, other = interleave.team_draft(*both, coins), interleave.team_draft(*both[::-1], ~coins)
    np.testing.assert_array_equal(one.columns[one.teams >= 0], other.columns[other.teams >= 0])
    np.testing.assert_array_equal(one.teams, np.where(other.teams >= 0, 1 - other.teams, NO_TEAM))


def test_coins_are_fair_and_follow_from_the_seed() -> None:
    coins = interleave.coins(np.arange(20_000, dtype=np.uint64), 10)
    np.testing.assert_array_equal(coins, interleave.coins(np.arange(20_000, dtype=np.uint64), 10))
    assert np.abs(coins.mean(axis=0) - 0.5).max() < 0.02
    assert np.abs(np.corrcoef(coins.T) - np.eye(10)).max() < 0.03


def test_a_drafted_list_has_the_fields_of_its_places() -> None:
    def made(items: list[int], interests: int) -> lists.Lists:
        ranking = lists.no_ranking(1, 3)
        ranking.items[:], ranking.scores[:], ranking.interests[:] = items, [0.3, 0.2, 0.1], 0
        reasons = lists.no_reasons(1, interests, 1)
        reasons.items[:] = items[0]
        return lists.assemble(ranking, ranking.items, reasons, {"seen": 1})

    first, second = made([1, 2, 3], 2), made([2, 4, 5], 1)
    draft = interleave.team_draft(first.items, second.items, np.array([[True, False]]))
    both = interleave.drafted(first, second, draft)
    assert both.items.tolist() == [[2, 1, 3]]  # the second begins; 2 is taken, so the first goes on with 1 and 3
    assert draft.teams.tolist() == [[1, 0, 0]]
    assert both.interests.tolist() == [[2, 0, 0]]  # the third interest is the second release's first
    assert both.reasons[:, :, 0].tolist() == [[1, 1, 2]]
    assert both.removed == {"seen": 2}
    np.testing.assert_allclose(both.scores, [[0.3, 0.3, 0.1]])


@dataclass(frozen=True)
class Judged:
    """n clicks of simulated shoppers, each judged by the lists of two releases and by the one of both together."""

    shoppers: Int64
    ranks: Int64
    """[n, 2]"""
    drafted: Int64
    """[n]"""
    teams: Int8
    """[n]"""


def noisy_list(relevance: Float32, noise: float, rng: np.random.Generator) -> Int32:
    """[1, PLACES] the best items by a release that knows the truth but for noise in its logarithm."""
    scores = np.log(relevance + 1e-9) + noise * rng.normal(size=len(relevance))
    return np.argsort(-scores)[None, :PLACES].astype(np.int32)


def simulated_clicks(clicks: int, shoppers: int, noise: tuple[float, float]) -> Judged:
    """Shoppers who click by their own interests, whatever is listed; releases see those interests through noise."""
    simulation = Simulation(SimulationSettings(items=400, shoppers=shoppers, new_items=0.0, new_shoppers=0.0))
    rng = np.random.default_rng(0)
    sent: dict[int, tuple[Int32, Int32, Int32, Int8]] = {}
    rows: list[list[int]] = []
    for number in range(clicks):
        batch = simulation.advance(1)
        shopper, item = int(batch.shoppers[0]), batch.items[:1]
        if shopper in sent:
            first, second, both, teams = sent[shopper]
            ranks = [int(target_ranks(items, item)[0]) for items in (first, second, both)]
            rows.append([shopper, *ranks, int(teams[0, ranks[2] - 1]) if ranks[2] else NO_TEAM])
        relevance = simulation.relevance(shopper)
        first, second = (noisy_list(relevance, level, rng) for level in noise)
        draft = interleave.team_draft(first, second, interleave.coins(np.array([number], np.uint64), PLACES // 2))
        both = np.where(draft.teams == 0, np.take(first[0], draft.columns), np.take(second[0], draft.columns))
        sent[shopper] = first, second, both.astype(np.int32), draft.teams
    table = np.array(rows)
    return Judged(table[:, 0], table[:, 1:3], table[:, 3], table[:, 4].astype(np.int8))


SETTINGS = CanarySettings(share=0.5, min_users=50, difference=0.05)


def users_needed(judged: Judged, rng: np.random.Generator, *, interleaved: bool, most: int) -> int:
    """Users until the better release (the second) is found, who come one after the other; `most` where it is not.

    The recorded users are drawn with replacement, each with all of their clicks.
    """
    by_shopper = [np.flatnonzero(judged.shoppers == shopper) for shopper in np.unique(judged.shoppers)]
    sums, users = ArmSums.empty(), 0
    while users < most:
        for _ in range(step := 25):
            clicks = by_shopper[rng.integers(len(by_shopper))]
            group = np.int32(rng.integers(CLUSTERS) + (CLUSTERS * rng.integers(ARMS) if not interleaved else CLUSTERS))
            groups = np.full(len(clicks), group, np.int32)
            if interleaved:
                sums.add_interleaved(groups, judged.drafted[clicks], judged.teams[clicks])
            else:
                sums.add(groups, judged.ranks[clicks, CANARY if group >= CLUSTERS else CONTROL])
        users += step
        compare = experiment.compare_interleaved if interleaved else experiment.compare
        if bool(experiment.ends(compare(sums, SETTINGS), SETTINGS)["promote"]):
            return users
    return most


LEVELS = [(2.0, 1.0), (2.0, 1.5), (2.0, 1.8)] if LONG else [(2.0, 1.0)]


@pytest.mark.parametrize("noise", LEVELS)
def test_interleaving_takes_fewer_users_for_the_same_decision(noise: tuple[float, float], report: Report) -> None:
    judged = simulated_clicks(20_000 if LONG else 1500, 2000 if LONG else 150, noise)
    gains = experiment.gains(judged.ranks).mean(axis=0)
    rng, most, tries = np.random.default_rng(1), 20_000 if LONG else 3000, 20 if LONG else 5
    needed = {
        interleaved: float(
            np.median([users_needed(judged, rng, interleaved=interleaved, most=most) for _ in range(tries)])
        )
        for interleaved in (False, True)
    }
    report(
        f"true gain {gains[0]:.3f} and {gains[1]:.3f}: users to promote the better one, split {needed[False]:.0f},"
        f" interleaved {needed[True]:.0f}",
        {"gain_live": gains[0], "gain_canary": gains[1], "split": needed[False], "interleaved": needed[True]},
    )
    assert gains[1] > gains[0]
    assert needed[True] < needed[False] <= most


def test_a_release_interleaved_with_itself_is_no_better_than_itself() -> None:
    """Hundred comparisons of clicks that hit either team by a coin, of users who differ."""
    rng, wrong = np.random.default_rng(0), 0
    for _ in range(100):
        users = np.repeat(np.arange(2000), rng.poisson(4, 2000))
        hits = rng.random(len(users)) < rng.beta(1.0, 5.0, 2000)[users]
        teams = np.where(hits, rng.integers(0, 2, len(users)), NO_TEAM).astype(np.int8)
        clusters = rng.integers(0, CLUSTERS, 2000)[users].astype(np.int32)
        order, sums, ended = rng.permutation(len(users)), ArmSums.empty(), False
        for part in np.array_split(order, 20):
            sums.add_interleaved(clusters[part], hits[part].astype(np.int64), teams[part])
            ends = experiment.ends(experiment.compare_interleaved(sums, SETTINGS), SETTINGS)
            ended |= bool(ends["promote"] | ends["take_back"])
        wrong += ended
    assert wrong <= 10 + 2 * 3
