"""The simulated world: workers in one thread, taken step by step in an order that a seed decides, and a judge.

    script      steps drawn from a seed: a worker turns, a click comes, time passes, a process is killed ...
    faults      drawn at every opportunity inside a step (`tests.simulation.faults`)
    calm        no more faults; every process runs again, and all work is done within a bounded number of rounds
    judge       the plain model of the windows, fed with the topic of clicks (`tests.simulation.judge`)

Nothing reads a real clock, and nothing draws from anything but the seed: a seed gives the same run on any machine.
"""

from __future__ import annotations

import json
import logging
import random
import sqlite3
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

from engine.errors import HeadraceError, SettingsError
from engine.eventlog.base import Outgoing, Partition, TopicSpec
from engine.eventlog.time_source import TimeSource
from engine.metrics import Metrics
from engine.settings.sections import (
    KafkaSettings,
    RecommendationSettings,
    Settings,
    SnapshotSettings,
    WindowSettings,
    WorkerSettings,
)
from engine.windows.snapshots import Snapshots
from engine.worker import batch
from engine.worker.loop import Environment, Worker
from tests.properties.test_window_store import LENGTH, Event
from tests.simulation import releases
from tests.simulation.broker import SESSION_TIMEOUT_S, TRANSACTION_TIMEOUT_S, Broker
from tests.simulation.faults import MENUS, Crash, Faults
from tests.simulation.faulty_log import FaultyLog
from tests.simulation.reference import FORGET, GARBAGE, Input
from tests.simulation.releases import COUNT, HandedReleases, MirrorRecommender

START_MS = 1_700_000_000_000
CLICK_MS = START_MS - 86_400_000
"""Clicks are a day old, so that no jump of the wall clock puts them into the future."""
GROUP = "headrace"
PARTITIONS = 2
USERS = 3
"""Of each partition."""
ITEMS = 30
ROUND_S = 0.5
ROUNDS = 240
"""Two minutes without a fault: several times the longest time limit in the settings below."""
_SETTLING_ROUNDS = 12
"""Time for what follows a commit: windows that are read again, and written once more."""
STEPS = {
    "work": 52,
    "click": 20,
    "time": 10,
    "forget": 1,
    "no click": 1,
    "kill": 2,
    "stop": 2,
    "start": 3,
    "release": 1,
    "clock jump": 1,
    "compact": 1,
    "retention": 1,
    "grow": 1,
    "stray record": 1,
}
"""Steps of a script, by how often they come."""


class Failure(Exception):  # noqa: N818 - the result that a seed is searched for
    """A promise was broken: what the judge says."""

    trace = ""
    """What happened, line by line."""
    fired: tuple[int, ...] = ()
    """The faults that happened, by their opportunity."""


@dataclass(frozen=True, slots=True)
class Script:
    """Everything that a run depends on. It shrinks by leaving steps and faults out."""

    seed: int
    steps: tuple[tuple[str, float, float], ...]
    delivery: str
    workers: int
    rate: float
    snapshots: bool
    small_store: bool
    standby: bool
    muted: frozenset[int] = frozenset()
    without: frozenset[str] = frozenset()
    lists: str = "mirror"


def script(seed: int, *, length: int = 60, without: Collection[str] = (), lists: str = "mirror") -> Script:
    """The script of a seed."""
    dice = random.Random(seed)
    kinds = [kind for kind in STEPS if kind not in without]
    weights = [STEPS[kind] for kind in kinds]
    return Script(
        seed=seed,
        delivery=dice.choice(["exactly_once", "at_least_once"]),
        workers=dice.choice([2, 2, 3]),
        rate=dice.choice([0.01, 0.03, 0.06]),
        snapshots=dice.random() < 0.2,
        small_store=dice.random() < 0.2,
        standby=dice.random() < 0.2,
        steps=tuple((kind, dice.random(), dice.random()) for kind in dice.choices(kinds, weights, k=length)),
        without=frozenset(without),
        lists=lists,
    )


