"""Crash equality: whenever a worker dies, windows and lists end up as if nothing had happened."""

import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from engine.eventlog.base import EventLog, Outgoing, Partition, Rebalance, Session
from engine.eventlog.kafka import KafkaLog
from engine.eventlog.memory.log import MemoryLog
from engine.settings.sections import Settings, SnapshotSettings, WorkerSettings
from tests.integration import equality
from tests.integration.equality import Outcome, Recorded
from tests.integration.site import Site
from tests.waiting import LIMIT_S

SEED = int(os.environ.get("TESTS_SEED", "1"))
IS_LONG = bool(os.environ.get("LONG_TESTS"))
MOMENTS = 20 if IS_LONG else 1
"""Random moments at which a worker on Kafka is killed."""
CLICKS = 600
DEATHS = 15
"""Of workers on the in-process log."""
MORTAL_RUN = Path(__file__).with_name("mortal_run.py")

Point = Literal["sent", "outputs", "state", "positions"]
"""Where a worker dies: before the commit, or behind one of its steps."""
IN_ORDER: tuple[Point, ...] = ("outputs", "state", "positions")
"""The steps of a commit without transactions, as `Session.commit` promises them."""


class Death(BaseException):
    """Stands for kill -9: nothing in a worker catches it."""


class MortalSession:
    """A session whose worker may die in a commit, which is done in these steps, or in one where there are none."""

    def __init__(self, session: Session, pass_by: Callable[[Point], None], steps: Sequence[Point]) -> None:
        self._session = session
        self._pass_by = pass_by
        self._steps = steps
        self._outputs: list[Outgoing] = []
        self.poll = session.poll
        self.send = self._outputs.append
        self.assignment = session.assignment
        self.seek = session.seek
        self.pause = session.pause
        self.resume = session.resume
        self.lag = session.lag
        self.unserved = session.unserved
        self.take_deleted = session.take_deleted
        self.silent_s = session.silent_s
        self.close = session.close

    def commit(self, positions: Mapping[Partition, int], state: Sequence[Outgoing] = ()) -> dict[Partition, int]:
        self._pass_by("sent")
        ends: dict[Partition, int] = {}
        for step in self._steps or ["positions"]:
            if step == "outputs" or not self._steps:
                for outgoing in self._outputs:
                    self._session.send(outgoing)
                self._outputs.clear()
            with_state = step == "state" or not self._steps
            ends |= self._session.commit(positions if step == "positions" else {}, state if with_state else ())
            self._pass_by(step)
        return ends


class MortalLog:
    """An in-process log on which workers die whenever `dies` says so."""

    def __init__(self, dies: Callable[[Point], bool], steps: Sequence[Point]) -> None:
        self._log = MemoryLog()
        self._dies = dies
        self._steps = steps
        self.ensure_topics = self._log.ensure_topics
        self.partitions = self._log.partitions
        self.identity = self._log.identity
        self.group_positions = self._log.group_positions
        self.delete_before = self._log.delete_before
        self.end_abandoned = self._log.end_abandoned
        self.begin_group = self._log.begin_group
        self.producer = self._log.producer
        self.reader = self._log.reader

    def session(self, topics: Sequence[str], group: str, rebalance: Rebalance) -> MortalSession:
        session = self._log.session(topics, group, rebalance)
        return MortalSession(session, self._pass_by, self._steps)

    def _pass_by(self, point: Point) -> None:
        if self._dies(point):
            raise Death


@pytest.fixture(scope="module")
def clicks(data_folder: Path) -> Recorded:
    return equality.recorded(data_folder, CLICKS)


@pytest.fixture(scope="module")
def calm(clicks: Recorded, tiny_release: Path) -> Outcome:
    return equality.undisturbed(clicks, equality.settings(tiny_release))


@pytest.fixture
def site(
    kafka_log: KafkaLog, kafka_bootstrap: str, topic_names: Callable[[str], str], tiny_release: Path, tmp_path: Path
) -> Site:
    return Site(kafka_log, kafka_bootstrap, topic_names, tiny_release, tmp_path)


def test_the_undisturbed_run_has_one_list_for_every_click(calm: Outcome, clicks: Recorded) -> None:
    assert len(calm.lists) == len(clicks)
    assert {user: events[-1] for user, events in calm.windows.items()}.keys() == set(clicks.users)
    assert max(map(len, calm.windows.values())) == equality.LENGTH


@pytest.mark.parametrize(
    ("batch", "snapshots"), [(1, False), (equality.BATCH, True), *([(equality.BATCH, False)] if IS_LONG else [])]
)
@pytest.mark.parametrize(
    ("transactions", "point"),
    [
        *((True, point) for point in ("sent", "positions")),
        *((False, point) for point in (("sent", "outputs", "state", "positions") if IS_LONG else ("outputs", "state"))),
    ],
)
def test_death_at_each_step_of_a_commit(
    point: Point,
    transactions: bool,
    batch: int,
    snapshots: bool,
    clicks: Recorded,
    calm: Outcome,
    tiny_release: Path,
    tmp_path: Path,
) -> None:
    chosen = _chosen(tiny_release, tmp_path, batch, snapshots=snapshots)
    log = MortalLog(_now_and_then(point, batch), () if transactions else IN_ORDER)
    log.ensure_topics(equality.topics(chosen))
    log.producer().send(clicks.outgoing(chosen.clicks.topic, 0, len(clicks)))
    assert _serve_and_die(log, chosen) >= DEATHS
    found = equality.outcome(log, chosen)
    equality.assert_equal(found, calm, clicks, repeats=not transactions)
    if batch == 1:
        equality.assert_none_missing(found, calm)


