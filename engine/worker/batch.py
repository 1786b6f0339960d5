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

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import compress
from typing import Final

import numpy as np

from engine.arrays import FIRST_SEARCH, Bool, Clicks, ForgetRequest, Int8, Int32, Int64, UInt64, Windows
from engine.catalogue import searches
from engine.catalogue.actions import Actions
from engine.catalogue.ids import Catalogue
from engine.errors import DeliveryError, RecordRefusedError
from engine.eventlog.base import Outgoing, Partition, Records, Session
from engine.eventlog.murmur2 import partition_of
from engine.eventlog.time_source import TimeSource
from engine.ingest.dead_letters import DeadLetter
from engine.ingest.decoder import ClickDecoder
from engine.messages import list_ids
from engine.metrics import Metrics
from engine.pipeline import Recommender, begin_counts
from engine.quality.drift import DriftCounts
from engine.quality.experiment import CANARY, CLUSTERS
from engine.quality.next_click import PLACES, NextClickJudge, target_ranks
from engine.quality.sent_lists import SentLists
from engine.ranking import interleave
from engine.ranking.click_counts import ClickCounts
from engine.ranking.encode import ListHeads, encode_recommendations
from engine.ranking.lists import Lists
from engine.releases.arms import NO_GROUP
from engine.releases.release_loader import Canary, RunningExperiment
from engine.releases.serving import LiveRelease
from engine.retrieval import features
from engine.settings.sections import RecommendationSettings, Settings
from engine.windows.store import Appended, Events
from engine.windows.users import UserWindows
from engine.worker.dead_letter_outbox import DeadLetterOutbox
from engine.worker.impression_follower import ImpressionFollower
from engine.worker.key_watch import KeyWatch
from engine.worker.shown_exposure import ShownExposure
from engine.worker.tracing import Tracing
from engine.worker.trials import ServedTrial, Serving, open_trial

logger = logging.getLogger(__name__)

_SENT_LISTS: Final = 1 << 16
"""Users whose last list is remembered, for next-click judgement and for finding unchanged lists."""


@dataclass(frozen=True, slots=True)
class BatchReport:
    """Counts and freshness of one batch, for observers."""

    clicks: int
    lists: int
    dead_letters: int
    freshness_ms: Int64
    """[lists] from the append of each list's newest click to the list's delivery."""


@dataclass(slots=True)
class _Forgetting:
    """Users who are forgotten with a batch."""

    held: set[str] = field(default_factory=set)
    """Those who had a window here."""
    places: dict[tuple[str, int], None] = field(default_factory=dict)
    """Users and partitions, those of requests and those of windows."""
    lists: dict[str, None] = field(default_factory=dict)
    """Users whose last list gets a null in its place."""


@dataclass(frozen=True, slots=True)
class _ArmLists:
    """The lists of the users of a batch who are served by one release."""

    users: Int64
    """[b] indices into the B users of the batch."""
    release: str
    lists: Lists
    sent: Bool
    """[b] whether each list is to be sent."""
    teams: Int8 | None = None
    """[b, N] release of each place, where the live one and the canary made the lists together."""
    arm: int = NO_GROUP
    """Index of the users' arm in a canary or experiment."""


