"""Recorded clicks, the windows and lists that an undisturbed run makes of them, and the comparison with another run.

The undisturbed run works on the in-process log, one click at a time, so it has a list for every click. A disturbed run
may gather clicks in batches as they come; each of its lists must be the undisturbed one of the same click, and every
user must have the one of the newest click. Where it takes one click at a time, too, both must have the same lists.
"""

import csv
import gzip
import itertools
import json
import os
import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.catalogue.actions import Actions
from engine.catalogue.ids import Catalogue
from engine.eventlog.base import EventLog, Outgoing, TopicSpec
from engine.eventlog.memory.log import MemoryLog
from engine.messages.recommendation import Recommendation, decode_recommendation
from engine.metrics import Metrics
from engine.settings.loader import ENV_PREFIX, load
from engine.settings.sections import (
    RecommendationSettings,
    ReleaseSettings,
    Settings,
    TelemetrySettings,
    WindowSettings,
)
from engine.windows.codec import WindowCodec
from engine.worker.batch import BatchReport
from engine.worker.loop import Worker
from tests.conftest import TINY_ITEMS
from tests.integration.site import Site

PARTITIONS = 3
LENGTH = 20
COUNT = 5
BATCH = 7
"""Clicks in a batch at most, in runs that gather."""
USERS = 60

NO_SETTINGS = dict.fromkeys(name for name in os.environ if name.startswith(ENV_PREFIX))
"""What is set for the tests themselves, to be unset where a verb reads its settings."""

Event = tuple[str, int, str]  # item, time in ms, action
Place = tuple[int, int]  # partition and offset of a click


@dataclass(frozen=True, slots=True)
class Recorded:
    """Clicks to put on the topic `clicks`, each with its partition."""

    users: list[str]
    values: list[bytes]
    partitions: list[int]

    def __len__(self) -> int:
        return len(self.users)

    def outgoing(self, topic: str, start: int, stop: int) -> Outgoing:
        """Some of them as records."""
        return Outgoing(
            topic,
            [user.encode() for user in self.users[start:stop]],
            list(self.values[start:stop]),
            partitions=self.partitions[start:stop],
        )

    def first(self, count: int) -> "Recorded":
        """The first so many."""
        return Recorded(self.users[:count], self.values[:count], self.partitions[:count])

    def interleaved(self) -> "Recorded":
        """The same clicks, each user's in order, but all users at once."""
        turns = Counter[str]()
        order = []
        for row, user in enumerate(self.users):
            order.append((turns[user], row))
            turns[user] += 1
        rows = [row for _, row in sorted(order)]
        users, values = [self.users[row] for row in rows], [self.values[row] for row in rows]
        return Recorded(users, values, [self.partitions[row] for row in rows])

    def places(self) -> list[Place]:
        """Where each click is, when all were sent in order to empty partitions."""
        offsets = [itertools.count() for _ in range(PARTITIONS)]
        return [(partition, next(offsets[partition])) for partition in self.partitions]

    def last_places(self) -> dict[str, Place]:
        """Where each user's newest click is, when all were sent in order to empty partitions."""
        return dict(zip(self.users, self.places(), strict=True))


@dataclass
class Outcome:
    """What a run left behind."""

    lists: list[Recommendation] = field(default_factory=list)
    """Every list on the topic, in order within a user."""
    windows: dict[str, list[Event]] = field(default_factory=dict)


def recorded(data: Path, count: int) -> Recorded:
    """The first clicks of the recording `ml-100k` by some busy users, on items of the tiny release."""
    with gzip.open(data / "ml-100k" / "interactions.csv.gz", "rt") as file:
        rows = [(int(row["ts"]), row["user"], row["item"], float(row["weight"])) for row in csv.DictReader(file)]
    rows.sort()
    busy = {user for user, _ in Counter(user for _, user, _, _ in rows[: 8 * count]).most_common(USERS)}
    chosen = [row for row in rows if row[1] in busy][:count]
    # None that pushes away: of a window of such alone, a list would be of what was popular at the time.
    actions = ["pv", "view", "like", "cart", "buy"]
    places: dict[tuple[str, int, int], int] = {}
    users, values = [], []
    for second, user, item, weight in chosen:
        number = int(item) % TINY_ITEMS
        # Two films may become one item here; a few milliseconds keep such clicks from being repeats of one another.
        turn = places[user, second, number] = places.get((user, second, number), -1) + 1
        click = {"user": user, "item": f"i{number}", "ts": second * 1000 + turn, "action": actions[int(weight) - 1]}
        users.append(user)
        values.append(json.dumps(click).encode())
    return Recorded(users, values, [int(user) % PARTITIONS for user in users])


def settings(release: Path, **sections: Any) -> Settings:
    """Settings under which a list depends on its window alone: more candidates than a list has places."""
    return Settings(
        **{
            "windows": WindowSettings(max_users=1000, length=LENGTH),
            "recommendations": RecommendationSettings(count=COUNT),
            "releases": ReleaseSettings(path=release, poll_interval_s=0.05),
            "telemetry": TelemetrySettings(port=0),
            **sections,
        }
    )


