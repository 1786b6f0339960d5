"""The verb `repartition`."""

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

import click

from engine.cli.options import config_option, log_to_stderr
from engine.errors import SettingsError
from engine.eventlog.kafka import KafkaLog
from engine.eventlog.murmur2 import partition_of
from engine.settings import loader
from engine.windows import repartition as windows_repartition

_PARTITIONERS: Final[dict[str, Callable[[bytes, int], int]]] = {
    "murmur2": partition_of,
    "crc32": lambda key, partitions: zlib.crc32(key) % partitions,
}


@click.command()
@click.option(
    "--partitioner",
    type=click.Choice([*_PARTITIONERS]),
    default="murmur2",
    show_default=True,
    help="Of the producers of clicks: murmur2 as Java and kafka-python have it, crc32 as librdkafka.",
)
@click.option("--dry-run", is_flag=True, help="Only say how many windows would be moved.")
@config_option
def repartition(partitioner: str, dry_run: bool, config: Path | None) -> None:
    """Move windows to the partitions that their users' clicks go to, after the topic of clicks was given more.

    Stop all workers first, when they have read the earlier partitions to their ends. A run that was cut off is
    repeated.
    """
    settings = loader.load(config)
    if settings.clicks.pseudonym_key_file is not None:
        raise SettingsError(
            f"setting 'clicks.pseudonym_key_file' is {str(settings.clicks.pseudonym_key_file)!r}, expected none, as the"
            " partition of a user's clicks follows from the id, which windows with pseudonyms do not have; read the"
            " clicks again into a new windows.topic"
        )
    log_to_stderr(settings)
    log, group, topic = KafkaLog(settings.kafka), settings.kafka.group, settings.clicks.topic
    count, held = log.partitions(topic), log.partitions(settings.windows.topic)
    if not 0 < held <= count:
        raise SettingsError(
            f"windows.topic {settings.windows.topic!r} has {held} partitions, clicks.topic {topic!r} has {count}:"
            " there is nothing to move; expected both topics, and no more partitions of windows than of clicks; check"
            " both names"
        )
    place = _placed(partitioner, count)
    before = _placed(partitioner, held) if held < count else None
    positions = log.idle_positions(group, topic)
    windows_repartition.check(windows_repartition.survey(log, topic, place, before, positions), topic)
    if not dry_run:
        log.grow(settings.windows.topic, count)
    moves = windows_repartition.Repartition(log, settings, place, positions)
    moved = moves.run(lambda: log.refuse_members(group), dry=dry_run)
    log.refuse_members(group)
    verb = "would be moved" if dry_run else "are moved"
    click.echo(f"{moved.windows} windows {verb}, {moved.merged} of them merged with one of the same user")


def _placed(partitioner: str, partitions: int) -> windows_repartition.Place:
    """The partition that a key belongs to, among a number of partitions."""
    return lambda key: _PARTITIONERS[partitioner](key, partitions)
