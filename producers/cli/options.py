"""Options and set-up shared by the verbs."""

import signal
from collections.abc import Callable
from pathlib import Path

import click

from engine.settings import loader
from engine.settings.sections import Settings
from producers.simulation.shoppers import SimulationSettings

_DEFAULTS = SimulationSettings()
Command = Callable[..., None]
kafka_option = click.option(
    "--kafka", metavar="HOST:PORT", help="Broker, instead of the one in the settings (kafka.bootstrap_servers)."
)


def with_options(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """A decorator that adds these options, in this order."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def simulation_option(name: str, text: str) -> Callable[[Command], Command]:
    """An option for the field `name` of SimulationSettings, with its default."""
    return click.option(f"--{name.replace('_', '-')}", default=getattr(_DEFAULTS, name), show_default=True, help=text)


def settings_for(config: Path | None, kafka: str | None) -> Settings:
    """The settings of file and environment, with the broker of the command line if one is given."""
    settings = loader.load(config)
    if kafka is None:
        return settings
    return settings.model_copy(update={"kafka": settings.kafka.model_copy(update={"bootstrap_servers": kafka})})


def end_on_sigterm() -> None:
    """Handle SIGTERM like Ctrl-C, so that the program ends in order."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
