"""Encoder inputs from windows. Training and serving share this file, so that they cannot drift apart."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from engine.arrays import NO_ITEM, Bool, Float32, Int32, Int64, Windows

HOUR_MS: Final = 3_600_000.0


@dataclass(frozen=True, slots=True)
class Features:
    """Encoder inputs of B windows, compacted: events hidden from the encoder are dropped, the others moved right."""

    rows: Int32
    """[B, L] rows of the release's tables; 0 where the weight is 0."""
    numbers: Int32
    """[B, L] item numbers of the same events, by which lists name them; meaningless where the weight is 0."""
    ages: Float32
    """[B, L] `log_ages`."""
    weights: Float32
    """[B, L] weight of each event's action; 0 where there is no event."""

    @property
    def warm(self) -> Bool:
        """[B] the window has at least one event for the encoder; a user without any is cold."""
        return self.weights[:, -1] > 0.0

    def take(self, users: Int64) -> "Features":
        """The features of the users at these indices."""
        return Features(self.rows[users], self.numbers[users], self.ages[users], self.weights[users])


def log_ages(times_ms: Int64, newest_ms: Int64) -> Float32:
    """log(1 + hours between each event and the newest one), a_j in the encoder's equations. Shapes broadcast."""
    hours = (newest_ms - times_ms).astype(np.float32) / np.float32(HOUR_MS)
    ages: Float32 = np.log1p(np.maximum(hours, np.float32(0.0)))
    return ages


def action_weights(configured: Float32, codes: Mapping[str, int], learned: Mapping[str, float]) -> Float32:
    """Weights by action code: the learned weight of a release in place of the configured one, where it has one.

    A weight that is 0 or below in the settings stays as it is: a release cannot turn an action that hides an event, or
    pushes its item away, into one that the encoder sees.

    Args:
        configured: [256] weights of the settings, by action code.
        codes: action codes by name.
        learned: weights of a release, by action name; names that the settings lack are ignored.
    """
    weights = configured.copy()
    for name, weight in learned.items():
        if configured[codes.get(name, 0)] > 0.0:
            weights[codes[name]] = weight
    return weights


def make(windows: Windows, rows: Int32, action_weights: Float32, length: int) -> Features:
    """Features of B windows.

    Args:
        windows: B windows of length L, newest last.
        rows: [B, L] table row of each event's item in the release; NO_ITEM where the release does not have the item.
        action_weights: [256] weights by action code; events with a weight of 0 or below are hidden from the encoder.
        length: the encoder's own L; of a longer window it sees the newest events.
    """
    weights = np.where(rows == NO_ITEM, np.float32(0.0), np.maximum(action_weights[windows.actions], 0.0))  # [B, L]
    visible = weights > 0.0
    order = _right_aligned(visible)
    if order is None:
        numbers, times_ms = windows.items, windows.times_ms
    else:
        numbers = np.take_along_axis(windows.items, order, axis=1)
        times_ms = np.take_along_axis(windows.times_ms, order, axis=1)
        rows = np.take_along_axis(rows, order, axis=1)
        weights = np.take_along_axis(weights, order, axis=1)
    longest = max(1, int(visible.sum(axis=1).max(initial=0)))
    newest = slice(-min(longest, length), None)  # the columns in which any window has an event
    rows, numbers, weights, times_ms = rows[:, newest], numbers[:, newest], weights[:, newest], times_ms[:, newest]
    hidden = weights == 0.0
    return Features(
        rows=np.where(hidden, np.int32(0), rows),
        numbers=numbers,
        ages=np.where(hidden, np.float32(0.0), log_ages(times_ms, times_ms[:, -1:])),
        weights=np.ascontiguousarray(weights),
    )


def right_aligned(rows: Int32, visible: Bool) -> Int32:
    """[B, L] the rows of visible events moved right, in their order; NO_ITEM in the places that are left."""
    order = _right_aligned(visible)
    rows = np.where(visible, rows, np.int32(NO_ITEM))
    return rows if order is None else np.take_along_axis(rows, order, axis=1)


def _right_aligned(visible: Bool) -> Int64 | None:
    """[B, L] order of columns that moves the visible events right and keeps their order; None where they are there."""
    if (visible[:, 1:] >= visible[:, :-1]).all():
        return None
    return np.argsort(visible, axis=1, kind="stable")