def on_site(site: Site, delivery: str, batch: int = BATCH) -> Settings:
    """The same settings for the workers of a site; returns what they will read."""
    site.environ |= {
        "HEADRACE_WINDOWS__LENGTH": str(LENGTH),
        "HEADRACE_RECOMMENDATIONS__COUNT": str(COUNT),
        "HEADRACE_KAFKA__DELIVERY": delivery,
        "HEADRACE_WORKER__MAX_BATCH_CLICKS": str(batch),
        # What a killed worker left open holds up the next one so long.
        "HEADRACE_KAFKA__COMMIT_TIMEOUT_S": "4",
        "HEADRACE_KAFKA__TRANSACTION_TIMEOUT_S": "5",
    }
    return load(None, site.environ)


def send(site: Site, clicks: Recorded, start: int, stop: int) -> None:
    """Put some of the clicks on the site's topic."""
    with site.log.producer() as producer:
        producer.send(clicks.outgoing(site.clicks, start, stop))


def topics(chosen: Settings) -> list[TopicSpec]:
    """All topics of a run."""
    return [
        TopicSpec(chosen.clicks.topic, PARTITIONS),
        TopicSpec(chosen.recommendations.topic, PARTITIONS, compacted=True),
        TopicSpec(chosen.windows.topic, PARTITIONS, compacted=True),
        TopicSpec(chosen.clicks.dead_letter_topic),
        TopicSpec(chosen.releases.topic, compacted=True),
    ]


def undisturbed(clicks: Recorded, chosen: Settings) -> Outcome:
    """One worker, one click at a time, on the in-process log."""
    one_by_one = chosen.model_copy(update={"worker": chosen.worker.model_copy(update={"max_batch_clicks": 1})})
    log = MemoryLog()
    log.ensure_topics(topics(one_by_one))
    log.producer().send(clicks.outgoing(one_by_one.clicks.topic, 0, len(clicks)))
    serve(log, one_by_one, len(clicks))
    return outcome(log, one_by_one)


def serve(log: EventLog, chosen: Settings, count: int, metrics: Metrics | None = None) -> None:
    """Run a worker in this thread until it has processed so many clicks."""
    stop, seen = threading.Event(), itertools.count(1)

    def observe(report: BatchReport) -> None:
        if any(next(seen) == count for _ in range(report.clicks)):
            stop.set()

    Worker(chosen, log, metrics or Metrics(), observe).run(stop)


def outcome(log: EventLog, chosen: Settings) -> Outcome:
    """Everything committed to `recommendations` and `windows`."""
    found = Outcome()
    catalogue = Catalogue()
    codec = WindowCodec(catalogue, Actions(chosen.clicks))
    found.lists = [
        decode_recommendation(value)
        for records in _all(log, chosen.recommendations.topic)
        for value in records.values
        if value is not None
    ]
    last: dict[tuple[bytes | None, int], bytes | None] = {}
    for records in _all(log, chosen.windows.topic):
        keys = [(key, records.partition.number) for key in records.keys]
        last |= dict(zip(keys, records.values, strict=True))
    for (key, _), value in last.items():
        if key is not None and value is not None:
            found.windows[key.decode()] = _events(codec, catalogue, chosen, value)
    return found


def lists_due(clicks: Recorded, calm: Outcome) -> list[int]:
    """How many lists the first 0, 1, 2, ... clicks lead to, one click a batch: a measure of a run's progress."""
    places = {place(one) for one in calm.lists}
    return [0, *itertools.accumulate(place in places for place in clicks.places())]


def assert_equal(found: Outcome, wanted: Outcome, clicks: Recorded, *, repeats: bool) -> None:
    """Windows are equal; each list is that of its click, each user has the newest, and none is there twice.

    With `repeats` (delivery at least once) a list may be there more often. Use `assert_none_missing`, too, where every
    click was a batch of its own.
    """
    assert found.windows == wanted.windows
    of_click = {place(one): one for one in wanted.lists}
    for one in found.lists:
        assert _content(one) == _content(of_click[place(one)]), one
    places = [place(one) for one in found.lists]
    assert repeats or len(set(places)) == len(places), "a list was published twice"
    assert newest(found.lists) == clicks.last_places()


def assert_none_missing(found: Outcome, wanted: Outcome) -> None:
    """There is a list for every click that has one in the undisturbed run."""
    assert {place(one) for one in found.lists} == {place(one) for one in wanted.lists}


def newest(lists: Iterable[Recommendation]) -> dict[str, Place]:
    """For each user, the newest click that a list knows."""
    found: dict[str, Place] = {}
    for one in lists:
        found[one.user] = max(place(one), found.get(one.user, (-1, -1)))
    return found


def _all(log: EventLog, topic: str) -> Iterable[Any]:
    with log.reader([topic]) as reader:
        while not reader.at_end():
            yield from reader.poll(0.2, 10_000)


def _events(codec: WindowCodec, catalogue: Catalogue, chosen: Settings, value: bytes) -> list[Event]:
    packed = codec.decode(["somebody"], [value], "the test")
    names = Actions(chosen.clicks).names
    items = catalogue.ids(packed.items.tolist())
    return list(zip(items, packed.times_ms.tolist(), [names[code] for code in packed.actions], strict=True))


def place(one: Recommendation) -> Place:
    """Where the newest click that a list knows stands."""
    partition, offset, _ = one.id.split("-", 2)
    return int(partition), int(offset)


def _content(one: Recommendation) -> tuple[object, ...]:
    """What a list says, but for the time of its making and the last digits of its scores."""
    reasons = [[reason.item for reason in interest] for interest in one.interests]
    return one.user, one.release, one.event_ms, [(place.item, place.source) for place in one.items], reasons
