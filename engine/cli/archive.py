"""The verb `archive`."""

import logging
import time
from pathlib import Path
from typing import Final

import click

from engine.cli.options import config_option, log_to_stderr, stop_on_signals
from engine.eventlog.kafka import KafkaLog
from engine.eventlog.time_source import TimeSource
from engine.metrics import Metrics
from engine.settings import loader
from engine.settings.sections import Settings
from engine.worker.archiver import Archiver, archive_once
from engine.worker.telemetry import Telemetry

logger = logging.getLogger(__name__)
_STALLED_S: Final = 120.0
"""An archiver whose loop does not turn for this long is reported as unhealthy; a file to a slow store takes a while."""


@click.command()
@config_option
@click.option("--folder", help="Folder or address (s3://...) of the archive. Default: archive.folder.")
@click.option("--once", is_flag=True, help="Archive what is on the topic now, compact, and end.")
def archive(config: Path | None, folder: str | None, *, once: bool) -> None:
    """Keep clicks, searches and requests to forget users as Parquet files, for training and replay.

    Every click of the topic is in the archive once, whatever is killed when. Read it with --data FOLDER.
    """
    settings = loader.load(config)
    if folder:
        settings = settings.model_copy(update={"archive": settings.archive.model_copy(update={"folder": folder})})
    log_to_stderr(settings)
    if once:
        clicks = archive_once(settings, KafkaLog(settings.kafka), Metrics(), TimeSource())
        click.echo(f"{settings.archive.folder}: {clicks} new clicks of topic {settings.clicks.topic!r}")
    else:
        _serve(settings)


def _serve(settings: Settings) -> None:
    stop = stop_on_signals()
    metrics = Metrics()
    archiver = Archiver(settings, KafkaLog(settings.kafka), metrics)

    def stalled() -> str | None:
        silent_s = time.monotonic() - archiver.heartbeat_s
        return f"the loop has not turned for {silent_s:.0f} s" if silent_s > _STALLED_S else None

    with Telemetry(settings.telemetry, metrics.registry, stalled, lambda: archiver.not_ready) as telemetry:
        logger.info("metrics on http://%s:%d/metrics", settings.telemetry.host, telemetry.port)
        archiver.run(stop)
    logger.info("stopped")
