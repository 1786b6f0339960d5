"""One micro-batch, for all users in it together: from polled records to delivered lists.

    1. decode      what is no click goes aside to the dead letters
    2. windows     users are forgotten who asked for it, and every click moves its user's window
    3. recommend   new lists for the users whose window changed
    4. send        lists and dead letters
    5. commit      lists and dead letters, then changed windows, then the positions

With transactions 5 is one step. Without, a crash anywhere in it replays the batch, and its order is what makes that
right: were positions recorded before the windows, a crash would lose clicks; were windows delivered before the lists,
clicks that come again would change nothing and their lists would be lost.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from typing import Final

import numpy as np

from engine.arrays import FIRST_SEARCH, Bool, Clicks, Int32, Int64
from engine.catalogue import searches
from engine.catalogue.actions import Actions
from engine.catalogue.ids import Catalogue
from engine.eventlog.base import Outgoing, Records, Session
from engine.ingest.dead_letters import DeadLetter
from engine.ingest.decoder import ClickDecoder
from engine.metrics import Metrics
from engine.pipeline import Recommender
from engine.quality.sent_lists import PublishedLists
from engine.ranking.encode import ListHeads, encode_recommendations
from engine.ranking.lists import Lists
from engine.ranking.popularity import Popularity
from engine.releases.serving import LiveRelease
from engine.retrieval import features
from engine.settings.sections import Settings
from engine.windows.changelog import Changelog
from engine.windows.codec import WindowCodec
from engine.windows.store import Appended, Events, WindowStore

_REMEMBERED_LISTS: Final = 1 << 16
_FIRST_SWEEP = 1 << 18
"""Different searches, some 100 MB of them, before the first look for those that no window holds any more."""


@dataclass(frozen=True, slots=True)
class BatchReport:
    """What one batch did, for whoever watches."""

    clicks: int
    lists: int
    dead_letters: int
    freshness_ms: Int64
    """[lists] from the append of each list's newest click to the list's delivery."""


class Processor:
    """The windows of the assigned partitions and the release in use: all the state a worker has."""

    def __init__(
        self,
        settings: Settings,
        catalogue: Catalogue,
        metrics: Metrics,
        observe: Callable[[BatchReport], None] = lambda _report: None,
    ) -> None:
        self._settings = settings
        self._catalogue = catalogue
        self._metrics = metrics
        self._observe = observe
        self._actions = Actions(settings.clicks)
        self._decoder = ClickDecoder(settings.clicks, self._actions)
        self._windows = WindowStore(settings.windows)
        self.changelog = Changelog(settings, self._windows, WindowCodec(catalogue, self._actions))
        self._popularity = Popularity()
        self._recommender = Recommender(settings.recommendations, self._actions.weights, self._popularity)
        self._published = PublishedLists(_REMEMBERED_LISTS, settings.recommendations.count)
        self._evicted = 0
        self._sweep_at = _FIRST_SWEEP
        self.live: LiveRelease | None = None

    def swap(self, release: LiveRelease) -> None:
        """Serve by this release from the next batch on."""
        if self.live is None:
            self._popularity.seed(release.numbers, release.popularity)
        else:
            self._metrics.release.labels(self.live.manifest.model, self.live.manifest.version).set(0)
        self.live = release
        learned = release.manifest.action_values
        weights = features.action_weights(self._actions.weights, self._actions.codes, learned)
        self._recommender = replace(self._recommender, action_weights=weights)
        self._metrics.release.labels(release.manifest.model, release.manifest.version).set(1)
        self._metrics.release_swaps.inc()
        self._metrics.index_items.set(len(release.index))

    def forget_lists(self) -> None:
        """Judge no click by the lists published so far: other workers publish for their users from now on."""
        self._published.clear()

    def clear(self) -> None:
        """Drop every window: they belong to a session, and the next one starts from the last commit."""
        self.changelog.clear()
        self.forget_lists()

    def sweep_searches(self) -> None:
        """Drop the words that no window holds any more, when many have come since the last time.

        All windows are looked through, so it is rarely done. Numbers of searches change: nobody may hold any but the
        windows and the release in use.
        """
        if self._catalogue.searches < self._sweep_at:
            return
        held = self._windows.searches(self._catalogue.searches)
        self._windows.renumber_searches(held)
        self._catalogue.keep_searches(held)
        if self.live is not None:
            self.live.forget_searches()
        self._sweep_at = max(_FIRST_SWEEP, 2 * len(held))

    def set_gauges(self) -> None:
        """Bring the metrics of sizes up to date."""
        self._metrics.users.set(len(self._windows))
        self._metrics.window_bytes.set(self._windows.nbytes)
        self._metrics.evicted_users.set(self._windows.evicted)
        self._metrics.items.set(len(self._catalogue))
        self._metrics.held_searches.set(self._catalogue.searches)

    def process(self, polled: Sequence[Records], session: Session) -> None:
        """Steps 1 to 5 of the module's page.

        Raises:
            EventLogError: the outputs could not be delivered or the positions not recorded.
        """
        stage = self._metrics.stage
        now_ms = time.time_ns() // 1_000_000
        with stage("decode"):
            clicks, dead = self._decoder.decode(polled, now_ms)
        with stage("windows"):
            gone = self._forget(clicks, polled)
            events = self._events(clicks, polled)
            self._judge_next_clicks(events)
            appended = self._windows.append(events)
            windows = self._windows.read(appended.changed)
        live = self.live
        if live is None:
            raise RuntimeError("a batch was polled before any release was live")
        lists = self._recommender.recommend(windows, live, stage)
        newest = _newest_click(events.slots, appended.changed)  # [B] index of each user's last click in the batch
        with stage("messages"):
            heads = _heads(clicks, polled, newest, windows.times_ms[:, -1], live.name)
            sent = self._worth_sending(appended.changed, lists)
            outgoing = self._list_messages(lists, heads, sent, gone)
            changes = self.changelog.changes(appended.changed, gone)
        with stage("deliver"):
            session.send(outgoing)
            if dead:
                session.send(self._dead_letter_messages(dead))
            ends = session.commit({records.partition: records.offsets[-1] + 1 for records in polled}, [changes])
            self.changelog.wrote(ends)
        self._published.put(appended.changed, lists.items)
        appends_ms = np.concatenate([records.timestamps_ms for records in polled])[clicks.origins[newest[sent]]]
        self._metrics.unchanged_lists.inc(int((~sent).sum()))
        self._count(clicks, dead, appended, lists, time.time_ns() // 1_000_000 - appends_ms)

    def _events(self, clicks: Clicks, polled: Sequence[Records]) -> Events:
        """The clicks in numbers, users as slots and items as catalogue numbers."""
        partitions = _partitions(polled)[clicks.origins]
        self.changelog.reload(clicks.users)
        events = Events(
            slots=self._windows.slots(clicks.users, partitions),
            items=self._catalogue.numbers(clicks.items),
            times_ms=clicks.times_ms,
            actions=clicks.actions,
            event_hashes=clicks.event_hashes,
        )
        if self._windows.evicted != self._evicted:  # in this batch, or when windows were restored before it
            self._evicted = self._windows.evicted
            self._published.clear()  # slots have gone to other users
        return events

    def _forget(self, clicks: Clicks, polled: Sequence[Records]) -> list[tuple[str, int]]:
        """Drop the windows of users who asked for it; returns who has no click since then, each with the partition."""
        if not clicks.forgotten:
            return []
        partitions = _partitions(polled)
        for user in clicks.forgotten:
            self.changelog.forget(user)
        self._published.clear()
        back = set(clicks.users)
        return [(user, int(partitions[origin])) for user, origin in clicks.forgotten.items() if user not in back]

    def _judge_next_clicks(self, events: Events) -> None:
        """Was the clicked item in the list that was already published? And among as many popular ones?"""
        wanted: Bool = (self._actions.weights[events.actions] > 0) & (events.items < FIRST_SEARCH)
        slots, items = events.slots[wanted], events.items[wanted]
        known, hits = self._published.hits(slots, items)
        popular = np.isin(items[known], self._popularity.top(self._settings.recommendations.count))
        self._metrics.next_clicks.inc(int(known.sum()))
        self._metrics.next_click_hits.inc(int(hits.sum()))
        self._metrics.next_click_popular_hits.inc(int(popular.sum()))
        self._popularity.add(items, events.times_ms[wanted])

    def _worth_sending(self, slots: Int32, lists: Lists) -> Bool:
        """[B] whether each list is to be sent."""
        if self._settings.recommendations.resend_unchanged:
            return np.ones(len(slots), np.bool_)
        return ~self._published.same(slots, lists.items)

    def _list_messages(self, lists: Lists, heads: ListHeads, sent: Bool, gone: list[tuple[str, int]]) -> Outgoing:
        """Lists to be sent, and nulls in the place of the last lists of users who are gone."""
        messages = encode_recommendations(lists, heads, self._catalogue.ids)
        values: list[bytes | None] = [*compress(messages, sent), *[None] * len(gone)]
        keys: list[bytes | None] = [
            user.encode() for user in [*compress(heads.users, sent), *(user for user, _ in gone)]
        ]
        return Outgoing(self._settings.recommendations.topic, keys, values)

    def _dead_letter_messages(self, dead: list[DeadLetter]) -> Outgoing:
        return Outgoing(
            topic=self._settings.clicks.dead_letter_topic,
            keys=[letter.key for letter in dead],
            values=[letter.value for letter in dead],
            headers=[letter.as_headers() for letter in dead],
        )

    def _count(
        self, clicks: Clicks, dead: list[DeadLetter], appended: Appended, lists: Lists, freshness_ms: Int64
    ) -> None:
        metrics = self._metrics
        metrics.clicks.inc(len(clicks))
        metrics.searches.inc(sum(map(searches.is_search, clicks.items)))
        metrics.batch_clicks.observe(len(clicks))
        metrics.lists.inc(len(freshness_ms))
        for letter in dead:
            metrics.dead_letters.labels(letter.reason).inc()
        if clicks.without_consent:
            metrics.dropped_events.labels("no_consent").inc(clicks.without_consent)
        metrics.forgotten_users.inc(len(clicks.forgotten))
        for reason in ("repeated", "late", "expired"):
            if count := getattr(appended, reason):
                metrics.dropped_events.labels(reason).inc(count)
        for reason, count in lists.removed.items():
            metrics.removed_candidates.labels(reason).inc(count)
        for milliseconds in freshness_ms.tolist():
            metrics.freshness.observe(max(0, milliseconds) / 1000)
        self._observe(BatchReport(len(clicks), len(freshness_ms), len(dead), freshness_ms))


def _partitions(polled: Sequence[Records]) -> Int32:
    """[n] the partition number of each polled record."""
    numbers = np.array([records.partition.number for records in polled], np.int32)
    return np.repeat(numbers, [len(records) for records in polled])


def _newest_click(slots: Int32, changed: Int32) -> Int64:
    """[B] index of the last click of each changed slot; `changed` is ascending."""
    newest = np.zeros(len(changed), np.int64)
    place = np.minimum(np.searchsorted(changed, slots), len(changed) - 1)
    of_changed = np.flatnonzero(changed[place] == slots) if len(changed) else np.empty(0, np.int64)
    np.maximum.at(newest, place[of_changed], of_changed)
    return newest


def _heads(clicks: Clicks, polled: Sequence[Records], newest: Int64, event_ms: Int64, release: str) -> ListHeads:
    """Heads of B lists, each named after its user's newest click [B] in the batch."""
    places = [(records.partition.number, offset) for records in polled for offset in records.offsets]
    origins = [places[origin] for origin in clicks.origins[newest].tolist()]
    return ListHeads(
        ids=[f"{partition}-{offset}-{release}" for partition, offset in origins],
        users=[clicks.users[index] for index in newest.tolist()],
        event_ms=event_ms.tolist(),
        release=release,
        computed_ms=time.time_ns() // 1_000_000,
    )