@cache
def settings_of(delivery: Any, folder: Path | None, *, small_store: bool, standby: bool) -> Settings:
    """Settings with short limits, so that a run needs few rounds."""
    return Settings(
        kafka=KafkaSettings(
            delivery=delivery,
            stall_timeout_s=4.0,
            session_timeout_s=SESSION_TIMEOUT_S,
            commit_timeout_s=5.0,
            transaction_timeout_s=TRANSACTION_TIMEOUT_S,
        ),
        windows=WindowSettings(length=LENGTH, max_users=4 if small_store else 32, standby=standby and not small_store),
        recommendations=RecommendationSettings(count=COUNT),
        snapshots=SnapshotSettings(folder=folder, interval_s=3.0),
        worker=WorkerSettings(max_batch_clicks=4),
    )


@cache
def _metrics(process: str) -> Metrics:
    """Metrics of a process; nobody looks at their values, so that all runs may share them."""
    del process
    return Metrics()


class Inline(Executor):
    """Does in the calling thread what a background thread would do."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Do it now."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - the future carries it, as with any executor
            future.set_exception(error)
        return future


@dataclass(slots=True)
class Process:
    """A worker's process, which may be gone for a while."""

    name: str
    world: World
    log: FaultyLog
    worker: Worker | None = None
    handed: HandedReleases | None = None
    resume_s: float = 0.0
    """When its next turn, or its next start, is due."""
    is_frozen: bool = False
    is_stopped: bool = False
    """Stopped in order, until it is started again."""

    def turn(self) -> None:
        """One turn of the loop, or a start."""
        if self.is_frozen or self.is_stopped or self.world.broker.now_s < self.resume_s:
            return
        try:
            if self.worker is None:
                self._start()
            if self.worker is not None:
                self.resume_s = self.world.broker.now_s + self.worker.step()
        except Crash:
            self.gone(restart_after_s=2.0)
        except (SettingsError, sqlite3.OperationalError) as error:
            self.world.note(f"{self.name} ends: {error}")
            self.gone(restart_after_s=2.0)

    def gone(self, restart_after_s: float) -> None:
        """Nothing is left of the process; a new one starts later."""
        self.log.is_dead = True
        self.worker, self.handed = None, None
        self.resume_s = self.world.broker.now_s + restart_after_s

    def stop(self) -> None:
        """End in order."""
        self.is_stopped = True
        worker, self.worker = self.worker, None
        try:
            if worker is not None:
                worker.close()
        except Crash:
            pass
        except HeadraceError as error:
            self.world.note(f"{self.name} stops with {error}")
        self.log.is_dead = True

    def _start(self) -> None:
        self.log = FaultyLog(self.world, self.name, self.world.script.delivery)
        self.world.generations[self.name] = self.world.generations.get(self.name, 0) + 1
        self.log.process = f"{self.name}.{self.world.generations[self.name]}"
        time = TimeSource(lambda: self.world.broker.now_s, lambda: self.world.broker.wall_ms)
        environment = Environment(time, self._releases, Inline)
        self.worker = Worker(self.world.settings, self.log, _metrics(self.name), environment=environment)
        self.worker.start()
        self.world.note(f"{self.log.process} starts")

    def _releases(self, catalogue: Any) -> HandedReleases:
        if self.world.script.lists == "mirror":
            self.handed = HandedReleases(releases.mirror)
        else:
            self.handed = HandedReleases(lambda version: releases.real(version, catalogue))
        return self.handed


