"""Requests as the engine computes them: many lists at once, by the path that a worker's windows take."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from engine.arrays import NO_ACTION, NO_ITEM, Int32, Windows
from engine.catalogue import searches
from engine.catalogue.actions import Actions
from engine.catalogue.labels import Label
from engine.errors import RequestError
from engine.messages.recommendation import Recommendation
from engine.pipeline import Recommender
from engine.ranking.encode import ListHeads, recommendations
from engine.releases.serving import LiveRelease
from engine.view.http_messages import SessionEvent
from engine.view.standby import Standby
from engine.windows.slots import NO_SLOT
from engine.windows.store import Events, WindowStore

_STEP_MS: Final = 60_000
"""Between the events of a session that have no times."""


@dataclass(frozen=True, slots=True)
class ListOptions:
    """Settings of a list that a request may replace; None for those of the section `recommendations`."""

    count: int | None = None
    diversity: float | None = None
    exclude_seen: bool | None = None
    exclude_where: tuple[Label, ...] = ()
    """Labels: no item that has one of them is listed."""


@dataclass(frozen=True, slots=True)
class ListQuery:
    """One list to compute."""

    user: str = ""
    """Empty for a session."""
    session: Sequence[SessionEvent] | None = None
    """Events in place of a user's window."""
    window: Windows | None = None
    """[1, L] the window itself, in place of both."""
    exclude: tuple[str, ...] = ()
    time_ms: int | None = None
    """Events after this time do not count."""
    options: ListOptions = ListOptions()


@dataclass(frozen=True, slots=True)
class WindowQuery:
    """A list's query with the window that answered it: all that the next page needs."""

    query: ListQuery
    window: Windows
    """[1, L]"""
    sweeps: int
    """Of the catalogue when it was computed: after another one the numbers of the window may be other items'."""

    def without(self, shown: tuple[str, ...]) -> ListQuery:
        """The query of the next page, which leaves out the items of the pages before it."""
        query = self.query
        return replace(query, window=self.window, session=None, exclude=(*query.exclude, *shown))


@dataclass(frozen=True, slots=True)
class ComputedList:
    """A list, and what it was computed from."""

    source: WindowQuery
    recommendation: Recommendation


