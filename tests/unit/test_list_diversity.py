"""Diversity of lists, against the same mean over pairs written down."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.arrays import NO_ITEM
from models.data.histories import Histories
from models.evaluation.list_diversity import ListDiversity

ITEMS = 14


def events_of(users: list[list[int]]) -> Histories:
    items = np.array([item for clicked in users for item in clicked], np.int32)
    starts = np.append(0, np.cumsum([len(clicked) for clicked in users]))
    return Histories(items, np.arange(len(items)), np.ones(len(items), np.uint8), starts)


def expected(users: list[list[int]], lists: list[list[int]]) -> float | None:
    values = []
    for listed in lists:
        known = [item for item in listed[:10] if any(item in clicked for clicked in users)]
        pairs = [
            sum(one in clicked and other in clicked for clicked in users)
            / np.sqrt(sum(one in clicked for clicked in users) * sum(other in clicked for clicked in users))
            for one, other in combinations(known, 2)
        ]
        values += [1.0 - np.mean(pairs)] if pairs else []
    return float(np.mean(values)) if values else None


lists_of_items = st.lists(st.integers(0, ITEMS - 1), max_size=12, unique=True)


@given(
    st.lists(st.lists(st.integers(0, ITEMS - 1), min_size=1, max_size=6), min_size=1, max_size=6),
    st.lists(lists_of_items, min_size=1, max_size=4),
)
def test_it_is_the_mean_over_pairs_and_lists(users: list[list[int]], lists: list[list[int]]) -> None:
    diversity = ListDiversity(events_of(users), ITEMS)
    for listed in lists:
        diversity.add(np.array([listed + [NO_ITEM] * (12 - len(listed))], np.int32))
    assert diversity.mean == pytest.approx(expected(users, lists), abs=1e-5)


def test_items_of_the_same_users_are_not_diverse_and_those_of_different_users_are() -> None:
    events = events_of([[0, 1], [0, 1], [2]])
    alike, unlike = ListDiversity(events, ITEMS), ListDiversity(events, ITEMS)
    alike.add(np.array([[0, 1]], np.int32))
    unlike.add(np.array([[0, 2]], np.int32))
    assert alike.mean == pytest.approx(0.0, abs=1e-6)
    assert unlike.mean == 1.0
