"""The verb `publish`; it needs no torch."""

import time
from pathlib import Path

import click

from engine.cli.options import config_option
from engine.eventlog import topic_plan
from engine.eventlog.kafka import KafkaLog
from engine.settings import loader
from models.cli.options import FOLDER
from models.publishing import announce


@click.command()
@config_option
@click.argument("bundle", type=FOLDER)
@click.option("--folder", type=FOLDER, help="Announce in this watched folder instead of on the topic.")
def publish(config: Path | None, bundle: Path, folder: Path | None) -> None:
    """Verify a release bundle and announce it to the workers, which switch to it without a pause."""
    settings, now_ms = loader.load(config), time.time_ns() // 1_000_000
    if folder:
        announcement = announce.to_folder(bundle, folder, now_ms)
    else:
        announcement = announce.to_topic(bundle, KafkaLog(settings.kafka), topic_plan.releases(settings), now_ms)
    click.echo(f"{announcement.model}-{announcement.version} is {announcement.state}: {announcement.bundle}")
