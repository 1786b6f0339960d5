"""The verb `run`: one worker, with its metrics and probes over HTTP."""

import logging
from contextlib import closing
from pathlib import Path
from typing import Final

import click

from engine.cli.options import config_option, log_to_stderr, stop_on_signals
from engine.eventlog.kafka import KafkaLog
from engine.metrics import Metrics
from engine.settings import loader
from engine.worker import tracing, vitals
from engine.worker.loop import Environment, Worker
from engine.worker.telemetry import Telemetry

logger = logging.getLogger(__name__)
STALLED_S: Final = 60.0
"""A worker whose loop does not turn for this long is reported as unhealthy."""


@click.command()
@config_option
@click.option("--release", type=click.Path(path_type=Path), help="Start with this bundle (releases.path).")
def run(config: Path | None, release: Path | None) -> None:
    """Serve: read clicks from Kafka, push a fresh list for every user whose window changed."""
    settings = loader.load(config)
    if release:
        settings = settings.model_copy(update={"releases": settings.releases.model_copy(update={"path": release})})
    log_to_stderr(settings)
    stop = stop_on_signals()
    metrics = Metrics()
    traces = tracing.from_settings(settings)
    worker = Worker(settings, KafkaLog(settings.kafka), metrics, environment=Environment(tracing=traces))
    vitals.watch(worker, metrics)
    with Telemetry(
        settings.telemetry, metrics.registry, lambda: stalled(worker), lambda: worker.not_ready
    ) as telemetry:
        logger.info("metrics on http://%s:%d/metrics", settings.telemetry.host, telemetry.port)
        with closing(traces):
            worker.run(stop)
    logger.info("stopped")


def stalled(worker: Worker) -> str | None:
    """The fault that /healthz reports of the worker's loop; None while it turns."""
    idle_s = worker.loop_idle_s
    return f"the loop has not turned for {idle_s:.0f} s" if idle_s > STALLED_S else None
