"""Evaluation queries: recorded events as targets, each with the window of its user's events before it.

    last events      the newest click of every user, from the window of all events before it
    since a time     every click from then on, from the window of all the user's events before it
    given events     any events, in order of time, from the windows of all their users' events before them

Searches are part of windows and never targets. Item numbers are those of the interactions, in the engine's catalogue
too, so that a release and a baseline mean the same item by a number.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

import numpy as np

from engine.arrays import FIRST_SEARCH, NO_ACTION, NO_ITEM, Bool, Float32, Int32, Int64, UInt8, Windows
from engine.catalogue.actions import Actions
from engine.catalogue.ids import Catalogue
from engine.releases.bundles import Holdout, Manifest
from engine.retrieval import features
from engine.settings.sections import Settings
from engine.windows.store import Events, WindowStore
from models.data import histories, splits
from models.data.action_names import ActionCodes, warn_of_unnamed
from models.data.dataset import Interactions
from models.data.histories import Histories

LIST_LENGTH: Final = 20
"""N: items in every list of an evaluation."""
_BATCH_QUERIES: Final = 256

QueryBatches: TypeAlias = Iterator[tuple[Windows, Int64]]
"""Windows of B users, and the indices [B] of their target events."""


class EvalData:
    """Recorded interactions in the engine's terms: catalogue numbers, action codes and windows."""

    def __init__(self, interactions: Interactions, settings: Settings) -> None:
        """Number items, searches and actions as the engine does.

        Args:
            interactions: the n recorded events.
            settings: action weights, window length, index and lists; the length of lists is set to `LIST_LENGTH`, and
                the window store has a slot for every user.
        """
        self.interactions = interactions
        self.settings = settings.model_copy(
            update={
                "recommendations": settings.recommendations.model_copy(update={"count": LIST_LENGTH}),
                "windows": settings.windows.model_copy(update={"max_users": len(interactions.user_ids)}),
            }
        )
        self.catalogue = Catalogue()
        self.catalogue.numbers(interactions.item_ids)
        self.catalogue.numbers(interactions.search_ids)
        self.items: Int32 = interactions.items  # [n] a new catalogue numbers them in the same way
        warn_of_unnamed(interactions.action_names, [interactions.actions], settings.clicks)
        actions = Actions(settings.clicks)
        codes = ActionCodes(interactions.action_names, actions)
        self.actions: UInt8 = codes.of(interactions.actions, interactions.items)  # [n]
        self.action_weights, self._action_codes = actions.weights, actions.codes  # [256] by code; code by name
        clicks = interactions.clicks()
        self.target_mask: Bool = clicks & (actions.weights[self.actions] > 0.0)  # [n] clicks that a list should predict

    def weights_for(self, release: Manifest) -> Float32:
        """[256] weight by action code when this release serves."""
        return features.action_weights(self.action_weights, self._action_codes, release.action_values)

    def by_user(self, mask: Bool) -> Histories:
        """The events under `mask` [n], user by user."""
        events, rows = self.all_by_user()
        is_selected = np.empty(len(mask), np.bool_)
        is_selected[rows] = mask
        return events.select(is_selected)

    def all_by_user(self) -> tuple[Histories, Int64]:
        """All events, user by user, and the row [n] of each event in them."""
        order, starts = histories.by_user(self.interactions.users, len(self.interactions.user_ids))
        rows = np.empty(len(order), np.int64)
        rows[order] = np.arange(len(order))
        return Histories(self.items[order], self.interactions.times_ms[order], self.actions[order], starts), rows

    def window_store(self, events: Int64) -> WindowStore:
        """A store of all users' windows, slot by user number, after the events at these indices (ascending)."""
        store = WindowStore(self.settings.windows)
        store.slots(self.interactions.user_ids, np.zeros(len(self.interactions.user_ids), np.int32))
        store.append(self.store_events(events[_newest_of_each(self.interactions.users[events], store.length)]))
        return store

    def store_events(self, events: Int64) -> Events:
        """The events at these indices, as a store from `window_store` takes them."""
        return Events(
            slots=self.interactions.users[events],
            items=self.items[events],
            times_ms=self.interactions.times_ms[events],
            actions=self.actions[events],
            event_hashes=np.zeros(len(events), np.uint32),
        )


@dataclass(frozen=True, slots=True)
class EvalQueries:
    """Q target events and the windows before them."""

    targets: Int64
    """[Q] indices of the target events, ascending."""
    popularity_mask: Bool
    """[n] events that a popularity baseline may count, each from its own time on."""
    batches: Callable[[], QueryBatches]
    """Starts a pass over all queries, in an order of its own."""


