"""Recorded real clicks through a real Kafka: every change gets its list, whatever happens to the worker.

With LONG_TESTS=1 the whole recording is replayed at its full rate, otherwise a part of it. Figures are printed
(pytest -s).
"""

import gzip
import os
import signal
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import pytest

from engine.eventlog.base import EventLog, Records
from engine.eventlog.kafka import KafkaLog
from engine.messages.recommendation import decode_recommendation
from tests.conftest import Report
from tests.integration.site import HEADRACE, Site

pytestmark = [pytest.mark.kafka, pytest.mark.data]

LONG = os.environ.get("LONG_TESTS") == "1"
CLICKS = 84_440 if LONG else 4_000
PARTS = 3
"""The clicks of a replay that is disturbed come in so many parts."""
RATE = 1_000
SOME_LISTS = 20
"""That a worker has made before it is killed."""
SETTLE_LIMIT_S = 60.0


@dataclass(frozen=True)
class Outcome:
    """What is on the topics after a replay."""

    clicks: dict[str, dict[tuple[int, int], int]]
    """By user: event time of each click, by partition and offset."""
    lists: dict[str, list[tuple[tuple[int, int], int, int]]]
    """By user: the click a list is named after, the newest event it knows, and milliseconds from append to append."""
    dead_letters: int


