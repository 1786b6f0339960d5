"""What a swap costs those who click meanwhile, and the memory that it leaves behind: 100,000 items, a steady load.

    LONG_TESTS=1 pytest -s tests/benchmarks/test_swap.py

A worker serves by a release of 100,000 items; another of the same size is announced, fetched, tried in a child process,
verified, indexed and swapped in, while clicks come at a steady rate. Freshness is that of each list, from the append of
its click to its delivery, before the announcement and from then on until after the swap.
"""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import pytest

from engine.arrays import Float64
from engine.eventlog.base import Outgoing, TopicSpec
from engine.eventlog.memory.log import MemoryLog
from engine.messages.recommendation import decode_recommendation
from engine.metrics import Metrics
from engine.releases import announcements, bundles
from engine.releases.bundles import NewRelease
from engine.settings.sections import ReleaseSettings, Settings, WindowSettings
from engine.worker.batch import BatchReport
from engine.worker.loop import Worker
from producers.demo.bundled import DEMO_RELEASE
from tests.conftest import Report

ITEMS = 100_000
CLICKS_PER_S = 200
QUIET_S = 20.0
SETTLE_S = 10.0
LIMIT_S = 600.0
LATER_MS = 100.0
START_MS = 1_700_000_000_000


def large_release(version: str, seed: int, folder: Path) -> Path:
    """The demo's graphs with synthetic items near the trained ones."""
    demo, rng = bundles.read(DEMO_RELEASE), np.random.default_rng(seed)
    vectors = demo.vectors[rng.integers(0, len(demo.vectors), ITEMS)]
    return bundles.write(
        NewRelease(
            model="two-hop",
            version=version,
            created_ms=seed,
            contract=demo.manifest.contract,
            holdout=demo.manifest.holdout,
            encoder_onnx=demo.encoder_onnx,
            items_onnx=demo.items_onnx,
            vectors=(vectors + rng.normal(0.0, 0.1, vectors.shape) * vectors.std()).astype(np.float32),
            popularity=np.ones(ITEMS, np.float32),
            ids=[f"item-{number:07d}" for number in range(ITEMS)],
        ),
        folder,
    )


def resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


@dataclass
class Load:
    """A worker, clicks at a steady rate, and the freshness of every list with its time."""

    log: MemoryLog
    worker: Worker
    lists: list[tuple[float, float]] = field(default_factory=list)
    """Monotonic time of delivery, and freshness in milliseconds."""

    is_open: threading.Event = field(default_factory=threading.Event)

    def observe(self, report: BatchReport) -> None:
        now_s = time.monotonic()
        self.lists += [(now_s, milliseconds) for milliseconds in report.freshness_ms.tolist()]

    @contextmanager
    def running(self) -> Iterator[None]:
        stop = threading.Event()
        threads = [
            threading.Thread(target=self.worker.run, args=[stop]),
            threading.Thread(target=self._click, args=[stop]),
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join(LIMIT_S)

    def until_served_by(self, name: str) -> float:
        deadline = time.monotonic() + LIMIT_S
        while self.worker.release_name != name:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        return time.monotonic()

    def freshness_ms(self, start_s: float, end_s: float) -> Float64:
        return np.array([milliseconds for time_s, milliseconds in self.lists if start_s <= time_s < end_s])

    def _click(self, stop: threading.Event) -> None:
        self.is_open.wait(LIMIT_S)
        rng, producer, number = np.random.default_rng(0), self.log.producer(), 0
        while not stop.wait(1.0 / CLICKS_PER_S):
            number += 1
            user, item = f"user-{rng.integers(2000)}", f"item-{rng.integers(ITEMS):07d}"
            click = {"user": user, "item": item, "ts": START_MS + 1000 * number}
            producer.send(Outgoing("clicks", [user.encode()], [msgspec.json.encode(click)]))


@pytest.mark.skipif(os.environ.get("LONG_TESTS") != "1", reason="takes minutes: LONG_TESTS=1")
@pytest.mark.timeout(1800)
def test_no_list_is_late_because_of_a_swap_and_its_memory_comes_back(tmp_path: Path, report: Report) -> None:
    first, second = (large_release(version, seed, tmp_path) for seed, version in enumerate("ab"))
    settings = Settings(windows=WindowSettings(max_users=5000), releases=ReleaseSettings(path=first))
    log = MemoryLog()
    log.ensure_topics([TopicSpec("clicks"), TopicSpec("releases", compacted=True)])
    load = Load(log, None)  # type: ignore[arg-type] # the worker reports to the load
    load.worker = Worker(settings, log, Metrics(), load.observe)
    with load.running():
        quiet_s = load.until_served_by("two-hop-a") + SETTLE_S
        load.is_open.set()
        time.sleep(SETTLE_S + QUIET_S)
        memory = resident_mib()
        announcement = announcements.announce(second, "live", time.time_ns() // 1_000_000)
        announced_s = time.monotonic()
        with log.producer() as producer:
            announcements.send(announcement, producer, "releases")
        swapped_s = load.until_served_by("two-hop-b")
        while (left := resident_mib() - memory) > 0.25 * memory and time.monotonic() < swapped_s + 60.0:
            time.sleep(0.5)
        returned_s = time.monotonic() - swapped_s
        time.sleep(max(0.0, SETTLE_S - returned_s))
    quiet, warming, swap = (
        load.freshness_ms(*span)
        for span in ((quiet_s, announced_s), (announced_s, swapped_s), (swapped_s - 0.5, swapped_s + SETTLE_S))
    )
    later = {share: np.percentile(swap, share) - np.percentile(quiet, share) for share in (50, 99, 100)}
    figures = {
        "items": ITEMS,
        "ready_s": swapped_s - announced_s,
        "quiet_p99_ms": np.percentile(quiet, 99),
        "quiet_max_ms": quiet.max(),
        "warming_p99_ms": np.percentile(warming, 99),
        "warming_max_ms": warming.max(),
        "swap_p99_ms": np.percentile(swap, 99),
        "swap_max_ms": swap.max(),
        "memory_returned_s": returned_s,
        "memory_left_mib": left,
    }
    report(
        f"swap at {ITEMS:,} items, ready {figures['ready_s']:.0f} s after the announcement; freshness p99 / max:"
        f" before {figures['quiet_p99_ms']:.0f} / {figures['quiet_max_ms']:.0f} ms, while it is made ready"
        f" {figures['warming_p99_ms']:.0f} / {figures['warming_max_ms']:.0f} ms, around the swap"
        f" {figures['swap_p99_ms']:.0f} / {figures['swap_max_ms']:.0f} ms; memory back to one release (+{left:.0f} of"
        f" {memory:.0f} MiB) after {returned_s:.1f} s",
        {name: float(value) for name, value in figures.items()},
    )
    names = [decode_recommendation(value).release for value in _messages(log)]
    changes = [(before, after) for before, after in pairwise(names) if before != after]
    assert changes == [("two-hop-a", "two-hop-b")]  # each list names its release, and no list is by the old one after
    assert later[99] <= LATER_MS
    assert returned_s < 60.0


def _messages(log: MemoryLog) -> Iterator[bytes]:
    with log.reader(["recommendations"]) as reader:
        while polled := reader.poll(0.0, 10_000):
            for records in polled:
                yield from filter(None, records.values)
