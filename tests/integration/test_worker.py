"""A whole worker on the in-process log: clicks in, lists and dead letters out, releases swapped while it runs."""

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from engine import contract
from engine.eventlog.base import Outgoing, Reader, TopicSpec
from engine.eventlog.memory.log import MemoryLog
from engine.messages.recommendation import Recommendation, decode_recommendation
from engine.metrics import Metrics
from engine.releases import announcements
from engine.settings.sections import (
    ClickSettings,
    ReleaseSettings,
    Settings,
    TelemetrySettings,
    WindowSettings,
    WorkerSettings,
)
from engine.worker.loop import Worker
from engine.worker.telemetry import Telemetry
from tests.unit.test_bundles import rewritten
from tests.waiting import LIMIT_S, until

START_MS = 1_700_000_000_000


@dataclass
class Running:
    """A worker in a thread, and both ends of its log."""

    settings: Settings
    log: MemoryLog
    metrics: Metrics
    worker: Worker
    lists: Reader
    dead: Reader
    stop: threading.Event = field(default_factory=threading.Event)
    _clock_ms: int = START_MS

    def click(self, *clicks: tuple[str, str]) -> None:
        values: list[bytes | None] = []
        for user, item in clicks:
            self._clock_ms += 1000
            values.append(json.dumps({"user": user, "item": item, "ts": self._clock_ms}).encode())
        self.send([user.encode() for user, _ in clicks], values)

    def send(self, keys: list[bytes | None], values: list[bytes | None]) -> None:
        self.log.producer().send(Outgoing("clicks", keys, values))

    def wait_for_lists(self, wanted: Callable[[list[Recommendation]], bool]) -> list[Recommendation]:
        """Lists as they arrive, until they are the wanted ones."""
        found: list[Recommendation] = []
        deadline = time.monotonic() + LIMIT_S
        while not wanted(found):
            assert time.monotonic() < deadline, f"not within {LIMIT_S} s; so far {found}"
            for records in self.lists.poll(0.05, 1000):
                found += [decode_recommendation(value or b"") for value in records.values]
        return found


@pytest.fixture
def running(tiny_release: Path) -> Iterator[Running]:
    settings = Settings(
        windows=WindowSettings(max_users=100),
        releases=ReleaseSettings(path=tiny_release, poll_interval_s=0.02),
        worker=WorkerSettings(poll_timeout_s=0.02),
        telemetry=TelemetrySettings(port=0),
    )
    log, metrics = MemoryLog(), Metrics()
    topics = [TopicSpec("clicks", 3), TopicSpec("recommendations", 3), TopicSpec("clicks.dead"), TopicSpec("releases")]
    log.ensure_topics(topics)
    worker = Worker(settings, log, metrics)
    running = Running(settings, log, metrics, worker, log.reader(["recommendations"]), log.reader(["clicks.dead"]))
    thread = threading.Thread(target=worker.run, args=[running.stop])
    thread.start()
    yield running
    running.stop.set()
    thread.join(LIMIT_S)
    assert not thread.is_alive()


def test_every_changed_user_gets_a_list(running: Running) -> None:
    running.click(("ann", "i10"), ("bob", "i70"), ("ann", "i11"))
    newest = {"ann": START_MS + 3000, "bob": START_MS + 2000}
    lists = running.wait_for_lists(lambda found: {(one.user, one.event_ms) for one in found} >= set(newest.items()))
    ann = [one for one in lists if one.user == "ann"][-1]
    assert ann.release == "two-hop-tiny"
    assert len(ann.items) == running.settings.recommendations.count
    assert ann.items[0].item in {"i12", "i13", "i14"}
    assert {reason.item for interest in ann.interests for reason in interest} <= {"i10", "i11"}
    assert ann.computed_ms >= ann.event_ms


