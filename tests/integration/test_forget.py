"""A forgotten user is gone: window, last list and changelog entry, and no restart brings them back."""

import json
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from engine.cli import forget
from engine.errors import EventLogError
from engine.eventlog.base import EventLog, Headers, Outgoing
from engine.eventlog.kafka import KafkaLog
from engine.eventlog.memory.log import MemoryLog
from engine.eventlog.murmur2 import partition_of
from engine.ingest import dead_letters, forget_requests
from engine.ingest.dead_letters import LetterFilter
from engine.ingest.letter_purge import LetterPurge
from engine.metrics import Metrics
from engine.settings.loader import load
from engine.settings.sections import ClickFields, ClickSettings, Settings, SnapshotSettings
from tests.integration import equality
from tests.integration.site import PARTITIONS, Site

START_MS = 1_700_000_000_000


class Shop:
    """Clicks on one partition of an in-process log, and workers that come and go."""

    def __init__(self, chosen: Settings) -> None:
        self.chosen = chosen
        self.log = MemoryLog()
        self.log.ensure_topics(equality.topics(chosen))
        self._clock_ms = count(START_MS, 1000)

    def click(self, user: str, item: str, partition: int = 1, **fields: object) -> int:
        """Put a click on the topic; returns its time."""
        time_ms = next(self._clock_ms)
        value = json.dumps({"user": user, "item": item, "ts": time_ms, **fields}).encode()
        self.log.producer().send(Outgoing("clicks", [user.encode()], [value], partitions=[partition]))
        return time_ms

    def forget(self, user: str) -> None:
        self.log.producer().send(Outgoing("clicks", [user.encode()], [None], partitions=[1]))

    def serve(self, clicks: int) -> None:
        """A worker that starts, processes so many clicks and stops."""
        equality.serve(self.log, self.chosen, clicks)

    def times(self) -> dict[str, list[int]]:
        """What the changelog has: the times of every user's clicks."""
        return {user: [time_ms for _, time_ms, _ in events] for user, events in self.windows().items()}

    def windows(self) -> dict[str, list[equality.Event]]:
        return equality.outcome(self.log, self.chosen).windows

    def tombstones(self, user: str) -> set[int]:
        """Partitions of the changelog whose last record of the user is a tombstone."""
        last: dict[int, bool] = {}
        with self.log.reader([self.chosen.windows.topic]) as reader:
            for records in reader.poll(0.0, 1000):
                for key, value in zip(records.keys, records.values, strict=True):
                    if key == user.encode():
                        last[records.partition.number] = value is None
        return {number for number, is_tombstone in last.items() if is_tombstone}

    def last_lists(self) -> dict[str, bool]:
        """For each user ever seen on `recommendations`: is the last record a list, or a deletion?"""
        return last_values(self.log, self.chosen.recommendations.topic)


def last_values(log: EventLog, topic: str) -> dict[str, bool]:
    has_value: dict[str, bool] = {}
    with log.reader([topic]) as reader:
        while not reader.at_end():
            for records in reader.poll(0.2, 1000):
                for key, value in zip(records.keys, records.values, strict=True):
                    has_value[(key or b"").decode()] = value is not None
    return has_value


@pytest.fixture(params=[False, True], ids=["changelog", "snapshots"])
def shop(request: pytest.FixtureRequest, tiny_release: Path, tmp_path: Path) -> Shop:
    folder = tmp_path / "snapshots" if request.param else None
    return Shop(equality.settings(tiny_release, snapshots=SnapshotSettings(folder=folder)))


def test_a_forgotten_user_is_gone_and_stays_gone(shop: Shop) -> None:
    #  ann   i1 i2 | forget
    #  bob   i70   |        i71 | i72      (| a worker stops, another starts)
    shop.click("ann", "i1")
    shop.click("ann", "i2")
    first = shop.click("bob", "i70")
    shop.serve(3)
    assert shop.last_lists() == {"ann": True, "bob": True}
    shop.forget("ann")
    second = shop.click("bob", "i71")
    shop.serve(1)
    assert shop.last_lists() == {"ann": False, "bob": True}
    assert shop.times() == {"bob": [first, second]}
    third = shop.click("bob", "i72")
    shop.serve(1)
    assert shop.times() == {"bob": [first, second, third]}
    again = shop.click("ann", "i3")
    shop.serve(1)
    assert shop.times()["ann"] == [again]
    assert shop.last_lists() == {"ann": True, "bob": True}


