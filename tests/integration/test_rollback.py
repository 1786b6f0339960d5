"""Verbs of the registry, and what running workers make of them: a rollback is effective within two seconds."""

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from engine.cli.releases import releases
from engine.errors import ReleaseError, SettingsError
from engine.eventlog import topic_plan
from engine.eventlog.base import EventLog, Outgoing, TopicSpec
from engine.eventlog.kafka import KafkaLog
from engine.eventlog.memory.log import MemoryLog
from engine.messages.recommendation import decode_recommendation
from engine.metrics import Metrics
from engine.releases.registrar import Registrar
from engine.settings.loader import load
from engine.settings.sections import KafkaSettings, ReleaseSettings, Settings, WindowSettings, WorkerSettings
from engine.worker.loop import Worker
from models.publishing import announce
from tests.conftest import Report
from tests.unit.test_bundles import rewritten
from tests.waiting import LIMIT_S

EFFECTIVE_S = 2.0
PARTITIONS = 4
START_MS = 1_700_000_000_000


def settings_of(names: Callable[[str], str], kafka: KafkaSettings | None = None, **releases: object) -> Settings:
    """The engine's own defaults, but for names and sizes."""
    environ = {
        "HEADRACE_CLICKS__TOPIC": names("clicks"),
        "HEADRACE_CLICKS__DEAD_LETTER_TOPIC": names("dead"),
        "HEADRACE_WINDOWS__TOPIC": names("windows"),
        "HEADRACE_RECOMMENDATIONS__TOPIC": names("recommendations"),
    }
    group = (kafka or KafkaSettings()).model_copy(update={"group": names("group")})
    return load(None, environ).model_copy(
        update={
            "kafka": group,
            "windows": WindowSettings(topic=names("windows"), max_users=1000),
            "releases": ReleaseSettings.model_validate({"topic": names("releases"), **releases}),
            "worker": WorkerSettings(poll_timeout_s=0.02),
        }
    )


class Fleet:
    """Workers of one group in threads, and users who go on clicking."""

    def __init__(self, settings: Settings, log: EventLog, workers: int) -> None:
        self.settings, self.log = settings, log
        self.stop = threading.Event()
        self.workers = [Worker(settings, log, Metrics()) for _ in range(workers)]
        self.threads = [threading.Thread(target=worker.run, args=[self.stop]) for worker in self.workers]
        self.threads.append(threading.Thread(target=self._click))
        self.last_seen: dict[str, float] = {}
        """When the last list by each release came, by the monotonic clock."""

    @contextmanager
    def running(self) -> Iterator["Fleet"]:
        reader = threading.Thread(target=self._read)
        for thread in (*self.threads, reader):
            thread.start()
        try:
            yield self
        finally:
            self.stop.set()
            for thread in (*self.threads, reader):
                thread.join(LIMIT_S)

    def until_all_serve(self, name: str) -> float:
        """Seconds until every worker serves by the release, and a list by it was read."""
        started_s = time.monotonic()
        while not (
            all(worker.release_name == name and worker.not_ready is None for worker in self.workers)
            and self.last_seen.get(name, 0.0) >= started_s
        ):
            assert time.monotonic() < started_s + LIMIT_S, [worker.release_name for worker in self.workers]
            time.sleep(0.005)
        return time.monotonic() - started_s

    def _click(self) -> None:
        turn = 0
        with self.log.producer() as producer:
            while not self.stop.wait(0.02):
                turn += 1
                user = f"user-{turn % 50}"
                value = json.dumps({"user": user, "item": f"i{turn % 100}", "ts": START_MS + turn}).encode()
                producer.send(Outgoing(self.settings.clicks.topic, [user.encode()], [value]))
                producer.flush()

    def _read(self) -> None:
        with self.log.reader([self.settings.recommendations.topic]) as lists:
            while not self.stop.is_set():
                for records in lists.poll(0.05, 1000):
                    for value in filter(None, records.values):
                        self.last_seen[decode_recommendation(value).release] = time.monotonic()