@pytest.mark.parametrize(
    ("steps", "behind", "lost"),
    [
        (("state", "outputs", "positions"), "state", "lists"),  # the clicks come again, change nothing: no list
        (("positions", "outputs", "state"), "positions", "lists and windows"),  # the clicks do not come again
    ],
)
def test_steps_in_another_order_would_lose_something(
    steps: tuple[Point, ...],
    behind: Point,
    lost: str,
    clicks: Recorded,
    calm: Outcome,
    tiny_release: Path,
    tmp_path: Path,
) -> None:
    chosen = _chosen(tiny_release, tmp_path, 1, snapshots=False)
    log = MortalLog(_now_and_then(behind, 1), steps)
    log.ensure_topics(equality.topics(chosen))
    log.producer().send(clicks.outgoing(chosen.clicks.topic, 0, len(clicks)))
    _serve_and_die(log, chosen)
    found = equality.outcome(log, chosen)
    with pytest.raises(AssertionError):
        equality.assert_none_missing(found, calm)
    assert (found.windows == calm.windows) == (lost == "lists")


def test_without_a_changelog_the_windows_would_differ(
    clicks: Recorded, calm: Outcome, tiny_release: Path, tmp_path: Path
) -> None:
    """What the tests above would see if a restart did not restore: they can fail."""
    chosen = _chosen(tiny_release, tmp_path, equality.BATCH, snapshots=False)
    log = MemoryLog()
    log.ensure_topics(equality.topics(chosen))
    log.producer().send(clicks.outgoing(chosen.clicks.topic, 0, len(clicks) // 2))
    equality.serve(log, chosen, len(clicks) // 2)
    elsewhere = chosen.model_copy(update={"windows": chosen.windows.model_copy(update={"topic": "elsewhere"})})
    log.ensure_topics(equality.topics(elsewhere))
    log.producer().send(clicks.outgoing(chosen.clicks.topic, len(clicks) // 2, len(clicks)))
    equality.serve(log, elsewhere, len(clicks) - len(clicks) // 2)
    with pytest.raises(AssertionError):
        equality.assert_equal(equality.outcome(log, chosen), calm, clicks, repeats=True)


STEPS = {
    "exactly_once": ["KafkaSession.send", "Output.flush", "Transactions.add_positions", "Transactions.commit"],
    "at_least_once": ["KafkaSession.send", "Output.flush", "AtLeastOnceSession._deliver"],
}
"""What a commit on Kafka calls, by delivery."""


@pytest.mark.kafka
@pytest.mark.parametrize("delivery", STEPS if IS_LONG else ["exactly_once"])
def test_kill_9_on_kafka(delivery: str, site: Site, clicks: Recorded) -> None:
    """At each step of a commit, and at random moments: from before a worker's first commit to half of its clicks."""
    rng = np.random.default_rng(SEED)
    chosen = equality.on_site(site, delivery, batch=1)
    calm = equality.undisturbed(clicks, chosen)
    due = equality.lists_due(clicks, calm)
    site.log.ensure_topics(equality.topics(chosen))
    sides = ("before", "after") if IS_LONG else ("after",)
    deaths = [("", "")] * MOMENTS + [(when, step) for step in STEPS[delivery] for when in sides]
    shares = np.linspace(0, len(clicks), len(deaths) + 1).astype(int).tolist()
    for (when, step), start, stop in zip(rng.permutation(deaths).tolist(), shares, shares[1:], strict=False):
        with site.worker(
            *([sys.executable, MORTAL_RUN, when, step, str(rng.integers(2, 20))] if when else ())
        ) as process:
            equality.send(site, clicks, start, stop)
            if not when:
                half = (stop - start) // 2
                site.wait_for_count(due[max(0, start + int(rng.integers(-half, half)))])
                process.kill()
            assert process.wait(LIMIT_S) == -signal.SIGKILL, site.log_file.read_text()[-3000:]
    with site.worker() as process:
        site.wait_for_lists(lambda found: equality.newest(found) == clicks.last_places())
        process.send_signal(signal.SIGTERM)
        assert process.wait(LIMIT_S) == 0
    found = equality.outcome(site.log, chosen)
    equality.assert_equal(found, calm, clicks, repeats=delivery == "at_least_once")
    equality.assert_none_missing(found, calm)


def _now_and_then(point: Point, batch: int) -> Callable[[Point], bool]:
    """Die at this point, DEATHS times in all the clicks."""
    every, passed = CLICKS // batch // (DEATHS + 1), count(1)
    return lambda current: current == point and next(passed) % every == 0


def _chosen(release: Path, folder: Path, batch: int, *, snapshots: bool) -> Settings:
    return equality.settings(
        release,
        worker=WorkerSettings(max_batch_clicks=batch, poll_timeout_s=0.01),
        snapshots=SnapshotSettings(folder=folder / "snapshots" if snapshots else None, interval_s=0.02),
    )


def _serve_and_die(log: EventLog, chosen: Settings) -> int:
    """Start workers until one lives to see the end; returns how many died."""
    deaths = 0
    while True:
        left = _left(log, chosen)
        if not left:
            return deaths
        try:
            equality.serve(log, chosen, left)
        except Death:
            deaths += 1


def _left(log: EventLog, chosen: Settings) -> int:
    """Clicks that are not committed yet."""
    with_partitions = log.session([chosen.clicks.topic], chosen.kafka.group, Rebalance())
    try:
        with_partitions.poll(0.0, 0)
        return sum(with_partitions.lag().values())
    finally:
        with_partitions.close()
