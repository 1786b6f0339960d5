"""Options that the verbs share."""

from collections.abc import Callable

import click

from producers.simulation.shoppers import SimulationSettings

SIMULATION_DEFAULTS = SimulationSettings()
Command = Callable[..., None]
kafka_option = click.option(
    "--kafka", metavar="HOST:PORT", help="The broker, instead of the one in the settings (kafka.bootstrap_servers)."
)


def with_options(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """A decorator that adds all of these options, in this order."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def simulation_option(name: str, text: str) -> Callable[[Command], Command]:
    """An option that is a field of SimulationSettings, by the same name."""
    return click.option(
        f"--{name.replace('_', '-')}", default=getattr(SIMULATION_DEFAULTS, name), show_default=True, help=text
    )
