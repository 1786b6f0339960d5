"""What is asked: recorded events as the engine would meet them, and the windows before each event asked for.

    last event       the newest click of every user, from the window of all before it
    since a time     every click from then on, from the window of all the user's events before it
    chosen events    these, from the windows of all their users' events before them, in order of time

Searches stand in windows, and are not asked for. Item numbers are those of the interactions, in the engine's catalogue
too, so that a release and a baseline speak of the same item.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from engine.arrays import FIRST_SEARCH, NO_ACTION, NO_ITEM, Bool, Float32, Int32, Int64, UInt8, Windows
from engine.catalogue.actions import Actions
from engine.catalogue.ids import Catalogue
from engine.releases.bundles import Manifest
from engine.retrieval import features
from engine.settings.sections import Settings
from engine.windows.store import Events, WindowStore
from models.data import histories, splits
from models.data.action_names import ActionCodes, warn_of_unnamed
from models.data.dataset import Interactions
from models.data.histories import Histories

LISTED: Final = 20
"""N: items per list asked for."""
_BATCH_USERS: Final = 256


class EvalData:
    """Recorded interactions in the engine's terms: catalogue numbers, action codes and windows."""

    def __init__(self, interactions: Interactions, settings: Settings) -> None:
        """`settings`: how clicks count and windows are kept; lists are `LISTED` long and every user has room."""
        self.interactions = interactions
        self.settings = settings.model_copy(
            update={
                "recommendations": settings.recommendations.model_copy(update={"count": LISTED}),
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
        self.weights, self._codes = actions.weights, actions.codes
        clicks = interactions.clicks()
        self.wanted: Bool = clicks & (actions.weights[self.actions] > 0.0)  # [n] what a list should have held

    def weights_for(self, release: Manifest) -> Float32:
        """[256] weight by action code when this release serves."""
        return features.action_weights(self.weights, self._codes, release.action_values)

    def by_user(self, mask: Bool) -> Histories:
        """The events under `mask` [n], user by user."""
        order, starts = histories.by_user(self.interactions.users, len(self.interactions.user_ids))
        every_event = Histories(self.items[order], self.interactions.times_ms[order], self.actions[order], starts)
        return every_event.select(mask[order])

    def store(self, until: Int64) -> WindowStore:
        """Windows of all users, slot by user number, as they are after the events at `until` (places, ascending)."""
        store = WindowStore(self.settings.windows)
        store.slots(self.interactions.user_ids, np.zeros(len(self.interactions.user_ids), np.int32))
        store.append(self.events(until[_newest_of_each(self.interactions.users[until], store.length)]))
        return store

    def events(self, places: Int64) -> Events:
        """The events at these places, for a store of `store`."""
        return Events(
            slots=self.interactions.users[places],
            items=self.items[places],
            times_ms=self.interactions.times_ms[places],
            actions=self.actions[places],
            event_hashes=np.zeros(len(places), np.uint32),
        )


@dataclass(frozen=True, slots=True)
class EvalQueries:
    """Events to ask for, and the windows to ask from."""

    targets: Int64
    """Places of the events asked for, ascending."""
    counted: Bool
    """[n] events that popularity may count in their time."""
    ask: Callable[[], Iterator[tuple[Windows, Int64]]]
    """Windows [B] and the places [B] of their targets, until every target was asked for."""


def last_event(recording: EvalData) -> EvalQueries:
    """Each user's newest click, where there is an event before it."""
    data = recording.interactions
    last = splits.newest(data)
    history = splits.earlier(data.users) > 0
    targets = np.flatnonzero(last & history & recording.wanted)

    def ask() -> Iterator[tuple[Windows, Int64]]:
        store = recording.store(np.flatnonzero(~last))
        for part in _parts(targets):
            yield store.read(data.users[part]), part

    return EvalQueries(targets, ~last & data.clicks(), ask)


def since(recording: EvalData, from_ms: int) -> EvalQueries:
    """Every event from then on, the k-th of every user at once, k = 1, 2, ...: users do not know of one another."""
    data = recording.interactions
    before = data.times_ms < from_ms

    def ask() -> Iterator[tuple[Windows, Int64]]:
        store = recording.store(np.flatnonzero(before))
        for places in _steps(data.users, np.flatnonzero(~before)):
            for part in _parts(places[recording.wanted[places]]):
                yield store.read(data.users[part]), part
            store.append(recording.events(places))

    return EvalQueries(np.flatnonzero(~before & recording.wanted), recording.wanted, ask)


def chosen(recording: EvalData, targets: Int64) -> EvalQueries:
    """The events at these places (ascending), oldest first."""
    data, length = recording.interactions, recording.settings.windows.length
    events = recording.by_user(np.ones(len(data), np.bool_))
    by_user = np.empty(len(data), np.int64)  # [n] where each event stands among `events`
    by_user[data.by_user()] = np.arange(len(data))

    def ask() -> Iterator[tuple[Windows, Int64]]:
        for part in _parts(targets):
            yield events.windows(by_user[part], length), part

    return EvalQueries(targets, recording.wanted, ask)


def about_frequent_items(asked: EvalQueries, recording: EvalData, learned: Bool, least: int) -> EvalQueries:
    """Those about items with at least so many of the events that were `learned` [n]."""
    counts = np.bincount(recording.items[learned], minlength=len(recording.catalogue))  # [V]
    frequent = recording.wanted.copy()  # [n]
    frequent[frequent] = counts[recording.items[frequent]] >= least

    def ask() -> Iterator[tuple[Windows, Int64]]:
        for windows, targets in asked.ask():
            kept = np.flatnonzero(frequent[targets])
            if len(kept):
                yield windows.take(kept), targets[kept]

    return EvalQueries(asked.targets[frequent[asked.targets]], asked.counted, ask)


def without_searches(windows: Windows) -> Windows:
    """The same windows with nothing but their clicks, which stand at the right as ever."""
    searched = windows.items >= FIRST_SEARCH
    if not searched.any():
        return windows
    order = np.argsort(~searched & (windows.items != NO_ITEM), axis=1, kind="stable")  # [B, L]
    return Windows(
        items=np.take_along_axis(np.where(searched, np.int32(NO_ITEM), windows.items), order, axis=1),
        times_ms=np.take_along_axis(windows.times_ms, order, axis=1),
        actions=np.take_along_axis(np.where(searched, np.uint8(NO_ACTION), windows.actions), order, axis=1),
    )


def _parts(places: Int64) -> list[Int64]:
    return np.split(places, range(_BATCH_USERS, len(places), _BATCH_USERS)) if len(places) else []


def _steps(users: Int32, places: Int64) -> Iterator[Int64]:
    """The places by turn: every user's first, then every user's second, and so on."""
    turns = splits.earlier(users[places])
    by_turn = np.argsort(turns, kind="stable")
    yield from np.split(places[by_turn], np.flatnonzero(np.diff(turns[by_turn])) + 1)


def _newest_of_each(users: Int32, count: int) -> Int64:
    """Places of the newest `count` events of each user, of events in order of time."""
    return np.flatnonzero(splits.earlier(users[::-1])[::-1] < count)
