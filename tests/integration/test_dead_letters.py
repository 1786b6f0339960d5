"""Dead letters are looked at, chosen and sent again as the records they were."""

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from engine.catalogue.actions import Actions
from engine.cli.dead import dead as dead_verb
from engine.errors import EventLogError
from engine.eventlog.base import EventLog, Outgoing, Partition, TopicSpec
from engine.eventlog.memory.log import MemoryLog
from engine.ingest import dead_letters
from engine.ingest.dead_letters import LetterFilter
from engine.ingest.decoder import ClickDecoder
from engine.settings.sections import ClickFields, ClickSettings, KafkaSettings
from tests.integration.equality import NO_SETTINGS
from tests.integration.site import PARTITIONS

# Ten minutes ago, by the minute: a broker deletes what is older than its topic's retention.
START_MS = (int(time.time()) // 60 - 10) * 60_000
BAD = [b"rubbish", b'{"user":"ann"}', b'{"user":"","item":"i","ts":1}', b"more rubbish"]
REASONS = ["unparsable", "missing_field", "empty_id", "unparsable"]

Names = Callable[[str], str]


@pytest.fixture(params=["memory", pytest.param("kafka", marks=pytest.mark.kafka)])
def log(request: pytest.FixtureRequest) -> EventLog:
    if request.param == "memory":
        return MemoryLog()
    kafka: EventLog = request.getfixturevalue("kafka_log")
    return kafka


def bury(log: EventLog, clicks: str, dead: str) -> None:
    """Put bad clicks on partition 2, one a minute, and their dead letters where they belong, as a worker does."""
    log.ensure_topics([TopicSpec(clicks, PARTITIONS), TopicSpec(dead)])
    count = len(BAD)
    with log.producer() as producer:
        producer.send(
            Outgoing(
                topic=clicks,
                keys=[b"ann", b"ann", None, b"bob"],
                values=list(BAD),
                timestamps_ms=[START_MS + 60_000 * minute for minute in range(count)],
                headers=[[("trace", b"%d" % number)] for number in range(count)],
                partitions=[2] * count,
            )
        )
    settings = ClickSettings(topic=clicks, dead_letter_topic=dead)
    with log.reader([Partition(clicks, 2)]) as reader, log.producer() as producer:
        while not reader.at_end():
            _, letters = ClickDecoder(settings, Actions(settings)).decode(reader.poll(0.2, 100), START_MS)
            for letter in sorted(letters, key=lambda letter: letter.offset):
                producer.send(Outgoing(dead, [letter.key], [letter.value], headers=[letter.as_headers()]))


def minute(number: int) -> str:
    """The time of a bad click, as the verbs want it."""
    return datetime.fromtimestamp(START_MS / 1000 + 60 * number, UTC).strftime("%Y-%m-%dT%H:%M")


def test_letters_say_where_they_came_from_and_why(log: EventLog, topic_names: Names) -> None:
    clicks, dead = topic_names("clicks"), topic_names("dead")
    bury(log, clicks, dead)
    with log.reader([dead]) as reader:
        stamps_ms = [stamp_ms for records in reader.poll(5.0, 100) for stamp_ms in records.timestamps_ms]
    assert min(stamps_ms) > START_MS + 60_000 * len(BAD)  # when it was buried: the broker's retention counts from there
    letters = list(dead_letters.read(log, dead, LetterFilter()))
    assert [letter.reason for letter in letters] == REASONS
    assert [letter.value for letter in letters] == BAD
    assert [(letter.origin, letter.origin_offset) for letter in letters] == [
        (Partition(clicks, 2), n) for n in range(4)
    ]
    assert [letter.timestamp_ms - START_MS for letter in letters] == [0, 60_000, 120_000, 180_000]


@pytest.mark.parametrize(
    ("choice", "chosen"),
    [
        (LetterFilter(reason="unparsable"), [0, 3]),
        (LetterFilter(since_ms=START_MS + 60_000), [1, 2, 3]),
        (LetterFilter(until_ms=START_MS + 60_000), [0]),
        (LetterFilter("unparsable", START_MS + 1, START_MS + 180_000), []),
    ],
)
def test_letters_are_chosen_by_reason_and_time(choice: LetterFilter, chosen: list[int]) -> None:
    log = MemoryLog()
    bury(log, "clicks", "dead")
    assert [letter.offset for letter in dead_letters.read(log, "dead", choice)] == chosen


def test_a_replay_keeps_partition_key_headers_and_time(log: EventLog, topic_names: Names) -> None:
    clicks, dead = topic_names("clicks"), topic_names("dead")
    bury(log, clicks, dead)
    assert dead_letters.replay(log, dead_letters.read(log, dead, LetterFilter(reason="unparsable"))).sent == 2
    with log.reader([clicks]) as reader:
        batches = []
        while not reader.at_end():
            batches += reader.poll(0.2, 100)
    assert {records.partition.number for records in batches} == {2}
    again = [
        row
        for records in batches
        for row in zip(records.keys, records.values, records.timestamps_ms, map(list, records.headers), strict=True)
    ][4:]
    assert again == [
        (b"ann", b"rubbish", START_MS, [("trace", b"0")]),
        (b"bob", b"more rubbish", START_MS + 180_000, [("trace", b"3")]),
    ]


def test_a_letter_of_unknown_origin_is_not_replayed_anywhere() -> None:
    log = MemoryLog()
    bury(log, "clicks", "dead")
    log.producer().send(Outgoing("dead", [b"k"], [b"v"]))
    with pytest.raises(EventLogError, match=r"0/4 does not name its origin"):
        dead_letters.replay(log, dead_letters.read(log, "dead", LetterFilter(reason="unknown")))
    with pytest.raises(EventLogError, match=r"no dead letter at 0/9"):
        dead_letters.find(log, Partition("dead", 0), 9)


def test_a_letter_without_its_value_is_not_sent_as_a_request_to_forget() -> None:
    log = MemoryLog()
    clicks = ClickSettings(fields=ClickFields(consent="ok"))
    log.ensure_topics([TopicSpec("clicks"), TopicSpec("dead")])
    bad = [b'{"user":"ann","item":"i","ts":"soon","ok":%s}' % consent for consent in (b"true", b"false")]
    with log.producer() as producer:
        producer.send(Outgoing("clicks", [b"ann", b"ann"], [*bad]))
    with log.reader(["clicks"]) as reader, log.producer() as producer:
        _, letters = ClickDecoder(clicks, Actions(clicks)).decode(reader.poll(0.2, 100), START_MS)
        headers = [letter.as_headers() for letter in letters]
        producer.send(Outgoing("dead", [b"ann", b"ann"], [letter.value for letter in letters], headers=headers))
    assert [letter.value for letter in dead_letters.read(log, "dead", LetterFilter())] == [bad[0], None]
    assert dead_letters.replay(log, dead_letters.read(log, "dead", LetterFilter())) == (1, 1, 0)
    with log.reader(["clicks"]) as reader:
        assert [value for records in reader.poll(0.2, 100) for value in records.values] == [*bad, bad[0]]


@pytest.mark.kafka
def test_the_verbs(kafka_settings: KafkaSettings, kafka_log: EventLog, topic_names: Names, tmp_path: Path) -> None:
    clicks, dead = topic_names("clicks"), topic_names("dead")
    bury(kafka_log, clicks, dead)
    config = tmp_path / "headrace.toml"
    config.write_text(
        f'[kafka]\nbootstrap_servers = "{kafka_settings.bootstrap_servers}"\n'
        f'[clicks]\ntopic = "{clicks}"\ndead_letter_topic = "{dead}"\n'
    )

    def run(*arguments: str) -> Result:
        return CliRunner(env=NO_SETTINGS).invoke(
            dead_verb, [*arguments, "--config", str(config)], catch_exceptions=False
        )

    lines = run("list", "--reason", "unparsable").output.splitlines()
    assert [line.split("  ")[:4] for line in lines] == [
        ["0/0", f"{minute(0)}:00.000+00:00", "unparsable", f"{clicks}/2/0"],
        ["0/3", f"{minute(3)}:00.000+00:00", "unparsable", f"{clicks}/2/3"],
    ]
    late = run("list", "--json", "--since", minute(2)).output.splitlines()
    assert [json.loads(line)["place"] for line in late] == ["0/2", "0/3"]
    shown = run("show", "0/1")
    assert shown.stdout_bytes == BAD[1]
    assert "missing required field" in shown.stderr
    assert "header  trace: b'1'" in shown.stderr
    assert run("replay", "--until", minute(1)).output == "sent 1 again\n"
