"""What the encoder sees of a window."""

import math

import numpy as np

from engine.arrays import NO_ITEM, Windows
from engine.retrieval import features

HOUR_MS = 3_600_000
WEIGHTS = np.zeros(256, np.float32)
WEIGHTS[1:4] = [1.0, 3.0, -2.0]


def windows(items: list[list[int]], hours: list[list[int]], actions: list[list[int]]) -> Windows:
    return Windows(np.array(items, np.int32), np.array(hours, np.int64) * HOUR_MS, np.array(actions, np.uint8))


def test_ages_count_hours_before_the_newest_event() -> None:
    made = features.make(windows([[7, 8, 9]], [[1, 3, 4]], [[1, 2, 1]]), np.array([[0, 1, 2]], np.int32), WEIGHTS, 10)
    np.testing.assert_allclose(made.ages, [[math.log(1 + 3), math.log(1 + 1), 0.0]], rtol=1e-6)
    assert made.weights.tolist() == [[1.0, 3.0, 1.0]]
    assert made.rows.tolist() == [[0, 1, 2]]
    assert made.known.tolist() == [True]


def test_a_release_brings_its_own_weights_but_never_hides_or_shows_an_action() -> None:
    """Set: view 1, buy 3, dislike -2, wish 0. Learned: buy 5, and values for the others that the settings forbid."""
    codes = {"view": 1, "buy": 2, "dislike": 3, "wish": 4}
    learned = {"buy": 5.0, "dislike": 1.0, "wish": 1.0, "of another shop": 9.0}
    assert features.action_weights(WEIGHTS, codes, learned)[:6].tolist() == [0.0, 1.0, 5.0, -2.0, 0.0, 0.0]
    assert features.action_weights(WEIGHTS, codes, {}).tolist() == WEIGHTS.tolist()


def test_events_the_encoder_does_not_see_are_gone_and_the_rest_moves_right() -> None:
    # Item 9 is unknown to the release, item 8 was disliked (weight -2): the newest event seen is item 7, at hour 1.
    made = features.make(
        windows([[6, 7, 8, 9]], [[0, 1, 2, 3]], [[1, 1, 3, 1]]), np.array([[4, 5, 6, NO_ITEM]], np.int32), WEIGHTS, 10
    )
    assert made.rows.tolist() == [[4, 5]]
    assert made.numbers.tolist() == [[6, 7]]
    np.testing.assert_allclose(made.ages, [[math.log(2), 0.0]], rtol=1e-6)


def test_users_with_shorter_windows_are_padded_on_the_left() -> None:
    made = features.make(
        windows([[1, 2], [NO_ITEM, 3]], [[0, 1], [0, 5]], [[1, 1], [0, 1]]),
        np.array([[0, 1], [NO_ITEM, 2]], np.int32),
        WEIGHTS,
        10,
    )
    assert made.weights.tolist() == [[1.0, 1.0], [0.0, 1.0]]
    assert made.rows.tolist() == [[0, 1], [0, 2]]
    assert made.ages[1].tolist() == [0.0, 0.0]


def test_a_window_with_nothing_for_the_encoder_is_cold() -> None:
    made = features.make(
        windows([[1, 2], [3, 4]], [[0, 1], [0, 1]], [[1, 1], [1, 1]]),
        np.array([[NO_ITEM, NO_ITEM], [0, NO_ITEM]], np.int32),
        WEIGHTS,
        10,
    )
    assert made.known.tolist() == [False, True]


def test_the_encoder_sees_its_own_length_at_most() -> None:
    made = features.make(windows([[1, 2, 3]], [[0, 1, 2]], [[1, 1, 1]]), np.array([[0, 1, 2]], np.int32), WEIGHTS, 2)
    assert made.rows.tolist() == [[1, 2]]