@dataclass(slots=True)
class World:
    """A broker, processes, people who click, and the trace of what happened."""

    script: Script
    folder: Path | None
    broker: Broker = field(default_factory=Broker)
    trace: list[str] = field(default_factory=list)
    generations: dict[str, int] = field(default_factory=dict)
    inputs: dict[int, list[Input]] = field(default_factory=dict)
    """By partition, every record of the topic of clicks."""
    tainted: set[str] = field(default_factory=set)
    """Users with a stray record in the place of their window: what they lose by that is nobody's fault."""
    healed: set[str] = field(default_factory=set)
    """Users with a click after the last fault."""
    faults: Faults = field(init=False)
    settings: Settings = field(init=False)
    processes: list[Process] = field(init=False)
    _late: list[tuple[float, Callable[[], None]]] = field(default_factory=list)
    _clicks: int = 0
    _releases: int = 0
    _owed_partitions: bool = False

    def __post_init__(self) -> None:
        chosen = self.script
        self.faults = Faults(chosen.seed, chosen.rate, chosen.muted, chosen.without)
        self.settings = settings_of(
            chosen.delivery, self.folder, small_store=chosen.small_store, standby=chosen.standby
        )
        self.broker.wall_ms = START_MS
        names = [f"w{number}" for number in range(chosen.workers)]
        self.processes = [Process(name, self, FaultyLog(self, name, chosen.delivery)) for name in names]
        compacted = [TopicSpec("recommendations", PARTITIONS), TopicSpec("windows", PARTITIONS)]
        self.broker.create([TopicSpec("clicks", PARTITIONS), TopicSpec("clicks.dead"), *compacted])
        self.inputs = {number: [] for number in range(PARTITIONS)}

    def note(self, text: str) -> None:
        """Write a line of the trace."""
        self.trace.append(f"{self.broker.now_s:7.1f} s  {text}")

    def freeze(self, process: str, seconds: float) -> None:
        """Let all others run for so long, while this process is stopped in the middle of a call."""
        frozen = next(p for p in self.processes if p.log.process == process)
        if sum(p.is_frozen for p in self.processes) + 1 >= len(self.processes):
            return  # somebody has to go on
        frozen.is_frozen = True
        ends_s = self.broker.now_s + seconds
        dice = self.faults.detail()
        while self.broker.now_s < ends_s:
            self.pass_time(1.0)
            if dice.random() < 0.3:
                self.take("click", dice.random(), dice.random())
            for other in self.processes:
                other.turn()
        frozen.is_frozen = False
        self.note(f"{process} wakes up")

    def later(self, delay_s: float, action: Callable[[], None]) -> None:
        """Do something when so much time has passed."""
        self._late.append((self.broker.now_s + delay_s, action))

    def pass_time(self, seconds: float) -> None:
        """Move the clocks; processes that run send their heartbeats meanwhile."""
        self.broker.now_s += seconds
        self.broker.wall_ms += round(seconds * 1000)
        for process in self.processes:
            if process.worker is not None and not process.is_frozen:
                for session in process.log.sessions:
                    session.heartbeat()
        self.broker.pass_time()
        due = [action for due_s, action in self._late if due_s <= self.broker.now_s]
        self._late = [(due_s, action) for due_s, action in self._late if due_s > self.broker.now_s]
        for action in due:
            action()

    def take(self, kind: str, first: float, second: float) -> None:
        """One step of the script."""
        getattr(self, f"_{kind.replace(' ', '_')}")(first, second)

    def click(self, number: int, user: str, dice: random.Random, *, is_new: bool = False) -> None:
        """A click: mostly the newest, now and then a late one or a repeat."""
        self._clicks += 1
        time_ms, item = CLICK_MS + 1000 * self._clicks, dice.randrange(ITEMS)
        earlier = [record.event for record in self.inputs[number] if record.event and record.user == user]
        if earlier and not is_new and dice.random() < 0.1:
            event = dice.choice(earlier)
        else:
            late_ms = 0 if is_new else dice.choice([0, 0, 0, 0, 0, 0, 0, 3500, 9500])
            event = Event(user, item, time_ms - late_ms, 1, 0)
        value = json.dumps({"user": user, "item": self.item(event.item), "ts": event.time_ms}).encode()
        self._input(number, Input("click", user, event), user.encode(), value)
        offset, after_ms = len(self.inputs[number]) - 1, event.time_ms - CLICK_MS
        self.note(f"click clicks/{number}@{offset} {user} {event.item} at {after_ms}")

    def item(self, number: int) -> str:
        """The id of an item."""
        return f"i{number}" if self.script.lists == "mirror" else releases.item_ids()[number]

    def drained(self) -> bool:
        """Whether every click is committed."""
        positions = self.broker.group(GROUP).positions
        return all(positions.get(Partition("clicks", n), 0) >= len(inputs) for n, inputs in self.inputs.items())

    def calm(self, judge: Callable[[World], None]) -> None:
        """No more faults: all processes run, and all work is done in time. Judged before and after one more click each.

        Raises:
            Failure: it is not done in time, or the judge finds something.
        """
        self.faults.happens = False
        self._add_partitions()
        self.note("-- calm --")
        for process in self.processes:
            process.is_stopped = False
        self._drain()
        judge(self)
        dice = random.Random(self.script.seed)
        for number in self.inputs:
            user = dice.choice(users_of(number))
            self.click(number, user, dice, is_new=True)
            self.healed.add(user)
        self._drain()
        self._rounds(_SETTLING_ROUNDS)
        self.broker.compact("windows", whole=True)
        judge(self)

    def _drain(self) -> None:
        for _ in range(ROUNDS):
            self._rounds(1)
            if self.drained() and not self._late and not self.broker.hanging:
                return
        for part in self.broker.hanging:
            raise Failure(f"nobody ends what is open on {', '.join('/'.join(map(str, p)) for p in part.first_offsets)}")
        positions = self.broker.group(GROUP).positions
        waiting = [n for n, inputs in self.inputs.items() if positions.get(Partition("clicks", n), 0) < len(inputs)]
        raise Failure(f"clicks of partitions {waiting} wait {ROUNDS * ROUND_S:g} s after the last fault")

    def _rounds(self, count: int) -> None:
        for _ in range(count):
            self.pass_time(ROUND_S)
            for process in self.processes:
                process.turn()

    def _input(self, number: int, record: Input, key: bytes | None, value: bytes | None) -> None:
        self.inputs[number].append(record)
        self.broker.append(Outgoing("clicks", [key], [value], partitions=[number]))

    def _work(self, first: float, _second: float) -> None:
        self.pass_time(0.05)
        _chosen(self.processes, first).turn()

    def _click(self, first: float, second: float) -> None:
        number = _chosen(list(self.inputs), first)
        dice = random.Random(second)
        for _ in range(dice.choice([1, 1, 2, 4])):
            self.click(number, dice.choice(users_of(number)), dice)

    def _time(self, first: float, _second: float) -> None:
        self.pass_time(3 * first * first)

    def _forget(self, first: float, second: float) -> None:
        number = _chosen(list(self.inputs), first)
        user = _chosen(users_of(number), second)
        self._input(number, Input(FORGET, user), user.encode(), None)
        self.note(f"forget clicks/{number}@{len(self.inputs[number]) - 1} {user}")

    def _no_click(self, first: float, _second: float) -> None:
        self._input(_chosen(list(self.inputs), first), Input(GARBAGE, ""), None, b"rubbish")

    def _kill(self, first: float, second: float) -> None:
        process = _chosen(self.processes, first)
        if process.worker is not None and not process.is_frozen:
            self.note(f"{process.log.process} is KILLED")
            process.gone(restart_after_s=15 * second)

    def _stop(self, first: float, _second: float) -> None:
        process = _chosen(self.processes, first)
        if not process.is_frozen and sum(not p.is_stopped for p in self.processes) > 1:
            self.note(f"{process.log.process} is stopped")
            process.stop()

    def _start(self, first: float, _second: float) -> None:
        process = _chosen(self.processes, first)
        process.is_stopped = False

    def _release(self, _first: float, _second: float) -> None:
        self._releases += 1
        for process in self.processes:
            if process.handed is not None:
                process.handed.ready = process.handed.make(self._releases)

    def _clock_jump(self, first: float, _second: float) -> None:
        self.broker.wall_ms += round((first - 0.5) * 7_200_000)

    def _compact(self, first: float, _second: float) -> None:
        topic = _chosen(["windows", "windows", "recommendations"], first)
        self.note(f"{topic} is compacted")
        self.broker.compact(topic)

    def _retention(self, _first: float, _second: float) -> None:
        """Clicks that are committed go; who still reads there finds his offset out of range."""
        for partition, position in self.broker.group(GROUP).positions.items():
            self.broker.delete_before(partition, position)

    def _grow(self, first: float, _second: float) -> None:
        """A partition more, of clicks first or of the other topics first."""
        if len(self.inputs) > PARTITIONS:
            return
        self.note("a PARTITION is added")
        self.inputs[PARTITIONS] = []
        self._owed_partitions = True
        if first < 0.5:
            self._add_partitions()
        self.broker.topics["clicks"].append(type(self.broker.topics["clicks"][0])())
        group = self.broker.group(GROUP)
        if group.members:
            group.grow(self.broker.partitions("clicks"))

    def _add_partitions(self) -> None:
        if self._owed_partitions:
            self._owed_partitions = False
            for topic in ("windows", "recommendations"):
                self.broker.topics[topic].append(type(self.broker.topics[topic][0])())

    def _stray_record(self, first: float, second: float) -> None:
        """Some other program writes to the changelog."""
        number = _chosen(list(range(PARTITIONS)), first)
        dice = random.Random(second)
        user = dice.choice(users_of(number))
        key = dice.choice([user.encode(), user.encode(), b"\xff"])
        value = dice.choice([b"", b"rubbish", bytes([1, 0, 9, 0, 0, 0])])
        if key != b"\xff":
            self.tainted.add(user)
        self.note(f"STRAY RECORD {key!r} {value!r} on windows/{number}")
        self.broker.append(Outgoing("windows", [key], [value], partitions=[number]))


