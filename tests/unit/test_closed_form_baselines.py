"""Item-kNN, session-kNN and EASE, beside their formulas written as loops."""

import math
from collections import defaultdict

import numpy as np
import pytest

pytest.importorskip("scipy", reason="baselines need scipy: pip install 'headrace[baselines]'")

from engine.arrays import NO_ITEM, Windows
from models.data.histories import Histories
from models.data.popularity_at import HOUR_MS
from models.evaluation.baselines import PopularityBaseline, matrices
from models.evaluation.baselines.ease import Ease
from models.evaluation.baselines.item_knn import ItemKnn
from models.evaluation.baselines.session_knn import SessionKnn
from models.evaluation.baselines.task import BaselineValidation, Task

ITEMS, USERS, LENGTH = 12, 40, 6
NOW_MS = 1_000 * HOUR_MS
WHOLE, HALF_AN_HOUR_MS = math.inf, HOUR_MS // 2


@pytest.fixture(scope="module")
def events() -> Histories:
    """Walks through a small catalogue, with a pause now and then."""
    rng = np.random.default_rng(5)
    lengths = rng.integers(3, 9, USERS)
    pauses_ms = rng.choice([1_000, HOUR_MS], lengths.sum(), p=[0.7, 0.3])
    return Histories(
        items=rng.integers(0, ITEMS, lengths.sum()).astype(np.int32),
        times_ms=np.cumsum(pauses_ms),
        actions=np.ones(lengths.sum(), np.uint8),
        starts=np.cumsum([0, *lengths]),
    )


@pytest.fixture(scope="module")
def task(events: Histories) -> Task:
    """Popularity knows nothing, so that lists end with the scored items."""
    nothing = PopularityBaseline(
        np.empty(0, np.int32), np.empty(0, np.int64), np.array([NOW_MS], np.int64), depth=ITEMS
    )
    return Task(
        events=events,
        item_count=ITEMS,
        validation=BaselineValidation(events, LENGTH),
        popularity=nothing,
        popularity_mask=np.zeros(len(events), np.bool_),
        window_length=LENGTH,
        action_weights=np.ones(256, np.float32),
    )


def windows_of(*rows: list[int], pause_ms: int = 1_000) -> Windows:
    items = np.array([[NO_ITEM] * (LENGTH - len(row)) + row for row in rows], np.int32)
    times_ms = np.where(items >= 0, NOW_MS - pause_ms * np.arange(LENGTH)[::-1], 0)
    return Windows(items, times_ms.astype(np.int64), np.ones(items.shape, np.uint8))


WINDOWS = windows_of([1, 2, 1, 3], [7], [0, 4, 8, 11, 5, 2], [])


def lists(baseline: ItemKnn | SessionKnn | Ease, windows: Windows = WINDOWS) -> list[list[int]]:
    times_ms = np.full(len(windows.items), NOW_MS, np.int64)
    return [[item for item in row if item != NO_ITEM] for row in baseline.lists(windows, times_ms, ITEMS).tolist()]


def ranked(scores: dict[int, float], window: list[int]) -> list[int]:
    """Unseen items with a score, the highest first."""
    unseen = [item for item, score in scores.items() if score != 0.0 and item not in window]
    return sorted(unseen, key=lambda item: (-np.float32(scores[item]), item))


def by_age(window: list[int]) -> dict[int, int]:
    """Events after the newest place of each item."""
    present = [item for item in window if item != NO_ITEM]
    return {item: len(present) - 1 - place for place, item in enumerate(present)}


def test_items_weigh_by_the_age_of_their_newest_place() -> None:
    weights = matrices.of_windows_by_age(WINDOWS.items, ITEMS, 0.5).toarray()
    assert weights[0].tolist() == [0.0, 0.5, 0.25, 1.0, *[0.0] * 8]
    assert weights[1].tolist() == [*[0.0] * 7, 1.0, *[0.0] * 4]
    assert not weights[3].any()


