"""Splits and figures, with values that can be worked out by hand."""

from math import log2

import numpy as np
import pytest

from engine.release import Holdout
from models import protocol
from models.dataset import Interactions
from models.protocol import Tally
from models.settings import HoldoutName


def interactions(users: list[int], times_ms: list[int]) -> Interactions:
    count = len(users)
    return Interactions(
        users=np.array(users, np.int32),
        items=np.arange(count, dtype=np.int32),
        times_ms=np.array(times_ms, np.int64),
        actions=np.zeros(count, np.int32),
        user_ids=["a", "b", "c"],
        item_ids=[str(item) for item in range(count)],
        action_names=[""],
    )


#                    a  b  a  c  b  b  a  c  c  a
DATA = interactions([0, 1, 0, 2, 1, 1, 0, 2, 2, 0], [10, 20, 30, 40, 50, 60, 70, 80, 90, 90])


def test_the_newest_event_of_each_user() -> None:
    assert np.flatnonzero(protocol.newest(DATA.users)).tolist() == [5, 8, 9]


def test_the_time_split_begins_after_nine_tenths_of_the_events_and_takes_ties_along() -> None:
    left_out = protocol.holdout(DATA, "time")
    assert left_out == Holdout(last_event=False, from_ms=90)
    assert np.flatnonzero(protocol.held_out(DATA, left_out)).tolist() == [8, 9]


@pytest.mark.parametrize(("name", "places"), [("none", []), ("last", [5, 8, 9]), ("time", [8, 9]), ("both", [5, 8, 9])])
def test_what_each_holdout_leaves_out(name: HoldoutName, places: list[int]) -> None:
    assert np.flatnonzero(protocol.held_out(DATA, protocol.holdout(DATA, name))).tolist() == places


def test_figures_of_three_lists() -> None:
    """Targets in place 1, in place 12 and in none; 20 of 40 items stand in the first ten places."""
    tally = Tally(np.arange(40, dtype=np.int32))
    first, second = np.arange(20, dtype=np.int32), np.arange(20, 40, dtype=np.int32)
    tally.add(np.stack([first, second]), np.array([0, 31], np.int32))
    tally.add(first[None], np.array([39], np.int32))
    assert tally.figures() == pytest.approx({"hr10": 1 / 3, "ndcg10": 1 / 3, "hr20": 2 / 3, "coverage": 20 / 40})


def test_ndcg_by_place() -> None:
    tally = Tally(np.arange(20, dtype=np.int32))
    lists = np.broadcast_to(np.arange(20, dtype=np.int32), (3, 20))
    tally.add(lists, np.array([1, 9, 10], np.int32))
    assert tally.figures()["ndcg10"] == pytest.approx((1 / log2(3) + 1 / log2(11)) / 3)


def test_empty_places_are_neither_hits_nor_covered() -> None:
    tally = Tally(np.arange(5, dtype=np.int32))
    tally.add(np.full((1, 20), -1, np.int32), np.array([4], np.int32))
    assert set(tally.figures().values()) == {0.0}
