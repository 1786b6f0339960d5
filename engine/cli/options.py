"""Options and set-up of all verbs: the settings file, and logging."""

import logging
from pathlib import Path

import click

from engine.settings import loader
from engine.settings.sections import Settings

config_option = click.option(
    "--config",
    "-c",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar=loader.CONFIG_VARIABLE,
    help="Settings file (TOML). Environment variables HEADRACE_SECTION__KEY replace what it says.",
)


def log_to_stderr(settings: Settings) -> None:
    """Log to standard error, one line an event."""
    logging.basicConfig(
        level=settings.telemetry.log_level.upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    logging.getLogger("kafka").setLevel(logging.WARNING)