class Responder:
    """Computes answers from the windows and the release of a standby; belongs to the standby's thread."""

    def __init__(self, standby: Standby) -> None:
        self.standby = standby
        self._settings = standby.settings

    def serving(self) -> tuple[LiveRelease, Recommender]:
        """The release in use and its recommender.

        Raises:
            RequestError: no release is live yet.
        """
        live, recommender = self.standby.live, self.standby.recommender
        if live is None or recommender is None:
            raise RequestError(
                f"releases: found none that is live, expected one of model {self._settings.releases.model!r}; announce"
                " one with `headrace publish` and ask again"
            )
        return live, recommender

    def lists(self, queries: Sequence[ListQuery]) -> list[ComputedList]:
        """Lists of many requests; those with the same options are computed as one batch."""
        live, recommender = self.serving()
        windows = self.windows(queries)
        by_options: dict[ListOptions, list[int]] = {}
        for index, query in enumerate(queries):
            by_options.setdefault(query.options, []).append(index)
        computed: dict[int, ComputedList] = {}
        for options, indices in by_options.items():
            part = [queries[index] for index in indices]
            batch = windows.take(np.array(indices, np.int64))
            computed |= zip(indices, self._batch(part, batch, live, _tuned(recommender, options)), strict=True)
        return [computed[index] for index in range(len(queries))]

    def windows(self, queries: Sequence[ListQuery]) -> Windows:
        """[B, L] the windows of B requests; that of an unknown user is empty."""
        shape = (len(queries), self._settings.windows.length)
        windows = Windows(
            np.full(shape, NO_ITEM, np.int32), np.zeros(shape, np.int64), np.full(shape, NO_ACTION, np.uint8)
        )
        self._put_held(windows, queries)
        for index, query in enumerate(queries):
            if query.session is not None:
                _put(windows, index, self._session(query.session))
            if query.window is not None:
                _put(windows, index, query.window)
            if query.time_ms is not None:
                later = windows.times_ms[index] > query.time_ms
                windows.items[index, later] = NO_ITEM
                windows.actions[index, later] = NO_ACTION
                windows.times_ms[index, later] = 0
        return windows

    def _put_held(self, windows: Windows, queries: Sequence[ListQuery]) -> None:
        """Fill in the windows of the users that are held."""
        indices = [index for index, query in enumerate(queries) if query.user and query.window is None]
        users = [queries[index].user for index in indices]
        held, store = self.standby.windows, self.standby.windows.store
        held.reload(users)
        slots = store.user_slots.lookup(users)
        rows = np.array(indices, np.int64)[slots != NO_SLOT]
        stored = store.read(slots[slots != NO_SLOT])
        windows.items[rows], windows.times_ms[rows] = stored.items, stored.times_ms
        windows.actions[rows] = stored.actions

    def _session(self, session: Sequence[SessionEvent]) -> Windows:
        """[1, L] the window after the events of a session; those on items without a number are passed over."""
        now_ms = self.standby.time.now_ms()
        untimed_ms = [now_ms - _STEP_MS * steps for steps in range(len(session) - 1, -1, -1)]
        numbers = self._numbers(session)
        store = WindowStore(self._settings.windows.model_copy(update={"max_users": 1}))
        slots = store.slots([""], np.zeros(1, np.int32))
        times_ms = [
            own_ms if event.time_ms is None else event.time_ms
            for event, own_ms in zip(session, untimed_ms, strict=True)
        ]
        events = Events(
            slots=np.repeat(slots, len(session)),
            items=numbers,
            times_ms=np.array(times_ms, np.int64),
            actions=np.array([self._action(event) for event in session], np.uint8),
            event_hashes=np.zeros(len(session), np.uint32),
        )
        store.append(events.take(numbers != NO_ITEM))
        return store.read(slots)

    def _numbers(self, session: Sequence[SessionEvent]) -> Int32:
        """[n] numbers of items and searches; NO_ITEM for an item without one, and for words that are none.

        A search that nobody made before gets a number, which is taken back with those that no window holds.
        """
        catalogue = self.standby.catalogue
        numbers = catalogue.known([event.item or "" for event in session])
        for index, event in enumerate(session):
            if event.item is None and (search := searches.id_of(event.search or "")) != searches.MARK:
                numbers[index] = catalogue.numbers([search])[0]
        return numbers

    def _action(self, event: SessionEvent) -> int:
        name = self._settings.clicks.search_action if event.item is None else event.action
        return self.standby.actions.code(name)

    def _excluded(self, queries: Sequence[ListQuery], live: LiveRelease) -> Int32 | None:
        """[B, E] numbers of the items that each list must not hold; None where there are none."""
        labels, where = live.labels, queries[0].options.exclude_where  # those of one batch are the same
        with_labels = live.numbers[labels.rows(where)] if labels and where else np.empty(0, np.int32)
        known = self.standby.catalogue.known
        return _padded([np.concatenate([known(query.exclude), with_labels]) for query in queries])

    def _batch(
        self, queries: Sequence[ListQuery], windows: Windows, live: LiveRelease, recommender: Recommender
    ) -> list[ComputedList]:
        excluded = self._excluded(queries, live)
        lists = recommender.recommend(windows, live, self.standby.metrics.stage, excluded)
        heads = ListHeads(
            ids=[new_decision() for _ in queries],
            users=[query.user for query in queries],
            event_ms=windows.times_ms.max(axis=1).tolist(),
            release=live.name,
            computed_ms=self.standby.time.now_ms(),
        )
        messages = recommendations(lists, heads, self.standby.catalogue.ids)
        sweeps = self.standby.catalogue.sweeps
        return [
            ComputedList(WindowQuery(query, _window(windows, row), sweeps), message)
            for row, (query, message) in enumerate(zip(queries, messages, strict=True))
        ]


def check_events(events: Sequence[SessionEvent], actions: Actions) -> None:
    """Refuse actions that the settings do not have, and events without item and words.

    Raises:
        RequestError: names the event.
    """
    for index, event in enumerate(events):
        if event.item is None and event.search is None:
            raise RequestError(
                f"events[{index}].item: found neither an item nor a search, expected one of them; name the item that"
                " was clicked, or the words that were searched for"
            )
        if event.action is not None and event.action not in actions.codes:
            raise RequestError(
                f"events[{index}].action: found {event.action!r}, expected one of {', '.join(actions.codes)}; leave it"
                " out, or give it a weight in the setting clicks.actions"
            )


def new_decision() -> str:
    """An id that nobody can guess."""
    return secrets.token_urlsafe(12)


def _tuned(recommender: Recommender, options: ListOptions) -> Recommender:
    """The recommender with those of the options that are not None."""
    names = ("count", "diversity", "exclude_seen")
    replaced = {name: value for name in names if (value := getattr(options, name)) is not None}
    return replace(recommender, settings=recommender.settings.model_copy(update=replaced)) if replaced else recommender


def _put(windows: Windows, index: int, window: Windows) -> None:
    windows.items[index], windows.times_ms[index] = window.items[0], window.times_ms[0]
    windows.actions[index] = window.actions[0]


def _window(windows: Windows, row: int) -> Windows:
    """[1, L] one of the windows, without a copy."""
    rows = slice(row, row + 1)
    return Windows(windows.items[rows], windows.times_ms[rows], windows.actions[rows])


def _padded(columns: Sequence[Int32]) -> Int32 | None:
    """[B, E] B arrays as rows, NO_ITEM after the end of the shorter ones; None where all are empty."""
    longest = max(map(len, columns), default=0)
    if not longest:
        return None
    rows = [np.pad(column, (0, longest - len(column)), constant_values=NO_ITEM) for column in columns]
    return np.array(rows, np.int32)