def test_order_within_one_batch_is_kept(shop: Shop) -> None:
    #  ann   i1 forget i2          keeps i2 alone
    #  bob   i70 i71 forget        is gone, though never seen before
    shop.click("ann", "i1")
    shop.click("bob", "i70")
    shop.click("bob", "i71")
    shop.forget("ann")
    shop.forget("bob")
    kept = shop.click("ann", "i2")
    shop.serve(1)
    assert shop.times() == {"ann": [kept]}
    assert shop.last_lists() == {"ann": True, "bob": False}


def test_a_click_without_consent_leaves_no_trace(tiny_release: Path) -> None:
    fields = ClickFields(consent="consent")
    shop = Shop(equality.settings(tiny_release, clicks=ClickSettings(fields=fields)))
    first = shop.click("ann", "i1", consent=True)
    shop.click("ann", "i2", consent=False)
    shop.click("bob", "i70", consent=False)
    third = shop.click("ann", "i3")
    shop.serve(2)
    assert shop.times() == {"ann": [first, third]}
    assert shop.last_lists() == {"ann": True}
    assert last_values(shop.log, shop.chosen.clicks.dead_letter_topic) == {}


def test_a_refusal_deletes_what_was_there_where_the_settings_say_so(tiny_release: Path) -> None:
    clicks = ClickSettings(fields=ClickFields(consent="consent"), on_refusal="forget")
    shop = Shop(equality.settings(tiny_release, clicks=clicks))
    shop.click("ann", "i1", consent=True)
    kept = shop.click("bob", "i70", consent=True)
    shop.serve(2)
    shop.click("ann", "i2", consent=False)
    shop.click("bob", "i71", consent=None)  # absent is not refused
    again = shop.click("eve", "i3", consent=True)
    shop.serve(2)
    assert shop.times() == {"bob": [kept, again - 1000], "eve": [again]}
    assert shop.last_lists() == {"ann": False, "bob": True, "eve": True}


def test_a_refusal_with_a_bad_time_deletes_too_and_its_letter_has_no_value(tiny_release: Path) -> None:
    clicks = ClickSettings(fields=ClickFields(consent="consent"), on_refusal="forget")
    shop = Shop(equality.settings(tiny_release, clicks=clicks))
    shop.click("ann", "i1", consent=True)
    value = b'{"user":"ann","item":"i2","ts":"soon","consent":false}'
    shop.log.producer().send(Outgoing("clicks", [b"ann"], [value], partitions=[1]))
    kept = shop.click("bob", "i70", consent=True)
    shop.serve(1)
    assert shop.times() == {"bob": [kept]}
    (letter,) = dead_letters.read(shop.log, shop.chosen.clicks.dead_letter_topic, LetterFilter())
    assert (letter.reason, letter.value) == ("mistyped_field", None)


def test_a_request_reaches_a_window_in_another_partition_and_those_of_others_stay(shop: Shop) -> None:
    # The clicks are in partition 0, which is restored first; a client with another partitioner put the null elsewhere.
    shop.click("ann", "i1", partition=0)
    kept = shop.click("bob", "i70", partition=0)
    shop.log.producer().send(Outgoing("clicks", [b"ann"], [None], partitions=[1]))
    other = shop.click("eve", "i71", partition=1)
    metrics = Metrics()
    equality.serve(shop.log, shop.chosen, 3, metrics)
    assert shop.times() == {"bob": [kept], "eve": [other]}
    assert shop.tombstones("ann") == {0, 1}
    assert shop.last_lists() == {"ann": False, "bob": True, "eve": True}
    assert metrics.registry.get_sample_value("headrace_forgotten_users_total") == 1


def test_the_verbs_requests_in_every_partition_forget_once_and_leave_later_clicks(shop: Shop) -> None:
    shop.click("ann", "i1")
    shop.serve(1)
    shop.log.producer().send(forget_requests.in_every_partition("clicks", equality.PARTITIONS, "ann"))
    again = shop.click("ann", "i2")  # after the request of its own partition, perhaps before that of another
    others = {user: [shop.click(user, "i70", partition)] for user, partition in (("bob", 0), ("eve", 2))}
    metrics = Metrics()
    equality.serve(shop.log, shop.chosen, 3, metrics)
    assert shop.times() == {"ann": [again], **others}
    assert shop.tombstones("ann") == {0, 2}
    assert shop.last_lists() == {"ann": True, "bob": True, "eve": True}
    assert metrics.registry.get_sample_value("headrace_forgotten_users_total") == 1


def test_users_who_are_not_held_are_not_counted(shop: Shop) -> None:
    shop.log.producer().send(forget_requests.in_every_partition("clicks", equality.PARTITIONS, "nobody"))
    for partition, user in enumerate(["bob", "eve", "zoë"]):
        shop.click(user, "i70", partition)
    metrics = Metrics()
    equality.serve(shop.log, shop.chosen, 3, metrics)
    assert metrics.registry.get_sample_value("headrace_forgotten_users_total") == 0
    assert shop.last_lists() == {"nobody": False, "bob": True, "eve": True, "zoë": True}