def users_of(number: int) -> list[str]:
    """The users of a partition."""
    return [f"u{number}{letter}" for letter in "abcdef"[:USERS]]


def _chosen(things: Sequence[Any], share: float) -> Any:
    return things[int(share * len(things))]


@contextmanager
def _quiet(chosen: Script, world: World) -> Iterator[None]:
    """No log messages; disks that fill up; and the recommender that the script wants."""
    write = Snapshots.write

    def write_or_fail(self: Snapshots, *args: Any) -> None:
        if world.faults.draw(MENUS["save"]):
            world.note("a snapshot finds the DISK FULL")
            raise OSError(28, "simulated: no space left on device")
        write(self, *args)

    logging.disable(logging.CRITICAL)
    try:
        with patch.object(Snapshots, "write", write_or_fail):
            if chosen.lists == "mirror":
                with patch.object(batch, "Recommender", MirrorRecommender):
                    yield
            else:
                yield
    finally:
        logging.disable(logging.NOTSET)


@contextmanager
def _folder(chosen: Script) -> Iterator[Path | None]:
    if not chosen.snapshots:
        yield None
        return
    memory = Path("/dev/shm")  # noqa: S108 - a file system in memory, where there is one
    with TemporaryDirectory(prefix="headrace-simulation-", dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)


def run(chosen: Script, judge: Callable[[World], None]) -> World:
    """Run a script to its calm end, and have it judged.

    Raises:
        Failure: a promise was broken; it carries the trace.
    """
    with _folder(chosen) as folder:
        world = World(chosen, folder)
        with _quiet(chosen, world):
            try:
                for step in chosen.steps:
                    world.take(*step)
                world.calm(judge)
            except Failure as failure:
                failure.trace = "\n".join(world.trace)
                failure.fired = tuple(index for index, _ in world.faults.fired)
                raise
    return world