def roll_back_and_forth(log: EventLog, settings: Settings, bundles: Sequence[Path], report: Report) -> None:
    """A, then B, then back to A: by one command, within two seconds, and it stays until the pin is lifted."""
    topic = topic_plan.releases(settings)
    log.ensure_topics([TopicSpec(settings.clicks.topic, PARTITIONS), topic])
    log.ensure_topics(topic_plan.outputs(settings, PARTITIONS))
    registrar = Registrar("two-hop", log, topic, settings.releases.folder)
    first, second, third = bundles
    now_ms = time.time_ns() // 1_000_000
    announce.to_topic(first, log, topic, now_ms)
    with Fleet(settings, log, 2).running() as fleet:
        fleet.until_all_serve("two-hop-a")
        announce.to_topic(second, log, topic, now_ms + 1)
        fleet.until_all_serve("two-hop-b")
        registrar.change(lambda registry: registry.rollback(time.time_ns() // 1_000_000, reason="a test"))
        seconds = fleet.until_all_serve("two-hop-a")
        report(f"rollback: effective on two workers after {seconds:.2f} s", {"rollback_s": seconds})
        assert seconds < EFFECTIVE_S
        announce.to_topic(third, log, topic, time.time_ns() // 1_000_000)
        time.sleep(3 * settings.releases.poll_interval_s)
        assert {worker.release_name for worker in fleet.workers} == {"two-hop-a"}
        with pytest.raises(ReleaseError, match="lift it first"):
            registrar.change(lambda registry: registry.promote("c", 0))
        registrar.change(lambda registry: registry.unpin(time.time_ns() // 1_000_000))
        fleet.until_all_serve("two-hop-c")


@pytest.fixture
def bundles(tiny_release: Path, tmp_path: Path) -> list[Path]:
    return [rewritten(tiny_release, tmp_path / "bundles", version=version) for version in "abc"]


def test_a_rollback_is_effective_within_two_seconds(bundles: list[Path], report: Report) -> None:
    roll_back_and_forth(MemoryLog(), settings_of(lambda name: name), bundles, report)


@pytest.mark.kafka
def test_a_rollback_is_effective_within_two_seconds_on_kafka(
    kafka_log: KafkaLog,
    kafka_settings: KafkaSettings,
    topic_names: Callable[[str], str],
    bundles: list[Path],
    report: Report,
) -> None:
    roll_back_and_forth(kafka_log, settings_of(topic_names, kafka_settings), bundles, report)


def test_a_change_reaches_workers_from_either_side(bundles: list[Path], tmp_path: Path) -> None:
    """A worker that sees the topic alone and one that sees the folder alone do the same."""
    log, folder = MemoryLog(), tmp_path / "watched"
    topic = TopicSpec("releases", compacted=True)
    for number, bundle in enumerate(bundles[:2]):
        announce.to_topic(bundle, log, topic, number + 1)
    registrar = Registrar("two-hop", log, topic, folder)
    registrar.change(lambda registry: registry.rollback(10, reason="a test"))
    by_topic = Registrar("two-hop", log, topic).read()
    by_folder = Registrar("two-hop", None, topic, folder).read()
    assert by_topic == by_folder == registrar.read()
    assert by_topic.aliases() == {"live": "a"}
    assert by_folder.pinned == "a"


def test_a_folder_that_cannot_be_written_says_what_was_done(bundles: list[Path], tmp_path: Path) -> None:
    log, topic = MemoryLog(), TopicSpec("releases", compacted=True)
    for number, bundle in enumerate(bundles[:2]):
        announce.to_topic(bundle, log, topic, number + 1)
    (tmp_path / "watched").write_text("a file")
    registrar = Registrar("two-hop", log, topic, tmp_path / "watched")
    with pytest.raises(ReleaseError, match=r"'releases.folder': .* cannot be written .*has the change.*pin VERSION"):
        registrar.change(lambda registry: registry.rollback(10))
    assert registrar.read().pinned == "a"


@pytest.fixture
def folder(bundles: list[Path], tmp_path: Path) -> Path:
    """A watched folder to which three releases were published."""
    for number, bundle in enumerate(bundles):
        announce.to_folder(bundle, tmp_path / "watched", number + 1)
    return tmp_path / "watched"


def run(folder: Path, *words: str) -> Result:
    return CliRunner().invoke(releases, [*words, "--folder", str(folder)], catch_exceptions=False)


def listed(folder: Path) -> dict[str, object]:
    rows: dict[str, object] = json.loads(run(folder, "list", "--json").stdout)
    return rows


def test_the_verbs_on_a_watched_folder(folder: Path) -> None:
    assert listed(folder)["aliases"] == {"live": "c", "previous": "b"}
    answer = run(folder, "rollback", "--reason", "lists are empty").stdout.splitlines()
    assert answer == [
        "two-hop-b is pinned (lists are empty) until `headrace releases unpin`",
        "two-hop-b is live",
        "two-hop-c is retired",
        "workers serve by two-hop-b",
    ]
    assert listed(folder)["pinned"] == "b"
    table = run(folder, "list").stdout.splitlines()
    assert table[0] == "two-hop is pinned: two-hop-b is pinned (lists are empty) until `headrace releases unpin`"
    assert "retired  -" in table[1]
    assert "live,pinned" in table[2]
    with pytest.raises(ReleaseError, match="pinned to b"):
        run(folder, "promote", "c")
    assert run(folder, "unpin").stdout == "the pin is lifted\nworkers serve by two-hop-b\n"
    assert run(folder, "unpin").stdout == "nothing is pinned\n"
    assert "workers serve by two-hop-c" in run(folder, "promote", "c").stdout
    assert "workers serve by two-hop-a" in run(folder, "pin", "a").stdout
    assert "two-hop-b is retired" in run(folder, "retire", "b").stdout


def test_show_and_diff(folder: Path) -> None:
    shown = json.loads(run(folder, "show", "live", "--json").stdout)
    assert (shown["version"], shown["aliases"], shown["manifest"]["items"]) == ("c", ["live"], 120)
    assert "manifest.contract.dimensions" in run(folder, "show", "previous").stdout
    differences = json.loads(run(folder, "diff", "a", "live", "--json").stdout)
    assert differences["version"] == ["a", "c"]
    assert differences["items in both"] == [120, 120]
    assert "contract.dimensions" not in differences
    assert "a -> c" in run(folder, "diff", "a", "c").stdout


def test_a_bundle_that_is_gone_does_not_hide_its_announcement(folder: Path) -> None:
    (folder / "two-hop-b" / "release.json").unlink()
    shown = json.loads(run(folder, "show", "b", "--json").stdout)
    assert shown["aliases"] == ["previous"]
    assert "cannot be read" in shown["bundle_error"]


def test_a_rollback_to_a_bundle_that_is_gone_says_so(folder: Path) -> None:
    """Workers may see another disk, or have a copy, so that it is no mistake."""
    shutil.rmtree(folder / "two-hop-b")
    answer = run(folder, "rollback")
    assert answer.stdout.endswith("workers serve by two-hop-b\n")
    assert answer.stderr.startswith(f"this host sees no bundle at {folder / 'two-hop-b'}: workers that do not see it")
    assert run(folder, "rollback").stderr == ""


@pytest.mark.parametrize("verb", [("list",), ("show", "live"), ("diff", "a", "b"), ("unpin",), ("rollback",)])
def test_a_watched_folder_that_is_not_there_is_no_empty_registry(verb: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"--folder: found .*nowhere, which is not there, .*headrace publish --fol"):
        run(tmp_path / "nowhere", *verb)