def test_a_new_group_begins_at_the_latest_click(tiny_release: Path) -> None:
    settings = Settings(
        clicks=ClickSettings(start="latest"),
        windows=WindowSettings(max_users=100),
        releases=ReleaseSettings(path=tiny_release, poll_interval_s=0.02),
        worker=WorkerSettings(poll_timeout_s=0.02),
    )
    log, stop = MemoryLog(), threading.Event()
    log.ensure_topics([TopicSpec("clicks"), TopicSpec("recommendations")])
    worker = Worker(settings, log, Metrics())
    running = Running(settings, log, Metrics(), worker, log.reader(["recommendations"]), log.reader(["clicks"]), stop)
    running.click(("ann", "i10"))
    thread = threading.Thread(target=worker.run, args=[stop])
    thread.start()
    try:
        until(lambda: worker.not_ready is None)
        running.click(("bob", "i70"))
        assert [one.user for one in running.wait_for_lists(bool)] == ["bob"]
    finally:
        stop.set()
        thread.join(LIMIT_S)


def test_a_burst_of_one_user_gives_one_list_with_all_of_it(running: Running) -> None:
    running.click(*[("ann", f"i{number}") for number in range(10, 20)])
    lists = running.wait_for_lists(lambda found: bool(found) and found[-1].event_ms == START_MS + 10_000)
    assert len({one.id for one in lists}) == len(lists)
    assert not {place.item for place in lists[-1].items} & {f"i{number}" for number in range(10, 20)}


def test_what_is_no_click_goes_to_the_dead_letters_and_the_stream_goes_on(running: Running) -> None:
    bad = [b"rubbish", None, b'{"user":"ann"}', b'{"user":"","item":"i1","ts":1}', b"x" * 2_000_000]
    running.send([None] * len(bad), list(bad))
    running.click(("ann", "i10"))
    running.wait_for_lists(lambda found: [one.user for one in found] == ["ann"])
    dead = [value for records in _read(running.dead, len(bad)) for value in records]
    assert sorted(dead, key=repr) == sorted(bad, key=repr)
    reasons = {"unparsable": 1, "null_value": 1, "missing_field": 1, "empty_id": 1, "too_large": 1}
    until(lambda: _dead_letters(running.metrics) == reasons)  # counted after they are delivered


def test_the_letter_of_an_old_record_is_as_young_as_any(running: Running) -> None:
    """A broker deletes by the records' stamps: with the old one, the letter would be gone before anybody reads it."""
    began_ms = int(time.time() * 1000)
    running.log.producer().send(Outgoing("clicks", [None], [b"rubbish"], timestamps_ms=[START_MS]))
    (letter,) = running.dead.poll(LIMIT_S, 10)
    assert letter.timestamps_ms[0] >= began_ms
    assert dict(letter.headers[0])["headrace.timestamp_ms"] == b"%d" % START_MS


def test_a_repeated_click_changes_nothing(running: Running) -> None:
    click = json.dumps({"user": "ann", "item": "i10", "ts": START_MS}).encode()
    running.send([b"ann"], [click])
    running.wait_for_lists(lambda found: len(found) == 1)
    running.send([b"ann"], [click])
    running.click(("bob", "i70"))
    later = running.wait_for_lists(bool)
    assert [one.user for one in later] == ["bob"]


def test_an_unknown_item_waits_for_a_release_that_knows_it(
    running: Running, tiny_release: Path, tmp_path: Path
) -> None:
    running.click(("ann", "brand new"))
    cold = running.wait_for_lists(lambda found: len(found) == 1)
    assert {place.source for place in cold[0].items} == {"popular"}
    knows = rewritten(tiny_release, tmp_path / "r", version="knows", ids=["brand new", *_ids(tiny_release)[1:]])
    _publish(running.log, knows, 1)
    until(lambda: running.worker.release_name == "two-hop-knows")
    running.click(("ann", "i70"))
    warm = running.wait_for_lists(bool)
    assert {reason.item for interest in warm[0].interests for reason in interest} == {"brand new", "i70"}


def test_a_release_goes_live_between_two_batches_and_a_damaged_one_never(
    running: Running, tiny_release: Path, tmp_path: Path
) -> None:
    damaged = rewritten(tiny_release, tmp_path / "r", version="damaged")
    announcement = announcements.announce(damaged, "live", 1)
    (damaged / contract.ENCODER_FILE).write_bytes(b"")
    with running.log.producer() as producer:
        announcements.send(announcement, producer, "releases")
    until(lambda: "Damaged" in _scrape(running.metrics, "headrace_release_refusals_total"))
    running.click(("ann", "i10"))
    assert running.wait_for_lists(bool)[0].release == "two-hop-tiny"

    _publish(running.log, rewritten(tiny_release, tmp_path / "r", version="next"), 2)
    clicked = 0
    names: list[str] = []
    deadline = time.monotonic() + LIMIT_S
    while "two-hop-next" not in names:
        assert time.monotonic() < deadline
        running.click((f"user-{clicked}", "i10"))
        clicked += 1
        names += [one.release for one in running.wait_for_lists(bool)]
    assert names == sorted(names, reverse=True)  # "tiny" until the swap, "next" ever after
    assert len(names) == clicked


