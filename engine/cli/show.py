"""The verb `show`."""

import json
from pathlib import Path

import click

from engine.cli.options import config_option
from engine.errors import SettingsError
from engine.eventlog.kafka import KafkaLog
from engine.settings import loader
from engine.worker import user_report


@click.command()
@click.argument("user")
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print one object.")
def show(user: str, config: Path | None, as_json: bool) -> None:
    """Print everything that is held of USER: window, last list, number of dead letters, and snapshots on this machine.

    Reads whole topics, which takes as long as a restart of a worker that has all partitions.
    """
    if not user:
        raise SettingsError("USER: found an empty id, expected the id that the user's clicks have; name it")
    settings = loader.load(config)
    report = user_report.of_user(KafkaLog(settings.kafka), settings, user)
    click.echo(json.dumps(report.as_dict()) if as_json else "\n".join(report.lines()))
