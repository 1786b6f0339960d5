"""`headrace demo`: simulated shoppers, the engine and a reader of its lists, in one process.

    shoppers -> topic of clicks -> worker (a thread) -> topic of recommendations -> scoreboard -> screen

The main thread sends clicks as they are due, reads lists as they come and draws; the worker is the same that
`headrace run` starts. On a real broker the demo keeps to topics and a group of its own.
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
"""Of the demo's topics and its group, so that it never mixes with the clicks of a real shop."""

_FRAME_S: Final = 0.25
_READY_LIMIT_S: Final = 90.0
"""Longer than a broker waits for a dead member of the group (kafka.session_timeout_s)."""
_DRAIN_LIMIT_S: Final = 5.0
_MAX_RECORDS: Final = 5_000


def demo_settings(settings: Settings) -> Settings:
    """The settings with the demo's own topics, group and release in place of theirs."""
    clicks = {"topic": f"{PREFIX}.clicks", "dead_letter_topic": f"{PREFIX}.clicks.dead"}
    releases = {"topic": f"{PREFIX}.releases", "folder": None, "path": DEMO_RELEASE}
    return settings.model_copy(
        update={
            "kafka": settings.kafka.model_copy(update={"group": PREFIX}),
            "clicks": settings.clicks.model_copy(update=clicks),
            "recommendations": settings.recommendations.model_copy(update={"topic": f"{PREFIX}.recommendations"}),
            "releases": settings.releases.model_copy(update=releases),
            "windows": settings.windows.model_copy(update={"topic": f"{PREFIX}.windows"}),
        }
    )


def demo_topics(settings: Settings) -> tuple[str, str, str]:
    """Clicks, recommendations and dead letters."""
    return settings.clicks.topic, settings.recommendations.topic, settings.clicks.dead_letter_topic


class DemoScreen:
    """Draws the pictures of a run, a few a second."""

    def __init__(self, draw: Callable[[Frame], None], where: str) -> None:
        """Draw nothing yet.

        Args:
            draw: shows a picture.
            where: what the clicks go through, in words.
        """
        self._draw = draw
        self._where = where
        self._camera: DemoView | None = None
        self._due_s = 0.0

    def picture(self, simulation: Simulation, board: Scoreboard, elapsed_s: float) -> None:
        """Draw, when it is time for the next picture."""
        if elapsed_s < self._due_s:
            return
        self._camera = self._camera or DemoView(simulation, board, self._where)
        self._draw(self._camera.frame(elapsed_s))
        self._due_s = elapsed_s + _FRAME_S


class Demo:
    """One run; its figures are on `board`."""

    def __init__(
        self, settings: Settings, chosen: SimulationSettings, log: EventLog, clock: Clock = REAL_CLOCK
    ) -> None:
        """Prepare; nothing runs yet.

        Args:
            settings: see `demo_settings`.
            chosen: the shoppers; whatever their start, they begin when the worker is ready.
            log: what the clicks go through.
            clock: the time.

        Raises:
            ReleaseError: the release of the settings cannot be read.
        """
        self._settings = settings
        self._chosen = chosen
        self._log = log
        self._clock = clock
        self._encoder = ClickEncoder(settings.clicks)
        self._worker = Worker(settings, log, Metrics())
        self.board = scoreboard(settings, chosen)

    def run(self, seconds: float | None, show: DemoScreen | None = None) -> None:
        """Let shoppers click for so many seconds or, without a number, until Ctrl-C; then wait for the last lists.

        Raises:
            HeadraceError: the log or the worker failed.
        """
        topics = demo_topics(self._settings)
        self._log.ensure_topics(list(map(TopicSpec, topics)))
        stop = threading.Event()
        with self._log.reader(topics[1:]) as reader, self._log.producer() as producer, ThreadPoolExecutor(1) as pool:
            working = pool.submit(self._worker.run, stop)
            try:
                with suppress(KeyboardInterrupt):
                    self._get_ready(reader, working)
                    simulation = Simulation(dataclasses.replace(self._chosen, start_ms=self._clock.now_ms()))
                    for elapsed_s in self._turns(seconds, working):
                        self._send(simulation, producer)
                        self._receive(reader)
                        if show:
                            show.picture(simulation, self.board, elapsed_s)
                with suppress(KeyboardInterrupt):
                    self._drain(reader)
            finally:
                stop.set()
            working.result()

    def _get_ready(self, reader: Reader, working: Future[None]) -> None:
        """Until the worker serves, pass over what an earlier demo left on the topics."""
        for _ in self._turns(_READY_LIMIT_S, working):
            reader.poll(TICK_S, _MAX_RECORDS)
            if self._worker.not_ready is None and reader.at_end():
                return
        raise EventLogError(
            f"the demo's worker was not ready within {_READY_LIMIT_S:.0f} s ({self._worker.not_ready or 'old lists'});"
            " does another demo run on this broker?"
        )

    def _turns(self, seconds: float | None, working: Future[None]) -> Iterator[float]:
        """Seconds since the first turn, until they are over; raises what the worker raised."""
        started_s = self._clock.elapsed_s()
        while seconds is None or self._clock.elapsed_s() - started_s < seconds:
            if working.done():
                working.result()
            yield self._clock.elapsed_s() - started_s

    def _send(self, simulation: Simulation, producer: Producer) -> None:
        """Send what is due."""
        batch = simulation.advance_to(self._clock.now_ms())
        if not len(batch):
            return
        due = events(simulation, batch)
        sent_ms = self._clock.now_ms()
        producer.send(self._encoder.encode(due))
        items, rows = (
            simulation.catalogue.ids,
            zip(due.users, batch.items.tolist(), batch.actions.tolist(), strict=True),
        )
        for (user, item, action), time_ms in zip(rows, batch.times_ms.tolist(), strict=True):
            self.board.clicked(Click(user, items[item], time_ms, ACTIONS[action], sent_ms))

    def _receive(self, reader: Reader) -> None:
        """Read what comes within a tick."""
        for records in reader.poll(TICK_S, _MAX_RECORDS):
            if records.partition.topic == self._settings.clicks.dead_letter_topic:
                self.board.dead_letters += len(records)
            else:
                self._receive_lists(records)

    def _receive_lists(self, records: Records) -> None:
        received_ms = self._clock.now_ms()
        for value in records.values:
            if value is not None:
                self.board.listed(decode_recommendation(value), received_ms)

    def _drain(self, reader: Reader) -> None:
        """Wait for the lists of the last clicks."""
        deadline_s = self._clock.elapsed_s() + _DRAIN_LIMIT_S
        while not self.board.all_answered and self._clock.elapsed_s() < deadline_s:
            self._receive(reader)


def scoreboard(settings: Settings, chosen: SimulationSettings) -> Scoreboard:
    """A scoreboard for the simulated catalogue, that starts with the popularity that came with the release."""
    bundle = bundles.read(settings.releases.path or DEMO_RELEASE)
    items = {item: number for number, item in enumerate(make_catalogue(chosen.catalogue_seed, chosen.items).ids)}
    known = [row for row, item in enumerate(bundle.ids) if item in items]
    popularity = Popularity()
    popularity.seed(np.array([items[bundle.ids[row]] for row in known], np.int32), bundle.popularity[known])
    weights, default = settings.clicks.actions, settings.clicks.default_action
    return Scoreboard(items, popularity, {action: weights.get(action, weights[default]) for action in ACTIONS})
