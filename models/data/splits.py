"""Splits: which events training leaves out, so that an evaluation may ask for them.

Leave-last-out holds out each user's newest click. The time split holds out every event at or after the 90 % quantile of
event time. New items are a share of the items, every event of which is held out. A release's manifest names its split
(`engine.releases.bundles.Holdout`). Of events at the same time, the one further down the file is the newer. A search is
never a target: it is part of the window before one. The protocol in words: `docs/evaluation.md`.
"""

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np

from engine.arrays import Bool, Int32, Int64
from engine.errors import DataError
from engine.releases.bundles import Holdout
from models.data.dataset import Interactions
from models.data.histories import Histories
from models.settings import HoldoutName

TRAINING_SHARE = 0.9
"""Share of the events before the time split."""


def holdout(histories: Histories, name: HoldoutName, items_share: float = 0.0, items_seed: int = 0) -> Holdout:
    """The holdout called `name` for these histories, with a share of the items added to it.

    Raises:
        DataError: there is no last tenth of time to hold out.
    """
    return Holdout(
        last_event=name in {"last", "both"},
        from_ms=split_ms(histories) if name in {"time", "both"} else None,
        items_share=items_share,
        items_seed=items_seed if items_share else 0,
    )


def split_ms(histories: Histories) -> int:
    """Beginning of the time split: the event time after the first 90 % of the events.

    Raises:
        DataError: nine tenths of the events share the earliest time, so that there is no last tenth.
    """
    from_ms = histories.quantile_ms(TRAINING_SHARE)
    if from_ms == histories.times_ms.min():
        raise DataError(
            f"at least nine tenths of the {len(histories)} events have the same time, {from_ms} ms, so that no last"
            " tenth of time can be held out; mend the times, or say --holdout last to go by the order of the file"
        )
    return from_ms


def newest(interactions: Interactions) -> Bool:
    """[n] marks the newest click of each user, and the searches that came after it."""
    users, clicks = interactions.users, np.flatnonzero(interactions.clicks())
    last = np.full(len(interactions.user_ids), -1)  # [U]
    np.maximum.at(last, users[clicks], clicks)
    marks: Bool = np.arange(len(users)) >= last[users]
    return marks


def held_out(interactions: Interactions, left_out: Holdout) -> Bool:
    """[n] marks the events that training must not see."""
    marks = np.zeros(len(interactions), np.bool_)
    if left_out.last_event:
        marks |= newest(interactions)
    if left_out.from_ms is not None:
        marks |= interactions.times_ms >= left_out.from_ms
    if left_out.items_share > 0.0:
        clicks = interactions.clicks()
        marks[clicks] |= cold_items(interactions.item_ids, left_out)[interactions.items[clicks]]
    return marks


def cold_items(item_ids: Sequence[str], left_out: Holdout) -> Bool:
    """[V] marks the items that training must not see; only its id and the seed decide whether an item is one."""
    bound = int(left_out.items_share * 2**64)
    return np.array([_draw(item, left_out.items_seed) < bound for item in item_ids], np.bool_)


def _draw(item: str, seed: int) -> int:
    return int.from_bytes(blake2b(f"{seed}\0{item}".encode(), digest_size=8).digest())


def earlier(users: Int32) -> Int64:
    """[n] number of events of the same user before each, of events in order of time."""
    order = np.argsort(users, kind="stable")
    grouped = users[order]
    counts = np.empty(len(users), np.int64)
    counts[order] = np.arange(len(users)) - np.searchsorted(grouped, grouped)
    return counts