def last_event_queries(eval_data: EvalData) -> EvalQueries:
    """Each user's newest click, where there is an event before it."""
    data = eval_data.interactions
    last = splits.newest(data)
    has_history = splits.earlier(data.users) > 0
    targets = np.flatnonzero(last & has_history & eval_data.target_mask)

    def batches() -> QueryBatches:
        store = eval_data.window_store(np.flatnonzero(~last))
        for batch in split_batches(targets):
            yield store.read(data.users[batch]), batch

    return EvalQueries(targets, ~last & data.clicks(), batches)


def queries_since(eval_data: EvalData, from_ms: int) -> EvalQueries:
    """Every click from then on, oldest first."""
    is_since = eval_data.interactions.times_ms >= from_ms
    return event_queries(eval_data, np.flatnonzero(is_since & eval_data.target_mask))


def holdout_queries(eval_data: EvalData, holdout: Holdout) -> EvalQueries:
    """The last events where `holdout` leaves them out, otherwise the events since its time split."""
    if holdout.last_event or holdout.from_ms is None:
        return last_event_queries(eval_data)
    return queries_since(eval_data, holdout.from_ms)


def event_queries(eval_data: EvalData, targets: Int64) -> EvalQueries:
    """The events at these indices (ascending), oldest first."""
    return _event_queries(eval_data, targets, targets)


def pushed_order(eval_data: EvalData, queries: EvalQueries) -> EvalQueries:
    """The same queries, from the windows of all events before them, by the time of the newest event of each window.

    By their own time where there is none.
    """
    data = eval_data.interactions
    order = data.by_user()
    has_previous = data.users[order[1:]] == data.users[order[:-1]]
    pushed_ms = data.times_ms.copy()
    pushed_ms[order[1:][has_previous]] = data.times_ms[order[:-1][has_previous]]
    by_time = queries.targets[np.argsort(pushed_ms[queries.targets], kind="stable")]
    in_order = _event_queries(eval_data, queries.targets, by_time)
    return replace(in_order, popularity_mask=queries.popularity_mask)


def _event_queries(eval_data: EvalData, targets: Int64, in_order: Int64) -> EvalQueries:
    length = eval_data.settings.windows.length
    events, rows = eval_data.all_by_user()

    def batches() -> QueryBatches:
        for batch in split_batches(in_order):
            yield events.windows(rows[batch], length), batch

    return EvalQueries(targets, eval_data.target_mask, batches)


def frequent_item_queries(
    queries: EvalQueries, eval_data: EvalData, training_mask: Bool, min_item_events: int
) -> EvalQueries:
    """The queries whose target item has at least `min_item_events` events under `training_mask` [n]."""
    counts = np.bincount(eval_data.items[training_mask], minlength=len(eval_data.catalogue))  # [V]
    frequent = eval_data.target_mask.copy()  # [n]
    frequent[frequent] = counts[eval_data.items[frequent]] >= min_item_events

    def batches() -> QueryBatches:
        for windows, targets in queries.batches():
            kept = np.flatnonzero(frequent[targets])
            if len(kept):
                yield windows.take(kept), targets[kept]

    return EvalQueries(queries.targets[frequent[queries.targets]], queries.popularity_mask, batches)


def without_searches(windows: Windows) -> Windows:
    """The same windows with their clicks alone, aligned to the right."""
    searched = windows.items >= FIRST_SEARCH
    if not searched.any():
        return windows
    order = np.argsort(~searched & (windows.items != NO_ITEM), axis=1, kind="stable")  # [B, L]
    return Windows(
        items=np.take_along_axis(np.where(searched, np.int32(NO_ITEM), windows.items), order, axis=1),
        times_ms=np.take_along_axis(windows.times_ms, order, axis=1),
        actions=np.take_along_axis(np.where(searched, np.uint8(NO_ACTION), windows.actions), order, axis=1),
    )


def split_batches(indices: Int64, size: int = _BATCH_QUERIES) -> list[Int64]:
    """The indices in batches of `size`, in order; no batch where there are no indices."""
    return np.split(indices, range(size, len(indices), size)) if len(indices) else []


def _newest_of_each(users: Int32, count: int) -> Int64:
    """Rows of the newest `count` events of each user, of events in order of time."""
    return np.flatnonzero(splits.earlier(users[::-1])[::-1] < count)
