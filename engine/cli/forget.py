"""The verb `forget`."""

from pathlib import Path

import click

from engine.cli.options import config_option
from engine.errors import SettingsError
from engine.eventlog.kafka import KafkaLog
from engine.settings import loader
from engine.worker import forgetting


@click.command()
@click.argument("user")
@config_option
@click.option(
    "--wait",
    "wait_s",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Wait until the workers have done it, at most for so long; without this the workers are not waited for.",
)
def forget(user: str, config: Path | None, wait_s: float | None) -> None:
    """Delete a user's window, last list, changelog entries and dead letters.

    Sends a record without a value to every partition of the topic of clicks, with the user as its key. The workers
    delete window and list when they read it, and later clicks begin a new window. USER is the id as clicks have it.
    """
    if not user:
        raise SettingsError("USER: found an empty id, expected the id that the user's clicks have; name it")
    settings = loader.load(config)
    outcome = forgetting.forget(KafkaLog(settings.kafka), settings, user, wait_s)
    places = f"all {outcome.partitions} partitions of topic {settings.clicks.topic!r}"
    if outcome.answered:
        click.echo(f"{user!r} is forgotten: workers answered the requests in {places}")
    else:
        click.echo(f"{user!r} will be forgotten as soon as workers read the requests in {places}")
    click.echo(f"deleted {outcome.dead_letters} dead letters of {user!r} from {settings.clicks.dead_letter_topic!r}")
