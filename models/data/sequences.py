"""Users' histories cut into sequences of at most L inputs, the last A of which are asked, and batches of them.

Keys and values depend on the item alone, so an event may be seen by later ones without being asked itself. A long
history is cut into parts of at most L/2 events, and each part is asked with all the L events that its newest one sees
before it: every event is a target exactly once, and with at least L/2 events before it wherever there are so many, as
it will be when the release serves.

A search is an input and no target: what is learned about it is which click it led to.

An item that came before in the sequence is no target: the engine leaves out what was seen, and an encoder that learns
to repeat fills its candidates with what can't be shown.

Hiding the newest m events before a target, so that lists hold what comes after the next click too: in one causal pass
the window that ends m events earlier is a query already, so the target is asked there. A share of the sequences skips
m events, from 1 up to a limit, at all their positions. Where that would lie beyond a part, its last target is asked,
so that no skip reaches what is kept aside.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from engine.arrays import FIRST_SEARCH, Bool, Float32, Int32, Int64, UInt8
from engine.retrieval.features import log_ages

NO_TARGET = -1
NO_ACTION = -1
_NEXT = np.zeros(1, np.int64)
_SHUFFLE_BATCHES = 32
"""Sequences are sorted by length within this many batches: little padding, and still a different mix every epoch."""


@dataclass(frozen=True, slots=True)
class Histories:
    """The events of U users, one user after the other, each in order of time; all actions weigh more than 0.

    No user's newest event is a search.
    """

    items: Int32
    """[n] rows of the item table; rows of searches begin at FIRST_SEARCH."""
    times_ms: Int64
    """[n]"""
    actions: UInt8
    """[n] numbers of the actions (`models.network.action_values`)."""
    starts: Int64
    """[U + 1] where each user's events begin."""

    def lengths(self) -> Int64:
        """[U] events per user."""
        return np.diff(self.starts)


@dataclass(frozen=True, slots=True)
class SequenceBatch:
    """S sequences of up to L inputs, oldest first, padded on the left; the last A of each are asked."""

    items: Int32
    """[S, L] items and searches; 0 where padded."""
    ages: Float32
    """[S, A, L] age of event j when the asked event i happened."""
    actions: Int32
    """[S, L] NO_ACTION where padded."""
    targets: Int32
    """[S, A] the item that came next; NO_TARGET where it is not asked here."""


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
    part = max(1, window_length // 2)
    counts = -(-inputs // part)  # [U] sequences
    owner = np.repeat(np.arange(len(inputs)), counts)  # [m]
    number = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)  # [m] 0, 1, ... within the user
    asked, ends = (inputs[owner] * turn // counts[owner] for turn in (number, number + 1))  # parts of even length
    begins = np.maximum(ends - window_length, 0)
    offset = starts[owner]
    return Sequences(begins=offset + begins, ends=offset + ends, asked=offset + asked)


def parts(sequences: Sequences, size: int, rng: np.random.Generator) -> Iterator[Int64]:
    """Which sequences stand in each batch of one epoch: every one once, `size` at a time, in random order."""
    order = rng.permutation(len(sequences))
    lengths = sequences.ends - sequences.begins
    blocks = np.array_split(order, range(size * _SHUFFLE_BATCHES, len(order), size * _SHUFFLE_BATCHES))
    for block in blocks:
        ordered = block[np.argsort(lengths[block], kind="stable")]
        batches = np.array_split(ordered, range(size, len(ordered), size))
        for batch in rng.permutation(len(batches)):
            yield batches[batch]


def gather(histories: Histories, sequences: Sequences, chosen: Int64, skips: Int64 = _NEXT) -> SequenceBatch:
    """The batch of the `chosen` [S] sequences, whose targets come `skips` [S] events after the next one."""
    begins, ends, asked = (
        column[chosen, None] for column in (sequences.begins, sequences.ends, sequences.asked)
    )  # [S, 1]
    length, most = int((ends - begins).max()), int((ends - asked).max())  # L, A
    places = ends + np.arange(-length, 0)  # [S, L]
    real: Bool = places >= begins
    places = np.maximum(places, begins)
    items, times_ms = histories.items[places], histories.times_ms[places]
    following = histories.items[np.minimum(places[:, -most:] + 1 + skips[:, None], ends)]  # [S, A]
    wanted = (places[:, -most:] >= asked) & real[:, -most:] & (following < FIRST_SEARCH)
    wanted &= ~_seen(np.where(real, items, NO_TARGET), following)
    return SequenceBatch(
        items=np.where(real, items, np.int32(0)),
        ages=log_ages(times_ms[:, None], times_ms[:, -most:, None]),
        actions=np.where(real, histories.actions[places], np.int32(NO_ACTION)),
        targets=np.where(wanted, following, np.int32(NO_TARGET)),
    )


def _seen(items: Int32, following: Int32) -> Bool:
    """[S, A] whether the item that follows one of the last A inputs is among the inputs [S, L] up to there."""
    same = items[:, None] == following[:, :, None]  # [S, A, L]
    seen: Bool = np.tril(same, items.shape[1] - following.shape[1]).any(axis=2)
    return seen