def test_a_null_under_a_key_in_quotes_is_for_the_user_inside(shop: Shop) -> None:
    shop.click("ann", "i1")
    shop.log.producer().send(Outgoing("clicks", [b'"ann"'], [None], partitions=[1]))
    kept = shop.click("bob", "i70")
    shop.serve(1)
    assert shop.times() == {"bob": [kept]}
    assert shop.last_lists() == {"ann": False, "bob": True}


@pytest.mark.parametrize(
    ("key", "user"),
    [
        (b"ann", "ann"),
        (b'"ann"', "ann"),
        (b'"zo\\u00eb"', "zo\u00eb"),
        (b'"', '"'),
        (b'"a"b"', '"a"b"'),
        (b'""', None),
        (b"", None),
        (None, None),
        (b"\xff", None),
        (b'"\\ud800"', '"\\ud800"'),
    ],
)
def test_the_user_of_a_key(key: bytes | None, user: str | None) -> None:
    assert forget_requests.user_of(key) == user


@pytest.mark.parametrize("user", ["ann", "zoë", '"ann"', '"', "", '"a"b"'])
def test_every_user_has_a_key(user: str) -> None:
    assert forget_requests.user_of(forget_requests.key_of(user)) == (user or None)


def test_dead_letters_of_a_user_are_deleted_and_those_of_others_kept() -> None:
    log, settings = MemoryLog(), Settings()
    log.ensure_topics(equality.topics(settings))
    letters = {
        b"rubbish": b"ann",
        b'{"user":"ann"}': None,
        b'{"user":"bob"}': None,
        b"more rubbish": b"bob",
        b'{"user":["ann"]}': None,
        b"\xff": None,
    }
    headers: list[Headers] = [[("headrace.reason", b"unparsable")]] * len(letters)
    log.producer().send(
        Outgoing("clicks.dead", list(letters.values()), list(letters), list(range(START_MS, START_MS + 6)), headers)
    )
    purge = LetterPurge(log, settings.clicks, "ann")
    assert purge.count() == 2
    assert purge.run() == 2
    left = list(dead_letters.read(log, "clicks.dead", LetterFilter()))
    assert [(letter.key, letter.value) for letter in left] == [(letters[value], value) for value in [*letters][2:]]
    assert [letter.timestamp_ms - START_MS for letter in left] == [2, 3, 4, 5]
    assert {letter.reason for letter in left} == {"unparsable"}
    assert LetterPurge(log, settings.clicks, "nobody").run() == 0
    assert len(list(dead_letters.read(log, "clicks.dead", LetterFilter()))) == 4


@pytest.mark.kafka
def test_the_verb_reaches_two_workers_and_the_dead_letters(
    kafka_bootstrap: str, kafka_log: KafkaLog, topic_names: Callable[[str], str], tiny_release: Path, tmp_path: Path
) -> None:
    site = Site(kafka_log, kafka_bootstrap, topic_names, tiny_release, tmp_path)
    home = partition_of(b"u4", PARTITIONS)
    elsewhere = (home + 1) % PARTITIONS
    values = [json.dumps({"user": "u4", "item": f"i{n}", "ts": START_MS + n}).encode() for n in range(3)]
    with kafka_log.producer() as producer:
        producer.send(Outgoing(site.clicks, [b"u4"] * 3, list(values), partitions=[elsewhere] * 3))
        producer.send(Outgoing(site.clicks, [b"u4", b"u5"], [b"rubbish"] * 2, partitions=[elsewhere] * 2))

    def run_forget(*options: str) -> Result:
        return CliRunner().invoke(forget.forget, ["u4", *options], env=site.environ)

    no_worker = run_forget("--wait", "0.5")
    assert isinstance(no_worker.exception, EventLogError)
    with site.worker(), site.worker():
        site.wait_for_count(1)
        done = run_forget("--wait", "40")
        assert done.exit_code == 0, (done.output, done.exception)
    assert f"'u4' is forgotten: workers answered the requests in all {PARTITIONS} partitions" in done.output
    assert "deleted 1 dead letters" in done.output
    assert equality.outcome(kafka_log, load(None, site.environ)).windows == {}
    assert last_values(kafka_log, site.lists) == {"u4": False}
    (letter,) = dead_letters.read(kafka_log, site.dead_letters, LetterFilter())
    assert letter.key == b"u5"
    assert "will be forgotten" in run_forget().output
