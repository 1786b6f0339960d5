"""The verb `forget`."""

from pathlib import Path

import click

from engine.cli.options import config_option
from engine.errors import SettingsError
from engine.eventlog.base import Outgoing
from engine.eventlog.kafka import KafkaLog
from engine.settings import loader


@click.command()
@click.argument("user")
@config_option
def forget(user: str, config: Path | None) -> None:
    """Delete a user's window, last list and changelog entry.

    Sends a record without a value to the topic of clicks, with the user as its key. The worker that holds the user
    deletes them when it reads the record, and later clicks begin a new window.
    """
    if not user:
        raise SettingsError("USER: found an empty id, expected the id that the user's clicks have; name it")
    settings = loader.load(config)
    with KafkaLog(settings.kafka).producer() as producer:
        producer.send(Outgoing(settings.clicks.topic, [user.encode()], [None]))
    click.echo(f"{user!r} will be forgotten as soon as a worker reads it on topic {settings.clicks.topic!r}")
