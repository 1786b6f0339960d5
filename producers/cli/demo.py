"""The verb `demo`."""

import json
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.live import Live
from rich.text import Text

from engine.cli.options import config_option
from engine.cli.serve import require_extra
from engine.errors import MissingExtraError
from engine.eventlog.base import EventLog
from engine.eventlog.kafka import KafkaLog
from engine.eventlog.memory.log import MemoryLog
from engine.settings.sections import Settings
from producers.cli.options import end_on_sigterm, settings_for, simulation_option
from producers.demo.run import Demo, DemoScreen, demo_settings, demo_topics
from producers.demo.screen import render
from producers.simulation.shoppers import SimulationSettings

_RETAINED = 20_000
"""Records that a topic of the demo keeps in memory, far more than its readers lag behind."""


@click.command()
@click.option("--seconds", type=click.FloatRange(min=0), help="Length of the run; without it, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="No screen; print the figures as one object at the end.")
@click.option("--rate", default=200.0, show_default=True, help="Clicks per second of all shoppers together.")
@click.option("--shoppers", default=400, show_default=True, help="Number of shoppers, newcomers included.")
@click.option("--no-page", is_flag=True, help="Without the live page over HTTP.")
@simulation_option("seed", "Seed of the shoppers and their clicks.")
@click.option("--kafka", metavar="HOST:PORT", help="Use this broker instead of a log in this process.")
@config_option
def demo(
    seconds: float | None, as_json: bool, kafka: str | None, no_page: bool, config: Path | None, **options: Any
) -> None:
    """Watch simulated shoppers click and their lists follow, without a broker and without training anything."""
    settings = demo_settings(settings_for(config, kafka))
    simulation = SimulationSettings(
        seed=options["seed"], shoppers=options["shoppers"], clicks_per_s=options["rate"], new_items=0.0
    )
    log = (
        KafkaLog(settings.kafka)
        if kafka
        else MemoryLog(dict.fromkeys((*demo_topics(settings), settings.windows.topic), _RETAINED))
    )
    run = Demo(settings, simulation, log)
    end_on_sigterm()
    if as_json:
        run.run(seconds)
        click.echo(json.dumps(run.scoreboard.summary()))
        return
    page = nullcontext() if no_page else _page(settings, simulation, log)
    with page, Live(Text(" starting the engine ...", "dim"), auto_refresh=False, console=Console()) as live:
        transport = f"through Kafka at {kafka}" if kafka else "through a log in this process"
        run.run(seconds, DemoScreen(lambda frame: live.update(render(frame), refresh=True), transport))


def _page(settings: Settings, simulation: SimulationSettings, log: EventLog) -> AbstractContextManager[object]:
    """The live page, its address printed; a hint in its place where it is not installed."""
    try:
        require_extra()
    except MissingExtraError as error:
        click.echo(f"no live page: it {error}")
        return nullcontext()
    from producers.demo.shop_page import open_page  # noqa: PLC0415 - needs the extra

    page = open_page(settings, simulation, log)
    click.echo(f"live page: {page.address}/")
    return page
