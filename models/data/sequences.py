"""Histories cut into sequences of at most L inputs, the last A of which have targets, and batches of them.

Keys and values depend on the item alone, so an event may be seen by later ones without having a target itself. A long
history is cut into parts of at most L/2 events, and each part is learned with all the L events that its newest one sees
before it: every event is a target exactly once, and with at least L/2 events before it wherever its user has as many,
as it will be when the release serves.

A search is an input and no target: what is learned about it is which click it led to.

An item that came before in the sequence is no target: the engine leaves out what was seen, and an encoder that learns
to repeat fills its candidates with what can't be shown.

Hiding the newest m events before a target, so that lists hold what comes after the next click too: in one causal pass
the window that ends m events earlier is a query already, so the target belongs there. A share of the sequences skips
m events, from 1 up to a limit, at all their positions. Where that is beyond a part, its last target is taken,
so that no skip reaches what is kept aside.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from engine.arrays import FIRST_SEARCH, NO_ACTION, Bool, Float32, Int32, Int64
from engine.retrieval.features import log_ages
from models.data.histories import Histories

NO_TARGET = -1
_NEXT = np.zeros(1, np.int64)
_SHUFFLE_BATCHES = 32
"""Sequences are sorted by length within this many batches: little padding, and still a different mix every epoch."""


@dataclass(frozen=True, slots=True)
class SequenceBatch:
    """S sequences of up to L inputs, oldest first, padded on the left; the last A of each may have targets."""

    items: Int32
    """[S, L] items and searches; 0 where padded."""
    ages: Float32
    """[S, A, L] age of event j when event i of the last A happened."""
    actions: Int32
    """[S, L] codes; NO_ACTION where padded."""
    targets: Int32
    """[S, A] the item that came next; NO_TARGET where it is no target here."""


@dataclass(frozen=True, slots=True)
class Sequences:
    """m sequences, as indices into the events of histories."""

    begins: Int64
    """[m] first input."""
    ends: Int64
    """[m] one past the last input."""
    target_begins: Int64
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
    target_begins = inputs[owner] * number // counts[owner]  # parts of even length
    ends = inputs[owner] * (number + 1) // counts[owner]
    begins = np.maximum(ends - window_length, 0)
    offset = starts[owner]
    return Sequences(begins=offset + begins, ends=offset + ends, target_begins=offset + target_begins)


def parts(sequences: Sequences, size: int, rng: np.random.Generator) -> Iterator[Int64]:
    """Indices of the sequences in each batch of an epoch: every one once, `size` at a time, in random order."""
    order = rng.permutation(len(sequences))
    lengths = sequences.ends - sequences.begins
    blocks = np.array_split(order, range(size * _SHUFFLE_BATCHES, len(order), size * _SHUFFLE_BATCHES))
    for block in blocks:
        ordered = block[np.argsort(lengths[block], kind="stable")]
        batches = np.array_split(ordered, range(size, len(ordered), size))
        for batch in rng.permutation(len(batches)):
            yield batches[batch]


def gather(histories: Histories, sequences: Sequences, batch: Int64, skips: Int64 = _NEXT) -> SequenceBatch:
    """The sequences with the indices `batch` [S], whose targets come `skips` [S] events after the next one."""
    begins, ends = sequences.begins[batch, None], sequences.ends[batch, None]  # [S, 1]
    target_begins = sequences.target_begins[batch, None]  # [S, 1]
    length, targets = int((ends - begins).max()), int((ends - target_begins).max())  # L, A
    indices = ends + np.arange(-length, 0)  # [S, L]
    is_event: Bool = indices >= begins
    indices = np.maximum(indices, begins)
    items, times_ms = histories.items[indices], histories.times_ms[indices]
    following = histories.items[np.minimum(indices[:, -targets:] + 1 + skips[:, None], ends)]  # [S, A]
    is_target = (indices[:, -targets:] >= target_begins) & is_event[:, -targets:] & (following < FIRST_SEARCH)
    is_target &= ~_seen(np.where(is_event, items, NO_TARGET), following)
    return SequenceBatch(
        items=np.where(is_event, items, np.int32(0)),
        ages=log_ages(times_ms[:, None], times_ms[:, -targets:, None]),
        actions=np.where(is_event, histories.actions[indices], np.int32(NO_ACTION)),
        targets=np.where(is_target, following, np.int32(NO_TARGET)),
    )


def _seen(items: Int32, following: Int32) -> Bool:
    """[S, A] marks the items following the last A inputs that are among the inputs [S, L] up to there."""
    same = items[:, None] == following[:, :, None]  # [S, A, L]
    seen: Bool = np.tril(same, items.shape[1] - following.shape[1]).any(axis=2)
    return seen
