"""A worker that waits says so: without a release, behind its clicks, or refused by the cluster."""

import logging
from contextlib import closing
from pathlib import Path

import pytest

from engine.cli.options import log_to_stderr
from engine.errors import EventLogError, LoginRefusedError, RightMissingError
from engine.eventlog import topic_plan
from engine.eventlog.base import Outgoing, Partition, Rebalance, TopicSpec
from engine.eventlog.memory.log import MemoryLog
from engine.eventlog.time_source import TimeSource
from engine.metrics import Metrics
from engine.releases.release_loader import TrialChange
from engine.releases.serving import LiveRelease
from engine.settings.sections import ReleaseSettings, Settings, TelemetrySettings, WindowSettings
from engine.worker.access import Access
from engine.worker.lag import LagGauges
from engine.worker.loop import Environment, Worker

NOW_MS = 1_700_000_000_000


class NoReleases:
    """A source in which there is none."""

    def start(self) -> None:
        """Nothing to begin."""

    def wait(self, timeout_s: float) -> bool:
        """There is none."""
        del timeout_s
        return False

    def take(self) -> LiveRelease | None:
        """There is none."""
        return None

    def take_trial(self) -> TrialChange | None:
        """There is none."""
        return None

    def close(self) -> None:
        """Nothing to stop."""


def test_a_group_that_had_windows_does_not_begin_with_none_without_a_word(tiny_release: Path) -> None:
    """Its topic of windows was deleted while no worker ran, or the settings name another one."""
    settings = Settings(windows=WindowSettings(max_users=100), releases=ReleaseSettings(path=tiny_release))
    log = MemoryLog()
    log.ensure_topics([TopicSpec(settings.clicks.topic)])
    log.begin_group(settings.kafka.group, settings.clicks.topic, None)
    worker = Worker(settings, log, Metrics())
    with closing(worker):
        worker.start()
        while "does not exist, although group 'headrace' (kafka.group) has read" not in (worker.not_ready or ""):
            worker.step()
        assert log.partitions(settings.windows.topic) == 0
        log.ensure_topics(topic_plan.outputs(settings, 1))
        while worker.not_ready is not None:
            worker.step()


def test_a_worker_without_a_release_says_so_at_once_and_every_minute(caplog: pytest.LogCaptureFixture) -> None:
    now_s = [100.0]
    environment = Environment(TimeSource(lambda: now_s[0], lambda: NOW_MS), lambda _catalogue: NoReleases())
    worker = Worker(Settings(windows=WindowSettings(max_users=100)), MemoryLog(), Metrics(), environment=environment)
    said_at_s = []
    for _ in range(1300):
        with caplog.at_level(logging.WARNING):
            worker.step()
        said_at_s += [now_s[0]] * len(caplog.records)
        caplog.clear()
        now_s[0] += 0.1
    worker.close()
    assert [round(s) for s in said_at_s] == [100, 160, 220]
    assert worker.not_ready == "no release is live yet"


def samples(metrics: Metrics, name: str) -> dict[str, float]:
    """Values by partition."""
    return {
        sample.labels["partition"]: sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == name
    }


def test_the_age_of_the_oldest_unread_record() -> None:
    """Partition 0 is read, 1 is paused from the start, 2 is empty."""
    log, metrics, now_ms = MemoryLog(), Metrics(), [NOW_MS]
    log.ensure_topics([TopicSpec("clicks", 3)])

    def send(partition: int, *ages_s: int) -> None:
        stamps = [now_ms[0] - 1000 * age_s for age_s in ages_s]
        count = len(stamps)
        log.producer().send(Outgoing("clicks", [b"u"] * count, [b"v"] * count, stamps, partitions=[partition] * count))

    send(0, 500, 400, 300)
    send(1, 90, 80)
    gauges = LagGauges(metrics, log, TimeSource(lambda: now_ms[0] / 1000, lambda: now_ms[0]))
    with closing(log.session(["clicks"], "group", Rebalance())) as session:
        first = session.poll(0.0, 2)
        assert [records.partition.number for records in first] == [0]
        session.pause([Partition("clicks", 1)])
        gauges.read(first)
        gauges.update(session)
        gauges.update(session)
        assert samples(metrics, "headrace_consumer_lag") == {"0": 1, "1": 2, "2": 0}
        assert samples(metrics, "headrace_consumer_lag_seconds") == {"0": 400, "1": 90, "2": 0}
        gauges.read(session.poll(0.0, 100))
        gauges.update(session)
        now_ms[0] += 5_000
        send(0, 1)
        send(2, 4)
        gauges.update(session)
        assert samples(metrics, "headrace_consumer_lag") == {"0": 1, "1": 2, "2": 1}
        assert samples(metrics, "headrace_consumer_lag_seconds") == {"0": 5, "1": 95, "2": 5}  # since the last look
        gauges.drop([Partition("clicks", 1)])
        assert samples(metrics, "headrace_consumer_lag").keys() == {"0", "2"}
        gauges.clear()
    assert samples(metrics, "headrace_consumer_lag_seconds") == {}


@pytest.mark.parametrize("error", [LoginRefusedError("no"), RightMissingError("no")])
def test_a_refusal_that_goes_on_from_the_start_ends_the_worker(error: EventLogError) -> None:
    access = Access(60.0)
    access.failed(error, 10.0, lasted=False)
    access.failed(EventLogError("the broker is being restarted"), 40.0, lasted=False)
    access.failed(error, 69.0, lasted=False)
    with pytest.raises(type(error)):
        access.failed(error, 70.0, lasted=False)


def test_a_refusal_ends_no_worker_that_has_served_or_that_it_let_in_meanwhile() -> None:
    access = Access(60.0)
    access.failed(RightMissingError("no"), 10.0, lasted=False)
    access.failed(RightMissingError("no"), 80.0, lasted=True)
    access.served()
    access.failed(RightMissingError("no"), 800.0, lasted=False)
    access.failed(RightMissingError("no"), 8000.0, lasted=False)


@pytest.mark.parametrize(("level", "expected"), [("info", "ERROR"), ("debug", "INFO")])
def test_the_clients_log_is_at_error_unless_debugging(
    level: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    logging.getLogger("kafka").setLevel(logging.NOTSET)
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    log_to_stderr(Settings(telemetry=TelemetrySettings.model_validate({"log_level": level})))
    assert logging.getLevelName(logging.getLogger("kafka").level) == expected


def test_the_client_repeats_an_error_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []

    class Shown(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            shown.append(record.getMessage())

    logging.getLogger("kafka").setLevel(logging.NOTSET)
    monkeypatch.setattr(logging.getLogger(), "handlers", [Shown()])
    log_to_stderr(Settings())
    for number in range(100):
        logging.getLogger("kafka.cluster").error("refresh %d failed", number)
        logging.getLogger("engine.worker.loop").error("ours %d", number)
    assert [text for text in shown if text.startswith("refresh")] == ["refresh 0 failed"]
    assert len([text for text in shown if text.startswith("ours")]) == 100
