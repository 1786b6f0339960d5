"""Encoder inputs of windows."""

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
    inputs = features.make(windows([[7, 8, 9]], [[1, 3, 4]], [[1, 2, 1]]), np.array([[0, 1, 2]], np.int32), WEIGHTS, 10)
    np.testing.assert_allclose(inputs.ages, [[math.log(1 + 3), math.log(1 + 1), 0.0]], rtol=1e-6)
    assert inputs.weights.tolist() == [[1.0, 3.0, 1.0]]
    assert inputs.rows.tolist() == [[0, 1, 2]]
    assert inputs.warm.tolist() == [True]


def test_learned_weights_replace_configured_ones_but_never_hide_or_show_an_action() -> None:
    """Configured: view 1, buy 3, dislike -2, wish 0. Learned: buy 5, and weights that the settings rule out."""
    codes = {"view": 1, "buy": 2, "dislike": 3, "wish": 4}
    learned = {"buy": 5.0, "dislike": 1.0, "wish": 1.0, "of another shop": 9.0}
    assert features.action_weights(WEIGHTS, codes, learned)[:6].tolist() == [0.0, 1.0, 5.0, -2.0, 0.0, 0.0]
    assert features.action_weights(WEIGHTS, codes, {}).tolist() == WEIGHTS.tolist()


def test_events_hidden_from_the_encoder_are_dropped_and_the_others_move_right() -> None:
    # Item 9 is unknown to the release, item 8 was disliked (weight -2): the newest event seen is item 7, at hour 1.
    inputs = features.make(
        windows([[6, 7, 8, 9]], [[0, 1, 2, 3]], [[1, 1, 3, 1]]), np.array([[4, 5, 6, NO_ITEM]], np.int32), WEIGHTS, 10
    )
    assert inputs.rows.tolist() == [[4, 5]]
    assert inputs.numbers.tolist() == [[6, 7]]
    np.testing.assert_allclose(inputs.ages, [[math.log(2), 0.0]], rtol=1e-6)


def test_users_with_shorter_windows_are_padded_on_the_left() -> None:
    inputs = features.make(
        windows([[1, 2], [NO_ITEM, 3]], [[0, 1], [0, 5]], [[1, 1], [0, 1]]),
        np.array([[0, 1], [NO_ITEM, 2]], np.int32),
        WEIGHTS,
        10,
    )
    assert inputs.weights.tolist() == [[1.0, 1.0], [0.0, 1.0]]
    assert inputs.rows.tolist() == [[0, 1], [0, 2]]
    assert inputs.ages[1].tolist() == [0.0, 0.0]


def test_a_window_without_events_for_the_encoder_is_cold() -> None:
    inputs = features.make(
        windows([[1, 2], [3, 4]], [[0, 1], [0, 1]], [[1, 1], [1, 1]]),
        np.array([[NO_ITEM, NO_ITEM], [0, NO_ITEM]], np.int32),
        WEIGHTS,
        10,
    )
    assert inputs.warm.tolist() == [False, True]


def test_at_most_as_many_events_as_the_encoder_was_trained_for_are_kept() -> None:
    inputs = features.make(windows([[1, 2, 3]], [[0, 1, 2]], [[1, 1, 1]]), np.array([[0, 1, 2]], np.int32), WEIGHTS, 2)
    assert inputs.rows.tolist() == [[1, 2]]
