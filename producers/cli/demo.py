"""The verb `demo`."""

import json
import signal
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.live import Live
from rich.text import Text

from engine.cli.options import config_option
from engine.eventlog.kafka import KafkaLog
from engine.eventlog.memory.log import MemoryLog
from engine.settings import loader
from engine.settings.sections import Settings
from producers.cli.options import SIMULATION_DEFAULTS
from producers.demo.run import Demo, DemoScreen, demo_settings, demo_topics
from producers.demo.screen import render
from producers.simulation.shoppers import SimulationSettings

_RETAINED = 20_000
"""Records that a topic of the demo keeps in memory: more than anyone who reads it falls behind."""


@click.command()
@click.option("--seconds", type=click.FloatRange(min=0), help="How long; without it, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="No screen; print one object with the figures at the end.")
@click.option("--rate", default=200.0, show_default=True, help="Clicks per second of all shoppers together.")
@click.option("--shoppers", default=400, show_default=True, help="Shoppers who are there from the start.")
@click.option("--seed", default=SIMULATION_DEFAULTS.seed, show_default=True, help="Of the shoppers and their clicks.")
@click.option("--kafka", metavar="HOST:PORT", help="Go through this broker instead of a log in this process.")
@config_option
def demo(seconds: float | None, as_json: bool, kafka: str | None, config: Path | None, **chosen: Any) -> None:
    """Watch simulated shoppers click and their lists follow, without a broker and without training anything."""
    settings = demo_settings(settings_for(config, kafka))
    simulation = SimulationSettings(
        seed=chosen["seed"], shoppers=chosen["shoppers"], clicks_per_s=chosen["rate"], new_items=0.0
    )
    log = (
        KafkaLog(settings.kafka)
        if kafka
        else MemoryLog(dict.fromkeys((*demo_topics(settings), settings.windows.topic), _RETAINED))
    )
    running = Demo(settings, simulation, log)
    end_on_sigterm()
    if as_json:
        running.run(seconds)
        click.echo(json.dumps(running.board.summary()))
        return
    with Live(Text(" starting the engine ...", "dim"), auto_refresh=False, console=Console()) as live:
        where = f"through Kafka at {kafka}" if kafka else "through a log in this process"
        running.run(seconds, DemoScreen(lambda frame: live.update(render(frame), refresh=True), where))


def settings_for(config: Path | None, kafka: str | None) -> Settings:
    """The settings, with the broker of the command line in place of theirs."""
    settings = loader.load(config)
    if kafka is None:
        return settings
    return settings.model_copy(update={"kafka": settings.kafka.model_copy(update={"bootstrap_servers": kafka})})


def end_on_sigterm() -> None:
    """A program that is asked to stop ends like one that is interrupted: in order."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
