"""A worker on an in-process log that gets recorded clicks, and the lists that it pushes."""

import datetime as dt
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import msgspec
import numpy as np

from engine.arrays import FIRST_SEARCH, Bool, Int64
from engine.catalogue import searches
from engine.errors import ReleaseError
from engine.eventlog import topic_plan
from engine.eventlog.base import Outgoing, TopicSpec
from engine.eventlog.memory.log import MemoryLog
from engine.messages.recommendation import decode_recommendation
from engine.metrics import Metrics
from engine.quality.next_click import PLACES
from engine.settings.sections import ArchiveSettings, ClickFields, Settings
from engine.worker.batch import BatchReport
from engine.worker.loop import Worker
from models.data.dataset import Interactions
from models.evaluation.ranking_metrics import NOT_LISTED

_RETAINED: Final = 4_096
"""Records that outputs keep at least; lists are read after every batch of clicks."""
_RELEASE_LIMIT_S: Final = 300.0
_MAX_RECORDS: Final = 10_000

_encode = msgspec.json.Encoder().encode


def replay_settings(settings: Settings, folder: Path) -> Settings:
    """Settings of a worker, an archiver and a retrainer that have a log and a folder of their own.

    Clicks are encoded by the default fields: those of the settings are the recording's.
    """
    own_format = {
        "fields": ClickFields(),
        "time_unit": "ms",
        "earliest": dt.date(1970, 1, 1),
        "rekey": False,
        "pseudonym_key_file": None,
    }
    own_releases = {"folder": None, "path": None, "require_signature": False, "poll_interval_s": 0.05}
    own_retraining = {"releases": folder / "releases", "publish_as": "live"}
    return settings.model_copy(
        update={
            "clicks": settings.clicks.model_copy(update={**own_format, "require_consent": False, "skip_types": []}),
            "releases": settings.releases.model_copy(update=own_releases),
            "archive": ArchiveSettings(folder=str(folder / "clicks")),
            "retrain": settings.retrain.model_copy(update=own_retraining),
            "snapshots": settings.snapshots.model_copy(update={"folder": None}),
            "recommendations": settings.recommendations.model_copy(update={"resend_unchanged": True}),
        }
    )


def encoded(interactions: Interactions, events: Int64, topic: str) -> Outgoing:
    """The events at these indices, as messages with the default fields."""
    keys, values = list[bytes | None](), list[bytes | None]()
    for event in events.tolist():
        user, action = interactions.user_ids[interactions.users[event]], interactions.actions[event]
        message = {"user": user, "ts": int(interactions.times_ms[event]), **_subject(interactions, event)}
        if name := interactions.action_names[action]:
            message["action"] = name
        keys.append(user.encode())
        values.append(_encode(message))
    return Outgoing(topic, keys, values)


def _subject(interactions: Interactions, event: int) -> dict[str, str]:
    """The item of an event, or the words of a search."""
    number = int(interactions.items[event])
    if number < FIRST_SEARCH:
        return {"item": interactions.item_ids[number]}
    return {"query": searches.words_of(interactions.search_ids[number - FIRST_SEARCH])}


@dataclass(frozen=True, slots=True)
class PushedList:
    """The last list that a user was sent."""

    release: str
    items: list[str]
    """Best first."""
    event_ms: int
    """Time of the newest click that it takes into account, Unix milliseconds."""
    popular_places: int
    """Of the first ten places, those with what is popular with everybody."""


class ReplayedEngine:
    """A worker and the log that it reads; a context manager."""

    def __init__(self, settings: Settings) -> None:
        """Prepare the log; the worker begins with `begin`, when there is a release."""
        self.settings = settings
        outputs = (settings.recommendations.topic, settings.windows.topic)
        self.log = MemoryLog(dict.fromkeys(outputs, _RETAINED))
        clicks = TopicSpec(settings.clicks.topic)
        self.log.ensure_topics([clicks, topic_plan.releases(settings), TopicSpec(settings.recommendations.topic)])
        self._worker = Worker(settings, self.log, Metrics(), self._observe)
        self._producer = self.log.producer()
        self._reader = self.log.reader([settings.recommendations.topic])
        self._sent = self._processed = 0
        self.lists: dict[str, PushedList] = {}
        """By user."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._worker.close()

    @property
    def release(self) -> str | None:
        """The release in use."""
        return self._worker.release_name

    def send(self, clicks: Outgoing) -> None:
        """Put clicks onto the topic."""
        self._producer.send(clicks)
        self._sent += len(clicks)

    def begin(self, release: str) -> None:
        """Start the worker, and let it process what is on the topic with this release, which is announced.

        Raises:
            ReleaseError: the worker does not serve by it in time.
        """
        self._worker.start()
        self.wait_for(release)
        self.process()

    def wait_for(self, release: str) -> None:
        """Let the worker turn until it serves by this release.

        Raises:
            ReleaseError: it does not in time.
        """
        deadline_s = time.monotonic() + _RELEASE_LIMIT_S
        while self.release != release:
            if time.monotonic() > deadline_s:
                raise ReleaseError(
                    f"the worker serves by {self.release}, expected {release} within {_RELEASE_LIMIT_S:g} s of its"
                    " announcement; the log says why it was refused"
                )
            self._worker.step()

    def process(self) -> None:
        """Let the worker turn until it has processed all clicks that were sent, and take its lists."""
        while self._processed < self._sent:
            self._worker.step()
            self._take_lists()

    def ranks(self, users: Sequence[str], items: Sequence[str]) -> tuple[Bool, Int64]:
        """[n] whether each user was sent a list, and [n] rank of each item in it, from 1; `NOT_LISTED` for a miss."""
        lists = [self.lists.get(user) for user in users]
        ranks = [_rank(pushed, item) for pushed, item in zip(lists, items, strict=True)]
        return np.array([pushed is not None for pushed in lists], np.bool_), np.array(ranks, np.int64)

    def popular_places(self, users: Sequence[str]) -> Int64:
        """[n] popular items in the first ten places of these users' lists; 0 for a user without one."""
        lists = (self.lists.get(user) for user in users)
        return np.array([0 if pushed is None else pushed.popular_places for pushed in lists], np.int64)

    def _observe(self, report: BatchReport) -> None:
        self._processed += report.clicks + report.dead_letters

    def _take_lists(self) -> None:
        while polled := self._reader.poll(0.0, _MAX_RECORDS):
            for value in (value for records in polled for value in records.values if value is not None):
                message = decode_recommendation(value)
                items = [place.item for place in message.items]
                popular = sum(place.source == "popular" for place in message.items[:PLACES])
                self.lists[message.user] = PushedList(message.release, items, message.event_ms, popular)


def _rank(pushed: PushedList | None, item: str) -> int:
    return pushed.items.index(item) + 1 if pushed is not None and item in pushed.items else NOT_LISTED
