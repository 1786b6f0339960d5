"""Verbs of the serving side: `run`, `settings`, `forget`, and `dead` with its own."""

import json
import logging
import signal
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, get_args

import click

from engine import dead_letters
from engine import settings as settings_module
from engine.dead_letters import Choice, Letter, Reason
from engine.errors import SettingsError
from engine.eventlog.base import Outgoing, Partition
from engine.eventlog.kafka import KafkaLog
from engine.metrics import Metrics
from engine.settings import Settings
from engine.telemetry import Telemetry
from engine.worker import Worker

logger = logging.getLogger(__name__)

STALLED_S: Final = 60.0
"""A worker whose loop stood still this long is reported as unhealthy."""

config_option = click.option(
    "--config",
    "-c",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar=settings_module.CONFIG_VARIABLE,
    help="Settings file (TOML). Environment variables HEADRACE_SECTION__KEY come over it.",
)


@click.command()
@config_option
@click.option("--release", type=click.Path(path_type=Path), help="Start with this bundle (releases.path).")
def run(config: Path | None, release: Path | None) -> None:
    """Serve: read clicks from Kafka, push a fresh list for every user whose window changed."""
    settings = settings_module.load(config)
    if release:
        settings = settings.model_copy(update={"releases": settings.releases.model_copy(update={"path": release})})
    log_to_stderr(settings)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    metrics = Metrics()
    worker = Worker(settings, KafkaLog(settings.kafka), metrics)
    with Telemetry(
        settings.telemetry, metrics.registry, lambda: stalled(worker), lambda: worker.not_ready
    ) as telemetry:
        logger.info("metrics on http://%s:%d/metrics", settings.telemetry.host, telemetry.port)
        worker.run(stop)
    logger.info("stopped")


@click.command("settings")
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print one object instead of a table.")
def show_settings(config: Path | None, as_json: bool) -> None:
    """Show every setting in force and where it came from."""
    values = settings_module.flatten(settings_module.load(config))
    origins = settings_module.origins(config)
    if as_json:
        click.echo(json.dumps(values, default=str, indent=2))
        return
    width = max(map(len, values))
    for name, value in values.items():
        click.echo(f"{name:{width}}  {_shown(value)}  # {origins.get(name, 'default')}")


@click.command()
@click.argument("user")
@config_option
def forget(user: str, config: Path | None) -> None:
    """Delete a user's window, last list and changelog entry.

    Puts a record without a value on the topic of clicks, under the user's key: whichever worker holds the user acts
    on it in turn, and later clicks begin anew.
    """
    if not user:
        raise SettingsError("the user to forget has an empty id; name one")
    settings = settings_module.load(config)
    with KafkaLog(settings.kafka).producer() as producer:
        producer.send(Outgoing(settings.clicks.topic, [user.encode()], [None]))
    click.echo(f"{user!r} will be forgotten as soon as a worker reads it on topic {settings.clicks.topic!r}")


@click.group()
def dead() -> None:
    """Look at records that were no clicks, and send them again."""


_TIMES: Final = click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"])
_reason_option: Final = click.option("--reason", type=click.Choice(get_args(Reason)), help="Only those here for this.")
_since_option: Final = click.option("--since", type=_TIMES, help="Only those from this time on (UTC).")
_until_option: Final = click.option("--until", type=_TIMES, help="Only those before this time (UTC).")


@dead.command("list")
@_reason_option
@_since_option
@_until_option
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print one object a line.")
def list_dead(
    reason: str | None, since: datetime | None, until: datetime | None, config: Path | None, as_json: bool
) -> None:
    """One line for each dead letter: its place, time, reason, origin and what was wrong."""
    settings = settings_module.load(config)
    choice = Choice(reason, _epoch_ms(since), _epoch_ms(until))
    for letter in dead_letters.read(KafkaLog(settings.kafka), settings.clicks.dead_letter_topic, choice):
        about = _about(letter)
        click.echo(json.dumps(about) if as_json else "  ".join(map(str, about.values())))


@dead.command("show")
@click.argument("place")
@config_option
def show_dead(place: str, config: Path | None) -> None:
    """Print the dead letter at PLACE (partition/offset, as `list` says): what it is, then its bytes as they came."""
    settings = settings_module.load(config)
    partition, _, offset = place.partition("/")
    if not (partition.isdecimal() and offset.isdecimal()):
        raise SettingsError(f"found {place!r}, expected partition/offset as `headrace dead list` shows it")
    at = Partition(settings.clicks.dead_letter_topic, int(partition))
    letter = dead_letters.find(KafkaLog(settings.kafka), at, int(offset))
    for name, value in _about(letter).items():
        click.echo(f"{name:7} {value}", err=True)
    click.echo(f"key     {letter.key!r}", err=True)
    for name, text in letter.headers:
        click.echo(f"header  {name}: {text!r}", err=True)
    click.echo(letter.value or b"", nl=False)


@dead.command("replay")
@_reason_option
@_since_option
@_until_option
@config_option
def replay_dead(reason: str | None, since: datetime | None, until: datetime | None, config: Path | None) -> None:
    """Send dead letters to where they came from, with their own key, headers and time. They stay on their topic."""
    settings = settings_module.load(config)
    log = KafkaLog(settings.kafka)
    choice = Choice(reason, _epoch_ms(since), _epoch_ms(until))
    sent = dead_letters.replay(log, dead_letters.read(log, settings.clicks.dead_letter_topic, choice))
    click.echo(f"sent {sent} again")


def _about(letter: Letter) -> dict[str, str]:
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


def log_to_stderr(settings: Settings) -> None:
    """Send the log to standard error, one line an event."""
    logging.basicConfig(
        level=settings.telemetry.log_level.upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    logging.getLogger("kafka").setLevel(logging.WARNING)


def stalled(worker: Worker) -> str | None:
    """What /healthz says of the worker's loop."""
    silent_s = time.monotonic() - worker.heartbeat_s
    return f"the loop has not turned for {silent_s:.0f} s" if silent_s > STALLED_S else None


def _shown(value: object) -> str:
    return json.dumps(value, default=str)