@pytest.fixture(scope="module")
def recorded_release(data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release that knows the items of the clicks that are replayed; how good it is does not matter here."""
    pytest.importorskip("torch", reason="a release is trained for this test: pip install 'headrace[train]'")
    from models.data import dataset  # noqa: PLC0415 - only where torch is installed
    from models.publishing import export  # noqa: PLC0415 - only where torch is installed
    from models.settings import EncoderSettings, TrainSettings  # noqa: PLC0415
    from models.training.fit import train  # noqa: PLC0415

    interactions = dataset.read(data_folder / "taobao-84k")
    chosen = TrainSettings(encoder=EncoderSettings(), holdout="none", epochs=1, negatives=64)
    trained = train(interactions.select(np.arange(len(interactions)) < CLICKS), chosen)
    return export.write(trained, chosen, ("two-hop", "taobao"), 0, tmp_path_factory.mktemp("releases"))


@pytest.fixture
def site(
    kafka_log: KafkaLog, kafka_bootstrap: str, topic_names: Callable[[str], str], recorded_release: Path, tmp_path: Path
) -> Site:
    return Site(kafka_log, kafka_bootstrap, topic_names, recorded_release, tmp_path)


@contextmanager
def replay(site: Site, recording: Path, clicks: int) -> Iterator[None]:
    """Play a recording meanwhile, and to its end when the block ends."""
    command = [str(HEADRACE), "produce", "replay", str(recording), "--rate", str(RATE), "--limit", str(clicks)]
    environ = site.environ | {"HEADRACE_CLICKS__TIME_UNIT": "ms"}
    with site.log_file.open("ab") as output:
        process = subprocess.Popen([*command, "--shift-to-now"], env=environ, stdout=output, stderr=output)
    try:
        yield
        assert process.wait(clicks / RATE + SETTLE_LIMIT_S) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def parts_of(data_folder: Path, folder: Path) -> list[Path]:
    """The clicks of the recording in order of time, in parts of which each can be replayed."""
    with gzip.open(data_folder / "taobao-84k" / "interactions.csv.gz", "rt") as file:
        head, *lines = file
    time_column = head.strip().split(",").index("ts")
    lines = sorted(lines, key=lambda line: float(line.split(",")[time_column]))[:CLICKS]
    parts = [folder / f"part-{number}" for number in range(PARTS)]
    for number, part in enumerate(parts):
        part.mkdir()
        with gzip.open(part / "interactions.csv.gz", "wt") as file:
            file.writelines([head, *lines[number * CLICKS // PARTS : (number + 1) * CLICKS // PARTS]])
    return parts


def test_every_change_gets_its_list(site: Site, data_folder: Path, report: Report) -> None:
    with site.worker() as worker:
        site.wait_until_ready()
        with replay(site, data_folder / "taobao-84k", CLICKS):
            pass
        outcome = settled(site)
        assert worker.poll() is None
    _check(outcome)
    for user, lists in outcome.lists.items():
        # One list for each batch in which the user's window changed, in order, each once.
        named = [click for click, _, _ in lists]
        assert named == sorted(set(named)), user
    freshness = np.array([ms for lists in outcome.lists.values() for _, _, ms in lists])
    p50_ms, p99_ms = (float(np.percentile(freshness, share)) for share in (50, 99))
    report(
        f"{CLICKS} clicks at {RATE}/s: {len(freshness)} lists for {len(outcome.lists)} users,"
        f" freshness p50 {p50_ms:.0f} ms, p99 {p99_ms:.0f} ms, {outcome.dead_letters} dead letters",
        {
            "clicks": CLICKS,
            "rate": RATE,
            "lists": len(freshness),
            "freshness_p50_ms": p50_ms,
            "freshness_p99_ms": p99_ms,
        },
    )
    assert outcome.dead_letters == 0


def test_killed_in_the_middle_no_user_is_left_without_the_list_of_the_newest_click(
    site: Site, data_folder: Path, tmp_path: Path
) -> None:
    """Each worker is killed when lists of its own have come, whatever the time; one part more always follows."""
    *disturbed, last = parts_of(data_folder, tmp_path)
    lists = 0
    for part, how in zip(disturbed, (signal.SIGTERM, signal.SIGKILL), strict=True):
        with site.worker() as worker:
            site.wait_until_ready()
            with replay(site, part, CLICKS):
                lists = site.wait_for_count(lists + SOME_LISTS)
                worker.send_signal(how)
                worker.wait(SETTLE_LIMIT_S)
    with site.worker():
        with replay(site, last, CLICKS):
            pass
        outcome = settled(site)
    _check(outcome)
    assert sum(map(len, outcome.clicks.values())) == CLICKS
    assert sum(map(len, outcome.lists.values())) > lists, "nothing was left to do after the last kill"


def _check(outcome: Outcome) -> None:
    assert outcome.lists.keys() == outcome.clicks.keys()
    for user, clicks in outcome.clicks.items():
        lists = outcome.lists[user]
        assert max(event_ms for _, event_ms, _ in lists) == max(clicks.values()), user
        assert {click for click, _, _ in lists} <= clicks.keys()


def settled(site: Site) -> Outcome:
    """What is on the topics once every user's newest click is in a list."""
    deadline = time.monotonic() + SETTLE_LIMIT_S
    while True:
        outcome = read(site)
        newest = {user: max(clicks.values()) for user, clicks in outcome.clicks.items()}
        known = {user: max(event_ms for _, event_ms, _ in lists) for user, lists in outcome.lists.items()}
        if newest == known or time.monotonic() > deadline:
            return outcome
        time.sleep(0.5)


def read(site: Site) -> Outcome:
    clicks: dict[str, dict[tuple[int, int], int]] = defaultdict(dict)
    appended: dict[tuple[int, int], int] = {}
    for records in whole_topic(site.log, site.clicks):
        for offset, stamp, value in zip(records.offsets, records.timestamps_ms, records.values, strict=True):
            click = msgspec.json.decode(value or b"")
            clicks[click["user"]][records.partition.number, offset] = click["ts"]
            appended[records.partition.number, offset] = stamp
    lists: dict[str, list[tuple[tuple[int, int], int, int]]] = defaultdict(list)
    for records in whole_topic(site.log, site.lists):
        for stamp, value in zip(records.timestamps_ms, records.values, strict=True):
            one = decode_recommendation(value or b"")
            partition, offset = map(int, one.id.split("-")[:2])
            lists[one.user].append(((partition, offset), one.event_ms, stamp - appended[partition, offset]))
    dead = sum(map(len, whole_topic(site.log, site.dead_letters))) if site.log.partitions(site.dead_letters) else 0
    return Outcome(clicks, lists, dead)


def whole_topic(log: EventLog, topic: str) -> list[Records]:
    found: list[Records] = []
    with log.reader([topic]) as reader:
        while not reader.at_end():
            found += reader.poll(0.2, 20_000)
    return found