def test_item_knn_agrees_with_loops(events: Histories, task: Task) -> None:
    configuration = {"last_items": 4, "decay": 0.9, "neighbours": ITEMS, "shrinkage": 10}
    users_of: dict[int, set[int]] = defaultdict(set)
    for user, item in zip(events.users.tolist(), events.items.tolist(), strict=True):
        users_of[item].add(user)
    expected = []
    for window in WINDOWS.items.tolist():
        scores: dict[int, float] = defaultdict(float)
        for liked, age in by_age(window[-4:]).items():
            for item in set(range(ITEMS)) - {liked}:
                lengths = math.sqrt(len(users_of[liked]) * len(users_of[item]))
                scores[item] += 0.9**age * len(users_of[liked] & users_of[item]) / (lengths + 10)
        expected.append(ranked(scores, window))
    assert lists(ItemKnn(task, configuration, events)) == expected
    assert expected[0]
    assert not expected[3]


@pytest.mark.parametrize("gap_ms", [WHOLE, HALF_AN_HOUR_MS])
def test_session_knn_agrees_with_loops(events: Histories, task: Task, gap_ms: float) -> None:
    sessions: list[set[int]] = []
    for start, stop in zip(events.starts[:-1], events.starts[1:], strict=True):
        for index in range(start, stop):
            if index == start or events.times_ms[index] - events.times_ms[index - 1] > gap_ms:
                sessions.append(set())
            sessions[-1].add(int(events.items[index]))
    rarity = {item: math.log1p(len(sessions) / max(1, sum(item in s for s in sessions))) for item in range(ITEMS)}
    expected = []
    for window in WINDOWS.items.tolist():
        weights = {item: 0.75**age for item, age in by_age(window[-3:]).items()}
        length = math.sqrt(sum(weight**2 for weight in weights.values()))
        nearness = [
            sum(weights.get(item, 0.0) for item in session) / math.sqrt(len(session)) / (length or 1.0)
            for session in sessions
        ]
        scores: dict[int, float] = defaultdict(float)
        for session, near in zip(sessions, nearness, strict=True):
            for item in session:
                scores[item] += near * rarity[item]
        expected.append(ranked(scores, window))
    configuration = {"gap_ms": gap_ms, "nearest": len(sessions), "last_items": 3}
    assert lists(SessionKnn(task, configuration, events)) == expected
    assert expected[0]
    assert not expected[3]


def test_only_the_nearest_sessions_vote(events: Histories, task: Task) -> None:
    """With the nearest session alone, the list is what it shares with the window, and more of it."""
    configuration = {"gap_ms": WHOLE, "nearest": 1, "last_items": LENGTH}
    histories = [set(events.items[a:b].tolist()) for a, b in zip(events.starts[:-1], events.starts[1:], strict=True)]
    for window, row in zip(WINDOWS.items.tolist()[:3], lists(SessionKnn(task, configuration, events)), strict=False):
        assert any(set(row) == history - set(window) for history in histories if history & set(window))


def test_a_query_is_the_newest_session_of_the_window(events: Histories, task: Task) -> None:
    configuration = {"gap_ms": HALF_AN_HOUR_MS, "nearest": 1_000, "last_items": LENGTH}
    baseline = SessionKnn(task, configuration, events)
    apart = lists(baseline, windows_of([9, 4, 3], pause_ms=HOUR_MS))
    assert [item for item in apart[0] if item not in {9, 4}] == [
        item for item in lists(baseline, windows_of([3]))[0] if item not in {9, 4}
    ]


def test_ease_agrees_with_the_inverse(events: Histories, task: Task) -> None:
    clicked = np.zeros((USERS, ITEMS))
    clicked[events.users, events.items] = 1.0
    inverse = np.linalg.inv(clicked.T @ clicked + 3.0 * np.eye(ITEMS))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0.0)
    expected = [
        ranked(dict(enumerate(weights[sorted({item for item in window if item >= 0})].sum(axis=0))), window)
        for window in WINDOWS.items.tolist()
    ]
    assert lists(Ease(task, {"penalty": 3.0}, events)) == expected


def test_ease_leaves_out_the_items_with_fewest_users(events: Histories, task: Task) -> None:
    users = np.array([len(set(events.users[events.items == item].tolist())) for item in range(ITEMS)])
    most = np.argsort(-users, kind="stable")[:5]
    for row in lists(Ease(task, {"penalty": 3.0}, events, most=5)):
        assert set(row) <= set(most.tolist())
