"""What the encoder sees of a window. Training and serving share this file, so that they cannot drift apart."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from engine.arrays import NO_ITEM, Bool, Float32, Int32, Int64, Windows

HOUR_MS: Final = 3_600_000.0


@dataclass(frozen=True, slots=True)
class Features:
    """Encoder inputs of B windows, compacted: events that the encoder does not see are gone, the rest moved right."""

    rows: Int32
    """[B, L] rows of the release's tables; 0 where the weight is 0."""
    numbers: Int32
    """[B, L] item numbers of the same events, for naming them; meaningless where the weight is 0."""
    ages: Float32
    """[B, L] `log_ages`."""
    weights: Float32
    """[B, L] weight of each event's action; 0 where there is none."""

    @property
    def known(self) -> Bool:
        """[B] the window has at least one event for the encoder; without one the user is cold."""
        return self.weights[:, -1] > 0.0

    def take(self, users: Int64) -> "Features":
        """The features of these users."""
        return Features(self.rows[users], self.numbers[users], self.ages[users], self.weights[users])


def log_ages(times_ms: Int64, newest_ms: Int64) -> Float32:
    """log(1 + hours between each event and the newest one): a_j of the design. Shapes broadcast."""
    hours = (newest_ms - times_ms).astype(np.float32) / np.float32(HOUR_MS)
    ages: Float32 = np.log1p(np.maximum(hours, np.float32(0.0)))
    return ages


def action_weights(chosen: Float32, codes: Mapping[str, int], learned: Mapping[str, float]) -> Float32:
    """Weight by action code: as `chosen` in the settings, or as a release has `learned` it, by name.

    What is not above 0 in the settings stays so: a release cannot undo that an action only marks, or pushes away.
    """
    weights = chosen.copy()
    for name, value in learned.items():
        if chosen[codes.get(name, 0)] > 0.0:
            weights[codes[name]] = value
    return weights


def make(windows: Windows, rows: Int32, action_weights: Float32, length: int) -> Features:
    """Features of B windows.

    Args:
        windows: B windows of length L, newest last.
        rows: [B, L] the release's row of each event's item, NO_ITEM where it has none.
        action_weights: weight by action code; the encoder sees events with a weight above 0.
        length: the encoder's own L; it sees that many of the newest events at most.
    """
    weights = np.where(rows == NO_ITEM, np.float32(0.0), np.maximum(action_weights[windows.actions], 0.0))  # [B, L]
    seen = weights > 0.0
    order = _right_aligned(seen)
    if order is None:
        numbers, times_ms = windows.items, windows.times_ms
    else:
        numbers = np.take_along_axis(windows.items, order, axis=1)
        times_ms = np.take_along_axis(windows.times_ms, order, axis=1)
        rows = np.take_along_axis(rows, order, axis=1)
        weights = np.take_along_axis(weights, order, axis=1)
    filled = max(1, int(seen.sum(axis=1).max(initial=0)))
    used = slice(-min(filled, length), None)  # the columns that any window fills
    rows, numbers, weights, times_ms = rows[:, used], numbers[:, used], weights[:, used], times_ms[:, used]
    hidden = weights == 0.0
    return Features(
        rows=np.where(hidden, np.int32(0), rows),
        numbers=numbers,
        ages=np.where(hidden, np.float32(0.0), log_ages(times_ms, times_ms[:, -1:])),
        weights=np.ascontiguousarray(weights),
    )


def _right_aligned(seen: Bool) -> Int64 | None:
    """Column order [B, L] that moves the seen events right, keeping theirs; None when all are in place already."""
    if (seen[:, 1:] >= seen[:, :-1]).all():
        return None
    return np.argsort(seen, axis=1, kind="stable")