class Processor:
    """The windows of the assigned partitions and the release in use: all the state a worker has."""

    def __init__(
        self,
        settings: Settings,
        catalogue: Catalogue,
        metrics: Metrics,
        observe: Callable[[BatchReport], None] = lambda _report: None,
        time: TimeSource | None = None,
    ) -> None:
        self._settings = settings
        self.tracing = Tracing()
        """Opened around each stage; none unless the worker has one."""
        self._time = time or TimeSource()
        self._catalogue = catalogue
        self._metrics = metrics
        self._observe = observe
        self._actions = Actions(settings.clicks)
        self._decoder = ClickDecoder(settings.clicks, self._actions)
        self._dead_letters = DeadLetterOutbox(settings.clicks.dead_letter_topic, metrics)
        self.windows = UserWindows(settings, catalogue, self._actions)
        self._counts = ClickCounts(settings, self._actions.weights, self.windows.store)
        self._sent = SentLists(_SENT_LISTS, settings.recommendations.count)
        self.windows.store.user_slots.subscribe(released=self._sent.forget)
        self._judge = NextClickJudge(
            self._sent, self._counts.popularity, exclude_seen=settings.recommendations.exclude_seen
        )
        self._drift = DriftCounts(metrics)
        self._serving: Serving | None = None
        self._trial: ServedTrial | None = None
        self._key_watch = KeyWatch(self.windows, metrics)
        self._partitions = 1

    def expect(self, topic: str, partitions: int) -> None:
        """Clicks come from this topic, which has so many partitions."""
        self._partitions = partitions
        self._key_watch.expect(topic, partitions)

    @property
    def live(self) -> LiveRelease | None:
        """The release in use; None before the first."""
        return self._serving.live if self._serving else None

    def swap(self, release: LiveRelease) -> None:
        """Serve by this release from the next batch on."""
        begin_counts(self._counts, release)
        if self._serving is not None:
            previous = self._serving.live.manifest
            self._metrics.release.labels(previous.model, previous.version).set(0)
        self.serve_trial(None)
        self._serving = self._serving_by(release, self._settings.recommendations)
        self._drift.add_release(release)
        self._metrics.release.labels(release.manifest.model, release.manifest.version).set(1)
        self._metrics.release_swaps.inc()
        self._metrics.index_items.set(len(release.index))
        self._metrics.index_recall.set(release.recall)

    def serve_trial(self, trial: Canary | RunningExperiment | None, follower: ImpressionFollower | None = None) -> None:
        """Serve shares of the users by its arms from the next batch on; None serves all by the live release.

        Args:
            trial: the canary or experiment.
            follower: of impressions, where the trial is judged by them; it is started here, and closed with the trial.
        """
        if self._trial is not None:
            self._trial.close()
        self._trial = None
        self._sent.forget_groups()
        if trial is not None and self._serving is not None:
            self._trial = open_trial(trial, self._serving, self._serving_by, self._settings)
            if follower is not None:
                is_held, arms = self.windows.holds, self._trial.arms
                self._trial = replace(
                    self._trial, shown=ShownExposure(arms, follower, is_held, self._metrics, self._time)
                )

    def _serving_by(self, release: LiveRelease, settings: RecommendationSettings) -> Serving:
        learned = release.manifest.action_values
        weights = features.action_weights(self._actions.weights, self._actions.codes, learned)
        counts = self._counts
        return Serving(release, Recommender(settings, weights, counts.popularity, counts.neighbours))

    def restored(self, partitions: Sequence[int]) -> None:
        """The windows of these partitions are here; they are counted step by step (`count_restored`)."""
        self._counts.restored(partitions)
        if self._trial is not None and self._trial.shown is not None:
            self._trial.shown.restored()

    def count_restored(self) -> bool:
        """Count some restored windows; whether there are more."""
        self._counts.step()
        return self._counts.waits

    def take_impressions(self) -> bool:
        """Take some reports of what was shown, where clicks are judged by that; whether there are more."""
        return self._trial is not None and self._trial.shown is not None and self._trial.shown.step()

    def hand_over(self, partitions: Sequence[int]) -> None:
        """Judge no click by the lists sent to users of these partitions: other workers send theirs from now on."""
        self._counts.given_up(partitions)
        for number in partitions:
            self._sent.forget(self.windows.store.held(number))

    def clear(self) -> None:
        """Drop every window: they belong to a session, and the next one starts from the last commit."""
        self._counts.given_up(range(self._partitions))
        self.windows.clear()
        if self._trial is not None:
            self._trial.begin_session()

    def sweep(self) -> None:
        """Free what the catalogue holds for no window and no release, when much has come since the last sweep.

        Numbers change or go to other items, so nobody else may keep any: not a snapshot under way, nor a restore.
        """
        sweep = self.windows.sweep()
        if sweep.searches:
            for release in self._releases():
                release.forget_searches()
        if len(sweep.items):
            self._counts.forget_items(sweep.items)
            self._sent.forget_items(sweep.items)
            self._drift.ages.forget(sweep.items)
            self._metrics.freed_items.inc(len(sweep.items))

    def _releases(self) -> Iterator[LiveRelease]:
        """The releases in use."""
        if self._serving is not None:
            yield self._serving.live
        if self._trial is not None:
            yield from self._trial.releases()

    def set_gauges(self) -> None:
        """Bring the metrics of sizes up to date."""
        self._metrics.users.set(len(self.windows))
        self._metrics.window_bytes.set(self.windows.store.nbytes)
        self._metrics.evicted_users.set(self.windows.store.user_slots.evicted)
        self._metrics.unspilled_users.set(self.windows.unspilled)
        self._metrics.items.set(len(self._catalogue))
        self._metrics.held_searches.set(self._catalogue.searches)
        self._metrics.stream_items.set(0 if self._counts.neighbours is None else len(self._counts.neighbours))

    def process(self, polled: Sequence[Records], session: Session) -> None:
        """Steps 1 to 5 of the module's page.

        Raises:
            EventLogError: the outputs could not be delivered or the positions not recorded.
        """
        stage = self.tracing.stage(self._metrics.stage)
        now_ms = self._time.now_ms()
        with stage("decode"):
            clicks, dead = self._decoder.decode(polled, now_ms)
        with stage("windows"):
            forgetting = self._forget(clicks)
            events = self.windows.locate(clicks)
            self._key_watch.look(clicks, events.slots)
            self._judge_next_clicks(clicks, events)
            self._counts.before(events.slots)
            appended = self.windows.update(events)
            windows = self.windows.read(appended.changed)
            self._counts.after(appended.changed, windows)
            tombstones = self._tombstones(forgetting)
        if self._serving is None:
            raise RuntimeError("a batch was polled before any release was live")
        newest = _newest_click(events.slots, appended.changed)  # [B] index of each user's last click in the batch
        groups = self._groups(clicks, newest)
        arms = [*self._arm_lists(self._serving, groups, windows, appended.changed)]
        with stage("messages"):
            outgoing = self._list_messages(arms, clicks, newest, windows, [*forgetting.lists])
            answered = [newest[arm.users][arm.sent] for arm in arms]  # the clicks of the lists, in their order
            outgoing = self.tracing.marked(outgoing, clicks, np.concatenate([newest[:0], *answered]))
            positions = {records.partition: records.offsets[-1] + 1 for records in polled}
            inputs = {partition.number: position for partition, position in positions.items()}
            changes = self.windows.changes(appended.changed, tombstones, inputs)
        with stage("deliver"):
            self.windows.wrote(self._deliver(session, outgoing, dead, positions, changes))
        sent = np.zeros(len(newest), np.bool_)
        for arm in arms:
            arm_groups = groups if groups is None else groups[arm.users]
            self._sent.put(appended.changed[arm.users], arm.lists.items, arm.release, arm_groups, arm.teams)
            sent[arm.users] = arm.sent
            for reason, count in arm.lists.removed.items():
                self._metrics.removed_candidates.labels(reason).inc(count)
        self._metrics.unchanged_lists.inc(int((~sent).sum()))
        self._metrics.forgotten_users.inc(len(forgetting.held))
        self._count(clicks, dead, appended, self._time.now_ms() - clicks.appends_ms[newest[sent]])

    def _groups(self, clicks: Clicks, newest: Int64) -> Int32 | None:
        """[B] group of each user in the canary or experiment; None where there is none."""
        if self._trial is None:
            return None
        return self._trial.arms.listed([clicks.users[index] for index in newest.tolist()])

    def _arm_lists(self, live: Serving, groups: Int32 | None, windows: Windows, slots: Int32) -> Iterator[_ArmLists]:
        """Lists of B users with windows [B, L], slots [B] and groups [B], by the releases that serve them."""
        trial = self._trial
        if groups is None or trial is None:
            yield self._by_one(live, windows, np.arange(len(windows)), slots)
            return
        arms = groups // CLUSTERS  # that of NO_GROUP is -1: the live release
        for arm in np.unique(arms).tolist():
            users = np.flatnonzero(arms == arm)
            if arm == CANARY and trial.arms.interleaves:
                seeds = windows.times_ms[users, -1].astype(np.uint64) ^ groups[users].astype(np.uint64)
                yield self._by_both(trial.servings, windows, users, slots, seeds)
            elif arm == NO_GROUP:
                yield self._by_one(live, windows, users, slots)
            else:
                yield self._by_one(trial.servings[arm], windows, users, slots, arm)

    def _by_one(self, serving: Serving, windows: Windows, users: Int64, slots: Int32, arm: int = NO_GROUP) -> _ArmLists:
        """Lists of some users [b] of a batch by one release."""
        lists = self._recommend(serving, windows, users)
        self._drift.add_lists(serving.live, lists)
        return _ArmLists(users, serving.live.name, lists, self._worth_sending(slots[users], lists), arm=arm)

    def _by_both(
        self, both: Sequence[Serving], windows: Windows, users: Int64, slots: Int32, seeds: UInt64
    ) -> _ArmLists:
        """Lists of some users [b] of a batch that two releases make together."""
        first, second = (self._recommend(serving, windows, users) for serving in both)
        flips = interleave.coins(seeds, (first.items.shape[1] + 1) // 2)
        draft = interleave.team_draft(first.items, second.items, flips)
        lists = interleave.drafted(first, second, draft)
        name = "+".join(serving.live.name for serving in both)
        return _ArmLists(users, name, lists, self._worth_sending(slots[users], lists), draft.teams, CANARY)

    def _recommend(self, serving: Serving, windows: Windows, users: Int64) -> Lists:
        live, fallbacks = serving.live, serving.live.index.fallbacks
        of_users = windows if len(users) == len(windows) else windows.take(users)
        lists = serving.recommender.recommend(of_users, live, self.tracing.stage(self._metrics.stage))
        self._metrics.exact_fallback_queries.inc(live.index.fallbacks - fallbacks)
        return lists

    def rewrite(self, partitions: Sequence[int], session: Session) -> None:
        """Write the windows of restored partitions once more that older ones came after on the changelog.

        Raises:
            EventLogError: they could not be delivered.
        """
        changes = self.windows.rewrites(partitions)
        if len(changes):
            self.windows.wrote(session.commit({}, [changes]))

    def _forget(self, clicks: Clicks) -> "_Forgetting":
        """Drop the windows of users who are to be forgotten."""
        forgetting = _Forgetting()
        if not clicks.forgotten:
            return forgetting
        back = set(clicks.users)
        for request in clicks.forgotten:
            within = request.partition if request.is_everywhere else None
            self._forget_pairs(request.user, within)
            if self._trial is not None and self._trial.shown is not None:
                self._trial.shown.forget(request.user)
            held_in = self.windows.forget(request.user, within)
            forgetting.places[request.user, request.partition] = None
            if held_in is not None:
                forgetting.held.add(request.user)
                forgetting.places[request.user, held_in] = None
            # Of requests in every partition, the null of the list comes from one worker: another's would be too late.
            concerns_list = held_in is not None or not request.is_everywhere or self._is_home(request)
            if concerns_list and request.user not in back:
                forgetting.lists[request.user] = None
        return forgetting

    def _forget_pairs(self, user: str, within: int | None) -> None:
        """Take a user's clicks out of the neighbours' counts, if the window is here and in the partition `within`."""
        self.windows.reload([user])
        slot = self.windows.store.find(user)
        if slot is not None and within in {None, self.windows.partition_of(user)}:
            self._counts.forget_user(slot)

    def _is_home(self, request: ForgetRequest) -> bool:
        """Whether a request is in the partition where Kafka would put the user, of whom nothing is held here."""
        if self.windows.partition_of(request.user) is not None:
            return False
        # Rekeyed requests are all in the one partition of the user's id, which a pseudonym does not tell.
        return self._settings.clicks.rekey or request.partition == partition_of(request.user.encode(), self._partitions)

    def _tombstones(self, forgetting: "_Forgetting") -> list[tuple[str, int]]:
        """Users and partitions of the changelog that get a tombstone, but for those with a new window there."""
        return [
            (user, partition) for user, partition in forgetting.places if self.windows.partition_of(user) != partition
        ]

    def _judge_next_clicks(self, clicks: Clicks, events: Events) -> None:
        """Count whether clicked items were in the lists sent before, and then count the clicks towards popularity."""
        positive: Bool = (self._actions.weights[events.actions] > 0) & (events.items < FIRST_SEARCH)
        slots, items = events.slots[positive], events.items[positive]
        for verdict in self._judge.judge(slots, items, self.windows.store.items(slots)):
            self._metrics.next_clicks.labels(verdict.release).inc(verdict.clicks)
            self._metrics.next_click_hits.labels(verdict.release).inc(verdict.hits)
            self._metrics.next_click_popular_hits.labels(verdict.release).inc(verdict.popular_hits)
        if self._trial is not None and self._trial.shown is not None:
            self._trial.shown.hold(clicks, np.flatnonzero(positive))
        elif self._trial is not None:
            judged, sent_lists = self._sent.lists(slots)
            ranks = target_ranks(sent_lists[judged, :PLACES], items[judged])
            self._trial.arms.judged(self._sent.groups(slots[judged]), ranks, self._sent.teams(slots[judged]))
        if self._serving is not None:
            self._drift.add_clicks(self._serving.live, items, events.times_ms[positive])
        self._counts.popularity.add(items, events.times_ms[positive])

    def _heads(self, clicks: Clicks, newest: Int64, event_ms: Int64, arm: _ArmLists) -> ListHeads:
        """Heads of b lists of an arm, each named after its user's newest click [b] in the batch."""
        partitions = clicks.partitions if clicks.first_partitions is None else clicks.first_partitions
        trial = self._trial if arm.arm != NO_GROUP else None
        marks = [""] * len(newest) if trial is None else trial.arms.marks(arm.arm, len(newest), arm.teams)
        places = zip(partitions[newest].tolist(), clicks.offsets[newest].tolist(), marks, strict=True)
        return ListHeads(
            ids=[list_ids.list_id(partition, offset, arm.release, mark) for partition, offset, mark in places],
            users=[clicks.users[index] for index in newest.tolist()],
            event_ms=event_ms.tolist(),
            release=arm.release,
            computed_ms=self._time.now_ms(),
            experiment="" if trial is None else trial.arms.experiment,
            arm="" if trial is None else trial.arms.arm_name(arm.arm),
        )

    def _worth_sending(self, slots: Int32, lists: Lists) -> Bool:
        """[B] whether each list is to be sent."""
        if self._settings.recommendations.resend_unchanged:
            return np.ones(len(slots), np.bool_)
        return ~self._sent.same(slots, lists.items)

    def _list_messages(
        self, arms: Sequence[_ArmLists], clicks: Clicks, newest: Int64, windows: Windows, gone: list[str]
    ) -> Outgoing:
        """Lists to be sent, and nulls in the place of the last lists of users who are gone."""
        outgoing = Outgoing(self._settings.recommendations.topic)
        for arm in arms:
            heads = self._heads(clicks, newest[arm.users], windows.times_ms[arm.users, -1], arm)
            if self._trial is not None and arm.teams is not None:
                releases = [serving.live.name for serving in self._trial.servings]
                heads = replace(heads, teams=arm.teams, team_releases=releases)
            messages = encode_recommendations(arm.lists, heads, self._catalogue.ids)
            outgoing.values += compress(messages, arm.sent)
            outgoing.keys += [user.encode() for user in compress(heads.users, arm.sent)]
        outgoing.values += [None] * len(gone)
        outgoing.keys += [user.encode() for user in gone]
        return outgoing

    def _deliver(
        self,
        session: Session,
        lists: Outgoing,
        dead: list[DeadLetter],
        positions: Mapping[Partition, int],
        changes: Outgoing,
    ) -> dict[Partition, int]:
        """Steps 4 and 5; a dead letter that is refused is smaller when the batch comes again."""
        try:
            session.send(lists)
            if self._trial is not None and (sums := self._trial.arms.record(self._time.monotonic_s())):
                session.send(sums)
            if dead and len(letters := self._dead_letters.outgoing(dead, self._time.monotonic_s())):
                session.send(letters)
            return session.commit(positions, [changes])
        except RecordRefusedError as error:
            if error.topic != self._dead_letters.topic:
                raise
            self._dead_letters.refused(error, self._time.monotonic_s())
            raise DeliveryError(f"a dead letter was refused, and is sent smaller next time: {error}") from error

    def _count(self, clicks: Clicks, dead: list[DeadLetter], appended: Appended, freshness_ms: Int64) -> None:
        metrics = self._metrics
        metrics.clicks.inc(len(clicks))
        metrics.searches.inc(sum(map(searches.is_search, clicks.items)))
        metrics.batch_clicks.observe(len(clicks))
        metrics.lists.inc(len(freshness_ms))
        self._dead_letters.count(dead)
        if clicks.without_consent:
            metrics.dropped_events.labels("no_consent").inc(clicks.without_consent)
        if clicks.skipped:
            metrics.dropped_events.labels("skipped_type").inc(clicks.skipped)
        for reason in ("repeated", "late", "expired"):
            if count := getattr(appended, reason):
                metrics.dropped_events.labels(reason).inc(count)
        for milliseconds in freshness_ms.tolist():
            metrics.freshness.observe(max(0, milliseconds) / 1000)
        logger.debug("batch: %d clicks, %d lists, %d dead letters", len(clicks), len(freshness_ms), len(dead))
        self._observe(BatchReport(len(clicks), len(freshness_ms), len(dead), freshness_ms))


def _newest_click(slots: Int32, changed: Int32) -> Int64:
    """[B] index of the last click of each changed slot; `changed` is ascending."""
    newest = np.zeros(len(changed), np.int64)
    place = np.minimum(np.searchsorted(changed, slots), len(changed) - 1)
    of_changed = np.flatnonzero(changed[place] == slots) if len(changed) else np.empty(0, np.int64)
    np.maximum.at(newest, place[of_changed], of_changed)
    return newest
