"""A server's parts, and its answers to requests as Python objects; HTTP is `app`'s.

topic recommendations ──> list_follower ──> stored lists, streams of events, figures
topic windows, releases ──> standby ──> compute thread <── requests that wait
topic impressions <── impressions <── reports that wait
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from http import HTTPStatus
from typing import Any, Final

import msgspec

from engine.arrays import FIRST_SEARCH
from engine.catalogue.actions import Actions
from engine.errors import EventLogError, MessageError, RequestError
from engine.eventlog.base import EventLog
from engine.eventlog.time_source import TimeSource
from engine.ingest.pseudonyms import Pseudonyms
from engine.messages.impression import Impression
from engine.messages.recommendation import Recommendation
from engine.metrics import ServeMetrics
from engine.settings.sections import Settings
from engine.view.compute import ComputeThread, ItemJob
from engine.view.decisions import Decision, Decisions, DeeperItems
from engine.view.events import Subscriptions
from engine.view.followed_windows import NewEvents
from engine.view.http_messages import (
    ImpressionReport,
    ImpressionsRequest,
    ImpressionsTaken,
    ItemsAnswer,
    ListAnswer,
    ListRequest,
    NextRequest,
    RankRequest,
    ReleasesAnswer,
    SessionEvent,
    SessionRequest,
)
from engine.view.impressions import ImpressionRules, ImpressionSender
from engine.view.item_queries import ItemQueries
from engine.view.list_follower import ListFollower
from engine.view.live_figures import Figures, LiveFigures, ServerState
from engine.view.refusals import RefusalError, missing, not_ready
from engine.view.request_queue import OverloadedError
from engine.view.requests import ComputedList, ListOptions, ListQuery, WindowQuery, check_events
from engine.view.shop import Shop
from engine.view.standby import Standby
from engine.view.stored_lists import StoredLists

_STALLED_S: Final = 60.0
FIGURES: Final = "figures"
"""Subject of the streams of figures."""
_USER: Final = "user:"
"""Of the subjects of users' lists, with the user's id after it."""


class Service:
    """Everything that answers requests; `start` it before the first one."""

    def __init__(
        self,
        settings: Settings,
        log: EventLog,
        metrics: ServeMetrics,
        shop: Shop | None = None,
        time: TimeSource | None = None,
    ) -> None:
        """Prepare; nothing is read yet.

        Args:
            settings: those of the workers, and the section `serve`.
            log: has the topics.
            metrics: of this server.
            shop: lets visitors of the live page click; None forbids it.
            time: the clocks.
        """
        self.settings = settings
        self.metrics = metrics
        self.time = time or TimeSource()
        self.shop = shop
        self.stored = StoredLists(settings.serve.max_lists)
        self._pseudonyms = Pseudonyms(settings.clicks)
        self.streams = Subscriptions(settings.serve.max_streams, metrics)
        self.figures = LiveFigures()
        self.decisions = Decisions(settings.serve.max_decisions)
        self._actions = Actions(settings.clicks)
        self._standby = Standby(settings, log, metrics, self._on_events, self.time)
        self._compute = ComputeThread(self._standby, metrics)
        on_dead_letter = self.figures.add_dead_letter if settings.serve.page else None
        self._follower = ListFollower(settings, log, self.stored, self._on_list, on_dead_letter)
        self._clicking = threading.Lock()
        self._rules = ImpressionRules(settings)
        self._impressions = ImpressionSender(settings, log, metrics) if settings.impressions.accept else None

    def start(self) -> None:
        """Begin to follow the topics."""
        self._compute.start()
        self._follower.start()
        if self._impressions is not None:
            self._impressions.start()

    def close(self) -> None:
        """Stop following."""
        self._follower.close()
        self._compute.close()
        if self._impressions is not None:
            self._impressions.close()

    @property
    def not_ready(self) -> str | None:
        """Why some requests are refused; None when all are answered."""
        return self._standby.not_ready or self._follower.not_ready

    @property
    def fault(self) -> str | None:
        """Why the server should be started again; None while it works."""
        if self._compute.failure is not None:
            return f"nothing is computed any more: {self._compute.failure}"
        silent_s = self.time.monotonic_s() - self._compute.heartbeat_s
        return f"nothing has been computed for {silent_s:.0f} s" if silent_s > _STALLED_S else None

    def check(self) -> None:
        """Raise the error that ended the compute thread.

        Raises:
            HeadraceError: that error; a ReleaseError where the release named in the settings cannot be used.
        """
        if self._compute.failure is not None:
            raise self._compute.failure

    def held_as(self, user: str) -> str:
        """The id under which windows and lists of a user are held: a pseudonym, where the settings say so.

        A pseudonym itself is taken as it is, as the live page knows users by those of their lists.
        """
        return user if self.stored.find(user) is not None else self._pseudonyms.of(user)

    def stored_list(self, user: str) -> bytes:
        """The user's last list, word for word as it was pushed.

        Raises:
            RefusalError: none is held.
        """
        message = self.stored.find(self.held_as(user))
        if message is not None:
            return message
        if reason := self._follower.not_ready:
            raise not_ready(reason)
        raise missing("user", f"no list is held of user {user!r}; POST /v1/lists computes one")

    async def list_for(self, request: ListRequest) -> ListAnswer:
        """A list computed now for a user."""
        options = self._options(request)
        query = ListQuery(request.user, exclude=tuple(request.exclude), time_ms=request.time_ms, options=options)
        return self._decided(await self._compute_list(query))

    async def list_for_session(self, request: SessionRequest) -> ListAnswer:
        """A list for the events of the request."""
        self._check(request.events)
        options = self._options(request)
        query = ListQuery(session=request.events, exclude=tuple(request.exclude), options=options)
        return self._decided(await self._compute_list(query))

    async def next_page(self, request: NextRequest) -> ListAnswer | ItemsAnswer:
        """The page after the newest one of a decision.

        Raises:
            RefusalError: the decision is not known any more.
        """
        decision = self.decisions.find(request.decision)
        if decision is None or decision.source is None:
            return await self._after_pushed(request)
        if not isinstance(decision.source, WindowQuery):
            return await self._more_items(decision, decision.source)
        if decision.source.sweeps != self._standby.catalogue.sweeps:
            raise missing("decision", f"decision {request.decision!r} is too old to be continued; begin a new one")
        computed = await self._compute_list(decision.source.without(decision.shown))
        # Remembered with the exclusions of the first page, as the pages before it are in `shown`.
        return self._decided(computed, decision.source.query, decision)

    async def rank(self, request: RankRequest) -> ItemsAnswer:
        """Given items in order."""
        self._check(request.events or ())
        query = ListQuery(request.user or "", session=request.events)
        if request.user is not None and request.events is None and (reason := self._standby.not_ready):
            raise not_ready(reason)
        return await self._items(query.user, len(request.items), lambda items, _count: items.rank(request.items, query))

    async def similar(self, item: str, count: int, user: str | None, dial: float) -> ItemsAnswer:
        """The items most like one; `user`, an id as requests have it, is whose interests count too."""
        if user is not None and (reason := self._standby.not_ready):
            raise not_ready(reason)
        held_as = None if user is None else self.held_as(user)
        return await self._items(held_as or "", count, lambda items, depth: items.similar(item, depth, held_as, dial))

    async def popular(self, count: int) -> ItemsAnswer:
        """The most popular items of seven days."""
        return await self._items("", count, lambda items, depth: items.popular(depth))

    async def trending(self, count: int) -> ItemsAnswer:
        """The items whose share of all events has risen most in the last hour."""
        return await self._items("", count, lambda items, depth: items.trending(depth))

    async def report(self, request: ImpressionsRequest) -> ImpressionsTaken:
        """Put reports of impressions on their topic.

        Raises:
            RefusalError: one of them breaks a rule, this server takes none, or the log did not take them.
        """
        if self._impressions is None:
            raise missing("", "this server takes no impressions; set impressions.accept")
        try:
            now_ms = self.time.now_ms()
            taken = [self._impression(report, index, now_ms) for index, report in enumerate(request.impressions)]
            await self._impressions.send(taken)
        except RequestError as error:
            raise _refused(error, HTTPStatus.CONFLICT) from error
        except OverloadedError:
            raise self._shed() from None
        except EventLogError as error:
            raise not_ready("impressions are not taken at the moment; report them again") from error
        return ImpressionsTaken(taken=len(taken), known=sum(impression.is_known for impression in taken))

    async def of_user(self, user: str, job: Callable[[ItemQueries, str], Any]) -> Any:
        """The answer to a request about a user, whom `job` gets by the id under which windows are held."""
        if reason := self._standby.not_ready:
            raise not_ready(reason)
        held_as = self.held_as(user)
        return await self.ask(lambda items: job(items, held_as))

    async def ask(self, job: ItemJob) -> Any:
        """The answer to a request that needs the release alone."""
        if reason := self._standby.no_release:
            raise not_ready(reason)
        return await self._submit(job)

    def releases(self) -> ReleasesAnswer:
        """The release in use and those that are announced."""
        live = self._standby.live
        return ReleasesAnswer(live=live.name if live else None, announced=self._follower.announced())

    def figures_now(self) -> Figures:
        """Figures for the live page."""
        self.metrics.stored_lists.set(len(self.stored))
        releases = [{"version": each.version, "state": each.state} for each in self._follower.announced()]
        live = self._standby.live
        name = live.name if live else None
        return self.figures.at(
            ServerState(
                time_ms=self.time.now_ms(),
                status=self.not_ready or "ok",
                release=name,
                users=len(self.stored),
                releases=releases,
                can_click=self.shop is not None,
            )
        )

    def click(self, user: str, item: str) -> int:
        """Send a click of the live page; returns its event time.

        Raises:
            RefusalError: this server sends none.
        """
        if self.shop is None:
            raise missing("", "this server sends no clicks; `headrace demo` does")
        with self._clicking:
            time_ms = self.time.now_ms()
            self.shop.send_click(user, item, time_ms)
        return time_ms

    async def _after_pushed(self, request: NextRequest) -> ListAnswer:
        """The page after the list that was pushed to a user, where that is the one of the request."""
        pushed = self._pushed(request)
        if pushed is None:
            raise missing(
                "decision",
                f"decision {request.decision!r} is not held (any more); begin a new one, or name the user whose pushed"
                " list it is",
            )
        computed = await self._compute_list(ListQuery(pushed.user, exclude=pushed.shown))
        return self._decided(computed, ListQuery(pushed.user), pushed)

    async def _items(self, user: str, count: int, source: DeeperItems) -> ItemsAnswer:
        """The first page of an answer about items, which is remembered."""
        answer: ItemsAnswer = await self.ask(lambda items: source(items, count))
        shown = tuple(listed.item for listed in answer.items)
        self.decisions.put(Decision(answer.id, answer.release, user, 1, count, shown, source))
        return answer

    async def _more_items(self, decision: Decision, source: DeeperItems) -> ItemsAnswer:
        """The page of an answer about items after those of a decision."""
        depth = decision.count + len(decision.shown)
        answer: ItemsAnswer = await self.ask(lambda items: source(items, depth))
        shown = {*decision.shown}
        new = [listed for listed in answer.items if listed.item not in shown][: decision.count]
        following = replace(
            decision,
            id=answer.id,
            release=answer.release,
            page=decision.page + 1,
            shown=(*decision.shown, *(listed.item for listed in new)),
        )
        self.decisions.put(following)
        return msgspec.structs.replace(answer, items=new, page=following.page)

    async def _compute_list(self, query: ListQuery) -> ComputedList:
        if reason := self._standby.not_ready if query.user else self._standby.no_release:
            raise not_ready(reason)
        computed: ComputedList = await self._submit(query)
        return computed

    async def _submit(self, job: ListQuery | ItemJob) -> Any:
        try:
            return await self._compute.submit(job)
        except OverloadedError:
            raise self._shed() from None
        except RequestError as error:
            raise _refused(error) from error

    def _shed(self) -> RefusalError:
        """The refusal of a request that is one too many."""
        self.metrics.shed_requests.labels("queue").inc()
        return RefusalError(
            HTTPStatus.SERVICE_UNAVAILABLE,
            f"{self.settings.serve.max_waiting} requests wait already (serve.max_waiting); come back later",
            retry_after_s=1,
        )

    def _impression(self, report: ImpressionReport, index: int, now_ms: int) -> Impression:
        """A report as it goes to the topic."""
        if report.user is not None:
            report = msgspec.structs.replace(report, user=self.held_as(report.user))
        decision = self.decisions.find(report.decision) or self._pushed(report)
        return self._rules.applied(report, f"impressions[{index}]", decision, now_ms)

    def _pushed(self, request: NextRequest | ImpressionReport) -> Decision | None:
        """The list that was pushed to the user of a request, where that is the one it names."""
        try:
            pushed = None if request.user is None else self.stored.decode(request.user)
        except MessageError:
            return None
        if pushed is None or pushed.id != request.decision:
            return None
        shown = tuple(listed.item for listed in pushed.items)
        return Decision(pushed.id, pushed.release, request.user or "", page=1, count=len(shown), shown=shown)

    def _decided(
        self, computed: ComputedList, query: ListQuery | None = None, before: Decision | None = None
    ) -> ListAnswer:
        """The answer of a decision, which is remembered.

        Args:
            computed: the list.
            query: by which the next page is computed; that of the list without one.
            before: the decision of the page before it.
        """
        message, source = computed.recommendation, computed.source
        page, shown = (before.page + 1, before.shown) if before else (1, ())
        listed = tuple(entry.item for entry in message.items)
        decision = Decision(
            id=message.id,
            release=message.release,
            user=source.query.user,
            page=page,
            count=len(listed),
            shown=(*shown, *listed),
            source=replace(source, query=query or source.query),
        )
        self.decisions.put(decision)
        fields = {name: getattr(message, name) for name in Recommendation.__struct_fields__}
        return ListAnswer(**fields, page=page)

    def _options(self, request: ListRequest | SessionRequest) -> ListOptions:
        """The settings that a request replaces.

        Raises:
            RefusalError: items are to be left out by a field that the release does not have.
        """
        labels = tuple(sorted((field, value) for field, values in request.exclude_where.items() for value in values))
        live = self._standby.live
        fields = live.labels.fields if live and live.labels else set()
        for field in request.exclude_where:
            if live and field not in fields:
                shown = ", ".join(sorted(fields)) or "none, as it was trained without an items file"
                raise missing("exclude_where", f"found {field!r}, expected a field of release {live.name}: {shown}")
        return ListOptions(request.count, request.diversity, request.exclude_seen, labels)

    def _check(self, events: Sequence[SessionEvent]) -> None:
        try:
            check_events(events, self._actions)
        except RequestError as error:
            raise _refused(error) from error

    def _on_list(self, user: str, message: bytes | None, append_ms: int) -> None:
        """On the follower's thread: a list arrived, or a null for a user who is forgotten."""
        self._compute.nudge()
        if message is None:
            self.decisions.forget(user)
            self.figures.forget(user)
        elif self.settings.serve.page:
            self.figures.add_list(message, append_ms)
        subject = user_subject(user)
        if self.streams.has(subject):
            self.streams.publish(subject, "list", message or b"null")

    def _on_events(self, events: NewEvents) -> None:
        """On the compute thread: clicks came into windows."""
        if not self.settings.serve.page:
            return
        rows = [row for row, number in enumerate(events.items.tolist()) if number < FIRST_SEARCH]
        items = self._standby.catalogue.ids(events.items[rows].tolist())
        times_ms = events.times_ms[rows].tolist()
        self.figures.add_clicks([events.users[row] for row in rows], items, times_ms)


def _refused(error: RequestError, status: HTTPStatus = HTTPStatus.BAD_REQUEST) -> RefusalError:
    """The refusal of a request whose field is wrong, or names what is not there."""
    field = str(error).partition(":")[0]
    return RefusalError(HTTPStatus.NOT_FOUND if field == "item" else status, str(error), field)


def user_subject(user: str) -> str:
    """The subject of the streams of a user's lists."""
    return _USER + user
