"""Brokers die and freeze, and a worker is cut off: lists flow again soon, none is missing and none there twice.

Short form: one of three brokers dies. LONG_TESTS=1: twenty deaths, thirty freezes.
"""

import logging
import os
import random
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import pytest

from engine.eventlog.kafka import KafkaLog
from engine.messages.recommendation import decode_recommendation
from engine.settings.sections import KafkaSettings, Settings
from tests.conftest import only_long
from tests.integration import broker, equality
from tests.integration.equality import Recorded
from tests.integration.site import Site
from tests.waiting import LIMIT_S

logger = logging.getLogger(__name__)

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(1800)]

DEATHS = 20 if os.environ.get("LONG_TESTS") else 1
FREEZES = 30
BUSY = 0.3
"""Of one core: more than a worker takes that has nothing to do."""
RATE = 40
"""Clicks a second."""
FLOWS_AGAIN_S = 15.0


class Load:
    """Clicks on their way at a steady rate, and a reader of the lists; a context manager."""

    def __init__(self, site: Site, clicks: Recorded) -> None:
        self.seen: dict[int, int] = {}
        """By partition, the highest offset of a click whose list was seen."""
        self._site = site
        self._clicks = clicks
        self._sent = 0
        self._enough, self._left = threading.Event(), threading.Event()
        self._sender = threading.Thread(target=self._send)
        self._reader = threading.Thread(target=self._read)

    def __enter__(self) -> Self:
        self._sender.start()
        self._reader.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._enough.set()
        self._left.set()
        self._sender.join()
        self._reader.join()

    def wait_for_what_is_sent_from_now_on(self, limit_s: float) -> float:
        """Wait for a list of a later click on each partition; returns the seconds it took."""
        started, sent = time.monotonic(), Counter(self.so_far().partitions)
        while not all(self.seen.get(number, -1) >= sent[number] for number in range(equality.PARTITIONS)):
            assert time.monotonic() - started < limit_s, f"{sent} sent, {self.seen} seen after {limit_s:g} s"
            time.sleep(0.02)
        return time.monotonic() - started

    def rest(self) -> None:
        """Send no more, and wait for the lists of all that was sent."""
        self._enough.set()
        self._sender.join()
        self._site.wait_for_lists(lambda found: equality.newest(found) == self.so_far().last_places())

    def so_far(self) -> Recorded:
        """The clicks sent."""
        return self._clicks.first(self._sent)

    def _send(self) -> None:
        with self._site.log.producer() as producer:
            while not self._enough.wait(1 / RATE):
                assert self._sent < len(self._clicks), "the recording is too short for this test"
                producer.send(self._clicks.outgoing(self._site.clicks, self._sent, self._sent + 1))
                self._sent += 1

    def _read(self) -> None:
        with self._site.log.reader([self._site.lists]) as reader:
            while not self._left.is_set():
                for records in reader.poll(0.1, 1000):
                    for value in records.values:
                        partition, offset = equality.place(decode_recommendation(value or b""))
                        self.seen[partition] = max(offset, self.seen.get(partition, -1))


@pytest.fixture(scope="module")
def clicks(data_folder: Path) -> Recorded:
    return equality.recorded(data_folder, 1500 * (DEATHS + 1)).interleaved()


@pytest.fixture
def three(kafka_home: Path, tmp_path: Path) -> Iterator[broker.Cluster]:
    with broker.Cluster(kafka_home, tmp_path / "kafka", nodes=3) as cluster:
        yield cluster


@pytest.fixture
def one(kafka_home: Path, tmp_path: Path) -> Iterator[broker.Cluster]:
    with broker.Cluster(kafka_home, tmp_path / "kafka") as cluster:
        yield cluster


Start = Callable[[broker.Cluster], tuple[Site, Settings]]


@pytest.fixture
def start(tiny_release: Path, tmp_path: Path) -> Start:
    """Makes the topics on a cluster, and the settings of the workers there: time limits and batches as shipped."""

    def start(cluster: broker.Cluster) -> tuple[Site, Settings]:
        log = KafkaLog(KafkaSettings(bootstrap_servers=cluster.bootstrap, delivery_timeout_s=LIMIT_S))
        site = Site(log, cluster.bootstrap, str, tiny_release, tmp_path)
        chosen = equality.on_site(site, "exactly_once")
        for name in [name for name in site.environ if name.endswith(("_TIMEOUT_S", "_MAX_BATCH_CLICKS"))]:
            del site.environ[name]
        site.environ["HEADRACE_CANARY__INTERVAL_S"] = "0.5"
        log.ensure_topics(equality.topics(chosen))
        return site, chosen

    return start


