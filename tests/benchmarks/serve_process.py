"""A server on an in-process log with windows and lists of the demo's shoppers, in a process of its own.

    python -m tests.benchmarks.serve_process SECONDS CORE USERS    # prints its address as soon as it is ready

The users that have lists are written to the file USERS, one a line.
"""

import dataclasses
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from engine.eventlog.base import TopicSpec
from engine.eventlog.memory.log import MemoryLog
from engine.metrics import Metrics
from engine.settings.sections import ServeSettings, Settings
from engine.view import interpreter
from engine.view.http_server import HttpServer
from engine.worker.loop import Worker
from producers.demo.run import demo_settings, demo_topics
from producers.replay.click_encoder import ClickEncoder
from producers.simulation.shoppers import Simulation, SimulationSettings
from producers.simulation.stream import events

SHOPPERS = 2_000
CLICKS = 60_000
"""Before the measurement: a median window of some thirty events."""
RATE_PER_S = 1_000.0


def fill(log: MemoryLog, settings: Settings) -> None:
    """Let a worker turn the shoppers' clicks into windows and lists, and end."""
    start_ms = time.time_ns() // 1_000_000 - int(1000 * CLICKS / RATE_PER_S)
    simulation = Simulation(
        dataclasses.replace(
            SimulationSettings(shoppers=SHOPPERS, clicks_per_s=RATE_PER_S, new_items=0.0), start_ms=start_ms
        )
    )
    encoder, stop, worker = ClickEncoder(settings.clicks), threading.Event(), Worker(settings, log, Metrics())
    log.producer().send(encoder.encode(events(simulation, simulation.advance_to(time.time_ns() // 1_000_000))))
    with ThreadPoolExecutor(1) as pool, log.reader([settings.windows.topic]) as reader:
        run = pool.submit(worker.run, stop)
        silent_since_s = time.monotonic()
        while time.monotonic() < silent_since_s + 3.0 or worker.not_ready:
            if reader.poll(0.1, 10_000):
                silent_since_s = time.monotonic()
        stop.set()
        run.result()


def main(seconds: float, core: int, users: Path) -> None:
    """Fill a log, write its users to a file, and serve for some seconds on one core."""
    plain = demo_settings(Settings(serve=ServeSettings(port=0, page=False, max_connections=5_000)))
    settings = plain.model_copy(
        update={"windows": plain.windows.model_copy(update={"max_users": 2 * SHOPPERS, "topic": "windows"})}
    )
    log = MemoryLog()
    log.ensure_topics(list(map(TopicSpec, (*demo_topics(settings), settings.windows.topic))))
    fill(log, settings)
    os.sched_setaffinity(0, {core})
    interpreter.take_short_turns()
    with HttpServer(settings, log) as server:
        while server.service.not_ready:
            time.sleep(0.05)
        interpreter.spare_what_is_here()
        users.write_text("".join(f"{user}\n" for user in server.service.stored.users()))
        sys.stdout.write(f"{server.address}\n")
        sys.stdout.flush()
        time.sleep(seconds)


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
