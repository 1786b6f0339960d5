"""`headrace demo`: simulated shoppers, the engine and a reader of its lists, in one process.

    shoppers -> topic of clicks -> worker (a thread) -> topic of recommendations -> scoreboard -> screen

The main thread sends clicks when they are due, reads the lists that have arrived and renders the screen. The worker is
that of `headrace run`. On a real broker the demo has topics and a consumer group of its own.
"""

import dataclasses
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Final

import numpy as np

from engine.errors import EventLogError
from engine.eventlog.base import EventLog, Producer, Reader, Records, TopicSpec
from engine.messages.recommendation import decode_recommendation
from engine.metrics import Metrics
from engine.ranking.popularity import Popularity
from engine.releases import bundles
from engine.settings.sections import Settings
from engine.worker.loop import Worker
from producers.clock import REAL_CLOCK, TICK_S, Clock
from producers.demo.bundled import DEMO_RELEASE
from producers.demo.demo_view import DemoView
from producers.demo.scoreboard import Click, Scoreboard
from producers.demo.screen import Frame
from producers.replay.click_encoder import ClickEncoder
from producers.simulation.shoppers import ACTIONS, Simulation, SimulationSettings
from producers.simulation.simulated_catalogue import make_catalogue
from producers.simulation.stream import events

PREFIX: Final = "headrace-demo"
"""Prefix of the demo's topics and name of its group, which keep it apart from the clicks of a real shop."""

_FRAME_S: Final = 0.25
_READY_LIMIT_S: Final = 90.0
"""Longer than a broker waits for a dead member of the group (`kafka.session_timeout_s`)."""
_DRAIN_LIMIT_S: Final = 5.0
_MAX_RECORDS: Final = 5_000


def demo_settings(settings: Settings) -> Settings:
    """A copy of the settings with the demo's own topics, group and release."""
    clicks = {"topic": f"{PREFIX}.clicks", "dead_letter_topic": f"{PREFIX}.clicks.dead"}
    releases = {"topic": f"{PREFIX}.releases", "folder": None, "path": DEMO_RELEASE}
    return settings.model_copy(
        update={
            "kafka": settings.kafka.model_copy(update={"group": PREFIX, "prefix": PREFIX}),
            "clicks": settings.clicks.model_copy(update=clicks),
            "recommendations": settings.recommendations.model_copy(update={"topic": f"{PREFIX}.recommendations"}),
            "releases": settings.releases.model_copy(update=releases),
            "windows": settings.windows.model_copy(update={"topic": f"{PREFIX}.windows"}),
        }
    )


def demo_topics(settings: Settings) -> tuple[str, str, str]:
    """The topics of clicks, of recommendations and of dead letters."""
    return settings.clicks.topic, settings.recommendations.topic, settings.clicks.dead_letter_topic


class DemoScreen:
    """The screen of a run, a few frames a second."""

    def __init__(self, draw: Callable[[Frame], None], transport: str) -> None:
        """Draw nothing yet.

        Args:
            draw: shows a frame.
            transport: the log that clicks and lists go through, in words.
        """
        self._draw = draw
        self._transport = transport
        self._view: DemoView | None = None
        self._due_s = 0.0

    def render(self, simulation: Simulation, scoreboard: Scoreboard, elapsed_s: float) -> None:
        """Draw a frame if the next one is due at `elapsed_s` seconds after the start."""
        if elapsed_s < self._due_s:
            return
        self._view = self._view or DemoView(simulation, scoreboard, self._transport)
        self._draw(self._view.frame(elapsed_s))
        self._due_s = elapsed_s + _FRAME_S


