"""The verb `dead`, with `list`, `show` and `replay`: dead letters shown and sent again."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, get_args

import click

from engine.cli.options import config_option
from engine.errors import SettingsError
from engine.eventlog.base import Partition
from engine.eventlog.kafka import KafkaLog
from engine.ingest import dead_letters
from engine.ingest.dead_letters import DeadLetterReason, Letter, LetterFilter
from engine.settings import loader


@click.group()
def dead() -> None:
    """Look at records that were no clicks, and send them again."""


_TIMES: Final = click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"])
_reason_option: Final = click.option(
    "--reason", type=click.Choice(get_args(DeadLetterReason)), help="Only letters with this reason."
)
_since_option: Final = click.option("--since", type=_TIMES, help="Only records from this time on (UTC).")
_until_option: Final = click.option("--until", type=_TIMES, help="Only records before this time (UTC).")


@dead.command("list")
@_reason_option
@_since_option
@_until_option
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print one object a line.")
def list_dead(
    reason: str | None, since: datetime | None, until: datetime | None, config: Path | None, as_json: bool
) -> None:
    """Print a line for each dead letter: its place, time, reason, origin, and what was found and expected."""
    settings = loader.load(config)
    letter_filter = LetterFilter(reason, _epoch_ms(since), _epoch_ms(until))
    for letter in dead_letters.read(KafkaLog(settings.kafka), settings.clicks.dead_letter_topic, letter_filter):
        summary = _summary(letter)
        click.echo(json.dumps(summary) if as_json else "  ".join(map(str, summary.values())))


@dead.command("show")
@click.argument("place")
@config_option
def show_dead(place: str, config: Path | None) -> None:
    """Print the dead letter at PLACE (partition/offset, as `list` prints it): its reason, then its bytes unchanged."""
    settings = loader.load(config)
    partition, _, offset = place.partition("/")
    if not (partition.isdecimal() and offset.isdecimal()):
        raise SettingsError(f"PLACE: found {place!r}, expected partition/offset; `headrace dead list` shows each place")
    letter = dead_letters.find(
        KafkaLog(settings.kafka), Partition(settings.clicks.dead_letter_topic, int(partition)), int(offset)
    )
    for name, text in _summary(letter).items():
        click.echo(f"{name:7} {text}", err=True)
    click.echo(f"key     {letter.key!r}", err=True)
    for name, value in letter.headers:
        click.echo(f"header  {name}: {value!r}", err=True)
    if letter.withheld:
        click.echo("value   withheld, as its user gave no consent", err=True)
    if letter.whole:
        click.echo(f"value   cut: the head of {letter.whole.bytes} bytes, SHA-256 {letter.whole.checksum}", err=True)
    click.echo(letter.value or b"", nl=False)


@dead.command("replay")
@_reason_option
@_since_option
@_until_option
@config_option
def replay_dead(reason: str | None, since: datetime | None, until: datetime | None, config: Path | None) -> None:
    """Send dead letters to their origin, with their own key, headers and time. They stay on their topic."""
    settings = loader.load(config)
    log = KafkaLog(settings.kafka)
    letter_filter = LetterFilter(reason, _epoch_ms(since), _epoch_ms(until))
    replayed = dead_letters.replay(log, dead_letters.read(log, settings.clicks.dead_letter_topic, letter_filter))
    click.echo(f"sent {replayed.sent} again")
    if replayed.withheld:
        click.echo(f"left {replayed.withheld} whose value is withheld, as their users gave no consent")
    if replayed.cut:
        click.echo(f"left {replayed.cut} that were cut to the head of their value")


def _summary(letter: Letter) -> dict[str, str]:
    origin = letter.origin
    return {
        "place": f"{letter.place.number}/{letter.offset}",
        "time": datetime.fromtimestamp(letter.timestamp_ms / 1000, UTC).isoformat(timespec="milliseconds"),
        "reason": letter.reason,
        "origin": "unknown" if origin is None else f"{origin.topic}/{origin.number}/{letter.origin_offset}",
        "detail": letter.detail,
    }


def _epoch_ms(time_utc: datetime | None) -> int | None:
    return None if time_utc is None else round(time_utc.replace(tzinfo=UTC).timestamp() * 1000)