def test_the_death_of_brokers(three: broker.Cluster, start: Start, clicks: Recorded) -> None:
    """Each in turn is killed (kill -9) and started again, whatever it leads or coordinates."""
    site, chosen = start(three)
    with site.worker() as process, Load(site, clicks) as load:
        load.wait_for_what_is_sent_from_now_on(LIMIT_S)
        threads = settled_threads(process)
        for death in range(DEATHS):
            node = three.nodes[death % len(three.nodes)]
            three.stop(node, signal.SIGKILL)
            took_s = load.wait_for_what_is_sent_from_now_on(FLOWS_AGAIN_S)
            logger.info("death %d, of node %d: lists again after %.1f s", death + 1, node.number, took_s)
            three.start(node)
            back_s = load.wait_for_what_is_sent_from_now_on(FLOWS_AGAIN_S)
            logger.info("node %d is back: the next lists took %.1f s", node.number, back_s)
        load.rest()
        # The worker is as it was: nothing left behind, nothing busy.
        assert threads_of(process) <= threads
        assert cpu_share(process) < BUSY
    nothing_missing_and_nothing_twice(site, chosen, load)


@only_long
def test_a_restart_of_the_only_broker(one: broker.Cluster, start: Start, clicks: Recorded) -> None:
    site, chosen = start(one)
    with site.worker(), Load(site, clicks) as load:
        load.wait_for_what_is_sent_from_now_on(LIMIT_S)
        one.stop(one.nodes[0])
        one.start(one.nodes[0])
        load.wait_for_what_is_sent_from_now_on(LIMIT_S)
        load.rest()
    nothing_missing_and_nothing_twice(site, chosen, load)


@only_long
def test_a_broker_that_freezes(one: broker.Cluster, start: Start, clicks: Recorded) -> None:
    """Stopped (SIGSTOP) until commits have timed out, then let go with everything that waits in its sockets."""
    site, chosen = start(one)
    site.environ["HEADRACE_KAFKA__COMMIT_TIMEOUT_S"] = "4"
    site.environ["HEADRACE_KAFKA__TRANSACTION_TIMEOUT_S"] = "600"  # nobody but a worker ends what is left open
    dice = random.Random(FREEZES)
    with site.worker(), Load(site, clicks) as load:
        load.wait_for_what_is_sent_from_now_on(LIMIT_S)
        for freeze in range(FREEZES):
            one.send_signal(one.nodes[0], signal.SIGSTOP)
            time.sleep(dice.uniform(5.0, 12.0))
            one.send_signal(one.nodes[0], signal.SIGCONT)
            took_s = load.wait_for_what_is_sent_from_now_on(LIMIT_S)
            logger.info("freeze %d: lists again after %.1f s", freeze + 1, took_s)
        load.rest()
    nothing_missing_and_nothing_twice(site, chosen, load)


@only_long
def test_a_worker_that_is_cut_off_comes_back_as_a_zombie_and_is_refused(
    one: broker.Cluster, start: Start, clicks: Recorded
) -> None:
    """Stopped (SIGSTOP) until its group session has expired and another has its partitions, then let go."""
    site, chosen = start(one)
    site.environ["HEADRACE_KAFKA__SESSION_TIMEOUT_S"] = "3"
    with site.worker() as zombie, Load(site, clicks) as load:
        load.wait_for_what_is_sent_from_now_on(LIMIT_S)
        zombie.send_signal(signal.SIGSTOP)
        with site.worker():
            load.wait_for_what_is_sent_from_now_on(LIMIT_S)
            zombie.send_signal(signal.SIGCONT)
            for _ in range(3):
                load.wait_for_what_is_sent_from_now_on(LIMIT_S)
        load.wait_for_what_is_sent_from_now_on(LIMIT_S)
        load.rest()
    nothing_missing_and_nothing_twice(site, chosen, load)


def nothing_missing_and_nothing_twice(site: Site, chosen: Settings, load: Load) -> None:
    sent = load.so_far()
    equality.assert_equal(equality.outcome(site.log, chosen), equality.undisturbed(sent, chosen), sent, repeats=False)


def settled_threads(process: subprocess.Popen[bytes]) -> int:
    """Threads of a worker once all are there: the one that looks at canaries opens its reader after a while."""
    counts = [threads_of(process)]
    while len(set(counts[-10:])) > 1 or len(counts) < 10:
        time.sleep(0.5)
        counts.append(threads_of(process))
    return counts[-1]


def threads_of(process: subprocess.Popen[bytes]) -> int:
    return len(os.listdir(f"/proc/{process.pid}/task"))  # noqa: PTH208 - as short as can be


def cpu_share(process: subprocess.Popen[bytes], seconds: float = 3.0) -> float:
    """Of one core, what a process takes."""

    def ticks() -> int:
        return sum(map(int, Path(f"/proc/{process.pid}/stat").read_text().rpartition(") ")[2].split()[11:13]))

    before = ticks()
    time.sleep(seconds)
    return (ticks() - before) / os.sysconf("SC_CLK_TCK") / seconds