class Demo:
    """One run of the demo; its figures are on `scoreboard`."""

    def __init__(
        self, settings: Settings, simulation: SimulationSettings, log: EventLog, clock: Clock = REAL_CLOCK
    ) -> None:
        """Prepare a run; nothing is started yet.

        Args:
            settings: settings of the engine, from `demo_settings`.
            simulation: settings of the shoppers; their `start_ms` is replaced by the time at which the worker is ready.
            log: the log that clicks and lists go through.
            clock: the time.

        Raises:
            ReleaseError: the release of the settings cannot be read.
        """
        self._settings = settings
        self._simulation = simulation
        self._log = log
        self._clock = clock
        self._encoder = ClickEncoder(settings.clicks)
        self._worker = Worker(settings, log, Metrics())
        self.scoreboard = make_scoreboard(settings, simulation)

    def run(self, seconds: float | None, screen: DemoScreen | None = None) -> None:
        """Let shoppers click for `seconds` or, where that is None, until Ctrl-C; then wait for the last lists.

        Raises:
            HeadraceError: the log or the worker failed.
        """
        topics = demo_topics(self._settings)
        self._log.ensure_topics(list(map(TopicSpec, topics)))
        stop = threading.Event()
        with self._log.reader(topics[1:]) as reader, self._log.producer() as producer, ThreadPoolExecutor(1) as pool:
            worker = pool.submit(self._worker.run, stop)
            try:
                with suppress(KeyboardInterrupt):
                    self._wait_until_ready(reader, worker)
                    simulation = Simulation(dataclasses.replace(self._simulation, start_ms=self._clock.now_ms()))
                    for elapsed_s in self._ticks(seconds, worker):
                        self._send(simulation, producer)
                        self._receive(reader)
                        if screen:
                            screen.render(simulation, self.scoreboard, elapsed_s)
                with suppress(KeyboardInterrupt):
                    self._drain(reader)
            finally:
                stop.set()
            worker.result()

    def _wait_until_ready(self, reader: Reader, worker: Future[None]) -> None:
        """Wait for the worker, and skip records that an earlier demo left on the topics.

        Raises:
            EventLogError: the worker was not ready in time.
        """
        for _ in self._ticks(_READY_LIMIT_S, worker):
            reader.poll(TICK_S, _MAX_RECORDS)
            if self._worker.not_ready is None and reader.at_end():
                return
        raise EventLogError(
            f"the demo's worker was not ready within {_READY_LIMIT_S:.0f} s ({self._worker.not_ready or 'old lists'});"
            " does another demo run on this broker?"
        )

    def _ticks(self, seconds: float | None, worker: Future[None]) -> Iterator[float]:
        """Seconds since the first tick, until `seconds` have passed; raises the error with which the worker ended."""
        started_s = self._clock.elapsed_s()
        while seconds is None or self._clock.elapsed_s() - started_s < seconds:
            if worker.done():
                worker.result()
            yield self._clock.elapsed_s() - started_s

    def _send(self, simulation: Simulation, producer: Producer) -> None:
        """Send the clicks that are due."""
        batch = simulation.advance_to(self._clock.now_ms())
        if not len(batch):
            return
        due = events(simulation, batch)
        sent_ms = self._clock.now_ms()
        producer.send(self._encoder.encode(due))
        ids = simulation.catalogue.ids
        columns = (due.users, batch.items.tolist(), batch.times_ms.tolist(), batch.actions.tolist())
        for user, item, time_ms, action in zip(*columns, strict=True):
            self.scoreboard.add_click(Click(user, ids[item], time_ms, ACTIONS[action], sent_ms))

    def _receive(self, reader: Reader) -> None:
        """Count the lists and dead letters that arrive within a tick."""
        for records in reader.poll(TICK_S, _MAX_RECORDS):
            if records.partition.topic == self._settings.clicks.dead_letter_topic:
                self.scoreboard.dead_letters += len(records)
            else:
                self._receive_lists(records)

    def _receive_lists(self, records: Records) -> None:
        received_ms = self._clock.now_ms()
        for value in records.values:
            if value is not None:
                self.scoreboard.add_list(decode_recommendation(value), received_ms)

    def _drain(self, reader: Reader) -> None:
        """Wait for the lists of the last clicks."""
        deadline_s = self._clock.elapsed_s() + _DRAIN_LIMIT_S
        while not self.scoreboard.all_answered and self._clock.elapsed_s() < deadline_s:
            self._receive(reader)


def make_scoreboard(settings: Settings, simulation: SimulationSettings) -> Scoreboard:
    """A scoreboard for the simulated catalogue, with the popularity of the release to start from."""
    bundle = bundles.read(settings.releases.path or DEMO_RELEASE)
    catalogue = make_catalogue(simulation.catalogue_seed, simulation.items)
    items = {item: number for number, item in enumerate(catalogue.ids)}
    shared = [row for row, item in enumerate(bundle.ids) if item in items]
    popularity = Popularity()
    popularity.seed(np.array([items[bundle.ids[row]] for row in shared], np.int32), bundle.popularity[shared])
    weights, default = settings.clicks.actions, settings.clicks.default_action
    return Scoreboard(items, popularity, {action: weights.get(action, weights[default]) for action in ACTIONS})