def test_health_readiness_and_metrics_over_http(running: Running) -> None:
    running.click(("ann", "i10"))
    running.wait_for_lists(bool)
    trouble: list[str | None] = [None]
    until(lambda: "headrace_lists_total 1.0" in _scrape(running.metrics, "headrace_lists_total"))
    with Telemetry(
        running.settings.telemetry, running.metrics.registry, lambda: trouble[0], lambda: running.worker.not_ready
    ) as telemetry:
        url = f"http://127.0.0.1:{telemetry.port}"
        assert _get(f"{url}/healthz") == (200, "ok\n")
        assert _get(f"{url}/readyz") == (200, "ok\n")
        trouble[0] = "stalled"
        assert _get(f"{url}/healthz") == (503, "stalled\n")
        assert _get(f"{url}/nothing")[0] == 404
        until(
            lambda: (
                "headrace_users{} 1" in _get(f"{url}/metrics")[1] or "headrace_users 1.0" in _get(f"{url}/metrics")[1]
            )
        )
        families = {family.name: family for family in text_string_to_metric_families(_get(f"{url}/metrics")[1])}
    assert families["headrace_clicks"].samples[0].value == 1
    assert families["headrace_lists"].samples[0].value == 1
    assert {sample.labels["version"] for sample in families["headrace_release_info"].samples} == {"tiny"}


def test_next_clicks_are_judged_by_the_list_that_was_published(running: Running) -> None:
    running.click(("ann", "i10"))
    first = running.wait_for_lists(bool)[0]
    running.click(("ann", first.items[0].item))
    running.wait_for_lists(bool)
    running.click(("ann", "never recommended"))
    running.wait_for_lists(bool)
    name = running.worker.release_name
    until(lambda: f'_total{{release="{name}"}} 2.0' in _scrape(running.metrics, "headrace_next_clicks_total"))
    assert f'_total{{release="{name}"}} 1.0' in _scrape(running.metrics, "headrace_next_click_hits_total")


def test_drift_is_counted_for_the_release_in_use(running: Running) -> None:
    running.click(("ann", "i10"), ("bob", "i70"), ("bob", "brand new"))
    running.wait_for_lists(lambda found: len(found) == 2)
    release = f'release="{running.worker.release_name}"'
    until(lambda: f"{{{release}}} 1.0" in _scrape(running.metrics, "headrace_unknown_item_clicks_total"))
    ages = _scrape(running.metrics, "headrace_item_clicks_total")
    assert sum(float(line.split()[-1]) for line in ages.splitlines() if release in line) == 3.0
    assert f"{{{release}}} 2.0" in _scrape(running.metrics, "headrace_interest_lists_total")


def _ids(bundle: Path) -> list[str]:
    ids: list[str] = json.loads((bundle / contract.IDS_FILE).read_bytes())
    return ids


def _publish(log: MemoryLog, bundle: Path, now_ms: int) -> None:
    with log.producer() as producer:
        announcements.send(announcements.announce(bundle, "live", now_ms), producer, "releases")


def _read(reader: Reader, count: int) -> list[list[bytes | None]]:
    batches: list[list[bytes | None]] = []
    deadline = time.monotonic() + LIMIT_S
    while sum(map(len, batches)) < count:
        assert time.monotonic() < deadline
        batches += [records.values for records in reader.poll(0.05, 1000)]
    return batches


def _dead_letters(metrics: Metrics) -> dict[str, float]:
    samples = [sample for family in metrics.dead_letters.collect() for sample in family.samples]
    return {sample.labels["reason"]: sample.value for sample in samples if sample.name.endswith("_total")}


def _scrape(metrics: Metrics, name: str) -> str:
    return "\n".join(line for line in generate_latest(metrics.registry).decode().splitlines() if line.startswith(name))


def _get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=LIMIT_S) as answer:  # noqa: S310 - loopback
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
