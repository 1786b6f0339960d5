"""`headrace run` as a process of its own on a real Kafka: stopped in order, killed, started again."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.eventlog.base import Outgoing
from engine.eventlog.kafka import KafkaLog
from tests.integration.site import HEADRACE, Site
from tests.unit.test_bundles import rewritten
from tests.waiting import LIMIT_S

pytestmark = pytest.mark.kafka

MORTAL_RUN = Path(__file__).with_name("mortal_run.py")


@pytest.fixture
def site(
    kafka_log: KafkaLog, kafka_bootstrap: str, topic_names: Callable[[str], str], tiny_release: Path, tmp_path: Path
) -> Site:
    return Site(kafka_log, kafka_bootstrap, topic_names, tiny_release, tmp_path)


def test_a_worker_serves_and_stops_in_order(site: Site) -> None:
    site.send_clicks(300)
    with site.worker() as process:
        lists = site.wait_for_lists(site.everyone_is_up_to_date)
        assert {one.release for one in lists} == {"two-hop-tiny"}
        process.send_signal(signal.SIGTERM)
        assert process.wait(LIMIT_S) == 0
    before = len(lists)
    site.send_clicks(50)
    with site.worker():
        lists = site.wait_for_lists(site.everyone_is_up_to_date)
    # Stopped in order, nothing was read twice: each later list comes of the 50 later clicks.
    assert len({one.id for one in lists}) == len(lists) <= before + 50


def test_a_successor_does_not_wait_for_what_a_killed_worker_left_open(site: Site) -> None:
    """Killed in the middle of a transaction, which the broker would end only after ten minutes."""
    site.environ["HEADRACE_KAFKA__TRANSACTION_TIMEOUT_S"] = "600"
    with site.worker(sys.executable, MORTAL_RUN, "before", "Transactions.commit", "2") as process:
        site.send_clicks(50)
        site.wait_for_lists(bool)
        site.send_clicks(50)
        assert process.wait(LIMIT_S) == -signal.SIGKILL
    with site.worker():
        site.wait_for_lists(site.everyone_is_up_to_date)  # gives up after a minute
    assert "ending the transaction that" in site.log_file.read_text()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_stopped_in_the_middle_no_user_is_left_without_the_newest_list(site: Site, how: signal.Signals) -> None:
    for _ in range(3):
        with site.worker() as process:
            site.send_clicks(200)
            # Some lists are out, others are not: the moment to stop.
            site.wait_for_lists(lambda found: len(found) > 0)
            process.send_signal(how)
            process.wait(LIMIT_S)
    site.send_clicks(100)
    with site.worker():
        site.wait_for_lists(site.everyone_is_up_to_date)


def test_two_workers_share_the_partitions(site: Site) -> None:
    with site.worker(), site.worker() as second:
        site.send_clicks(200)
        site.wait_for_lists(site.everyone_is_up_to_date)
        second.send_signal(signal.SIGTERM)
        assert second.wait(LIMIT_S) == 0
        site.send_clicks(200)
        site.wait_for_lists(site.everyone_is_up_to_date)


def test_an_absent_broker_is_named(site: Site, tmp_path: Path) -> None:
    environ = site.environ | {
        "HEADRACE_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1",
        "HEADRACE_KAFKA__CONNECT_TIMEOUT_S": "1",
    }
    with (tmp_path / "out").open("wb") as output:
        process = subprocess.Popen([HEADRACE, "run"], env=environ, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + LIMIT_S
        while "127.0.0.1:1" not in (tmp_path / "out").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert process.poll() is None, "the worker gave up instead of trying again"
        process.send_signal(signal.SIGTERM)
        assert process.wait(LIMIT_S) == 0
    finally:
        process.kill()
        process.wait(LIMIT_S)


def test_what_is_no_click_goes_aside_whatever_its_size(site: Site) -> None:
    huge = b"[" + b"9" * 10_000_000
    with site.log.producer() as producer:
        producer.send(Outgoing(site.clicks, [b"k", b"k"], [huge, b"rubbish"], headers=[[("trace", b"1")], []]))
    site.send_clicks(20)
    with site.worker():
        site.wait_for_lists(site.everyone_is_up_to_date)
    dead = {}
    with site.log.reader([site.dead_letters]) as reader:
        while not reader.at_end():
            for records in reader.poll(0.5, 10):
                for value, headers in zip(records.values, records.headers, strict=True):
                    dead[value] = dict(headers)
    assert dead.keys() == {huge, b"rubbish"}
    assert dead[huge]["headrace.reason"] == b"too_large"
    assert dead[huge]["trace"] == b"1"
    assert dead[b"rubbish"]["headrace.reason"] == b"unparsable"


def test_a_published_release_goes_live_while_the_worker_runs(site: Site, tiny_release: Path, tmp_path: Path) -> None:
    later = rewritten(tiny_release, tmp_path / "later", version="later")
    damaged = rewritten(tiny_release, tmp_path / "later", version="damaged")
    with site.worker():
        site.send_clicks(20)
        site.wait_for_lists(site.everyone_is_up_to_date)
        publish = subprocess.run(
            [HEADRACE, "publish", later], env=site.environ, capture_output=True, text=True, check=False
        )
        assert "two-hop-later is announced as live" in publish.stdout, publish.stderr
        deadline = time.monotonic() + LIMIT_S
        while "release two-hop-later is live" not in site.log_file.read_text():
            assert time.monotonic() < deadline, site.log_file.read_text()[-3000:]
            time.sleep(0.05)
        (damaged / "vectors.npy").write_bytes(b"cut short")
        refused = subprocess.run(
            [HEADRACE, "publish", damaged], env=site.environ, capture_output=True, text=True, check=False
        )
        assert refused.returncode == 2
        assert "vectors.npy has SHA-256" in refused.stderr
        site.send_clicks(20)
        lists = site.wait_for_lists(site.everyone_is_up_to_date)
    assert {one.release for one in lists} == {"two-hop-tiny", "two-hop-later"}
    # Partitions are read one after another, so order holds within one.
    for number in range(3):
        names = [one.release for one in lists if one.id.startswith(f"{number}-")]
        assert names == sorted(names, reverse=True)
