"""Users' histories cut into sequences of at most L inputs, and batches of them.

A history longer than the window is cut so that sequences overlap by half: every event is a target exactly once, and
(but for the first L of a history) with at least L/2 events before it, as it will be when the release serves.

An item that came before in the sequence is no target: the engine leaves out what was seen, and an encoder that learns
to repeat fills its candidates with what can't be shown.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from engine.columns import Bool, Float32, Int32, Int64
from engine.features import log_ages

NO_TARGET = -1
_SHUFFLE_BATCHES = 32
"""Sequences are sorted by length within this many batches: little padding, and still a different mix every epoch."""


@dataclass(frozen=True, slots=True)
class Histories:
    """The events of U users, one user after the other, each in order of time; all have a weight above 0."""

    items: Int32
    """[n] rows of the item table."""
    times_ms: Int64
    """[n]"""
    weights: Float32
    """[n] weights of the actions."""
    starts: Int64
    """[U + 1] where each user's events begin."""

    def lengths(self) -> Int64:
        """[U] events per user."""
        return np.diff(self.starts)


@dataclass(frozen=True, slots=True)
class Batch:
    """S sequences of up to L inputs, oldest first, padded at the end."""

    items: Int32
    """[S, L] 0 where padded."""
    ages: Float32
    """[S, L, L] age of event j when event i happened."""
    weights: Float32
    """[S, L] 0 where padded."""
    targets: Int32
    """[S, L] the item that came next; NO_TARGET where it is not asked here."""


@dataclass(frozen=True, slots=True)
class Sequences:
    """Where each sequence lies in the histories."""

    begins: Int64
    """[m] first input."""
    ends: Int64
    """[m] one past the last input."""
    asked: Int64
    """[m] first input whose successor is a target here."""

    def __len__(self) -> int:
        return len(self.begins)


def cut(lengths: Int64, starts: Int64, window_length: int) -> Sequences:
    """Sequences over users with `lengths` [U] usable events each that begin at `starts` [U].

    The last event of a user is a target only, so a user with n events has n - 1 inputs.
    """
    inputs = np.maximum(lengths - 1, 0)  # [U]
    step = max(1, window_length // 2)
    counts = np.where(inputs > 0, 1 + np.maximum(0, -(-(inputs - window_length) // step)), 0)  # [U] sequences
    owner = np.repeat(np.arange(len(inputs)), counts)  # [m]
    number = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)  # [m] 0, 1, ... within the user
    ends = np.minimum(window_length + number * step, inputs[owner])
    begins = np.maximum(ends - window_length, 0)
    asked = np.where(number > 0, window_length + (number - 1) * step, 0)
    offset = starts[owner]
    return Sequences(begins=offset + begins, ends=offset + ends, asked=offset + asked)


def batches(histories: Histories, sequences: Sequences, size: int, rng: np.random.Generator) -> Iterator[Batch]:
    """One epoch: every sequence once, `size` at a time, in random order."""
    order = rng.permutation(len(sequences))
    lengths = sequences.ends - sequences.begins
    blocks = np.array_split(order, range(size * _SHUFFLE_BATCHES, len(order), size * _SHUFFLE_BATCHES))
    for block in blocks:
        ordered = block[np.argsort(lengths[block], kind="stable")]
        parts = np.array_split(ordered, range(size, len(ordered), size))
        for part in rng.permutation(len(parts)):
            yield gather(histories, sequences, parts[part])


def gather(histories: Histories, sequences: Sequences, chosen: Int64) -> Batch:
    """The batch of the `chosen` [S] sequences."""
    begins, ends = sequences.begins[chosen, None], sequences.ends[chosen, None]
    places = begins + np.arange(int((ends - begins).max()))  # [S, L]
    real: Bool = places < ends
    places = np.where(real, places, ends - 1)
    items, following = histories.items[places], histories.items[np.minimum(places + 1, len(histories.items) - 1)]
    asked = real & (places >= sequences.asked[chosen, None]) & ~_seen(items, following)
    times_ms = histories.times_ms[places]
    return Batch(
        items=np.where(real, items, np.int32(0)),
        ages=log_ages(times_ms[:, None], times_ms[:, :, None]),
        weights=np.where(real, histories.weights[places], np.float32(0.0)),
        targets=np.where(asked, following, np.int32(NO_TARGET)),
    )


def _seen(items: Int32, following: Int32) -> Bool:
    """[S, L] whether the item that follows an input is among the inputs up to there."""
    same = items[:, None] == following[:, :, None]  # [S, L, L]
    seen: Bool = np.tril(same).any(axis=2)
    return seen
