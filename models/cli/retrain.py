"""The verb `retrain`. It imports torch only when it is called."""

import json
import logging
import time
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import click
from rich.console import Console

from engine.cli.options import config_option, log_to_stderr, stop_on_signals
from engine.errors import EventLogError, SettingsError
from engine.eventlog.kafka import KafkaLog
from engine.interactions.layout import Source
from engine.metrics import Metrics
from engine.settings import loader
from engine.settings.sections import Settings
from engine.worker.telemetry import Telemetry
from models.cli.options import FOLDER, evaluation_callback, progress_bar
from models.cli.train import module_with_torch, no_content_option, training_settings
from models.data import item_content

logger = logging.getLogger(__name__)
_ELECTION_LIMIT_S: Final = 30.0
_STALLED_S: Final = 6 * 3600.0
"""A retraining that takes longer than this is reported as unhealthy."""


@click.command()
@config_option
@click.option("--data", help="Recorded clicks, as for `headrace train`. Default: the archive (archive.folder).")
@click.option("--out", type=FOLDER, help="Folder that releases are written to. Default: retrain.releases.")
@click.option("--folder", type=FOLDER, help="Publish in this watched folder, not on the topic; needs no broker.")
@click.option("--once", is_flag=True, help="Retrain now, and end.")
@click.option("--force", is_flag=True, help="Publish in spite of the gate.")
@no_content_option
@click.option("--json", "as_json", is_flag=True, help="Print one object instead of sentences (with --once).")
def retrain(  # noqa: PLR0913 - one for each option
    config: Path | None,
    data: str | None,
    out: Path | None,
    folder: Path | None,
    *,
    once: bool,
    force: bool,
    no_content: bool,
    as_json: bool,
) -> None:
    """Train a release on the newest clicks, compare it with the live one, and publish it if it is better.

    Without --once as a service, by retrain.interval_h or retrain.cron. A release that the gate refuses is no failure:
    the report says why, and the live release stays.
    """
    settings = loader.load(config)
    if out:
        settings = settings.model_copy(update={"retrain": settings.retrain.model_copy(update={"releases": out})})
    address = data or settings.archive.folder
    if address is None:
        raise SettingsError("archive.folder: found none, expected the clicks to train on; set it, or give --data")
    if folder and not once:
        raise SettingsError("--folder: found without --once, expected both: a service publishes on the topic")
    log_to_stderr(settings)
    retraining = module_with_torch("models.jobs.retraining", "retrain", settings.retrain.threads)
    plan = training_settings(settings, {"holdout": "time"}, settings.retrain.training)

    def make() -> Any:
        from models.jobs.live_release import FolderStage, TopicStage  # noqa: PLC0415 - with torch, as all of the jobs

        stage = FolderStage(settings, folder) if folder else TopicStage(settings, KafkaLog(settings.kafka))
        items = {} if no_content else item_content.read(address, settings.items)
        return retraining.RetrainInput(Source(address), items, settings, plan, stage, force)

    if once:
        _print(_once(make, settings, retraining, needs_election=folder is None), as_json=as_json)
    else:
        _serve(make, settings, retraining)


def _once(make: Any, settings: Settings, retraining: ModuleType, *, needs_election: bool) -> Any:
    from models.jobs.election import Election  # noqa: PLC0415 - with torch, as all of the jobs

    console = Console(stderr=True)
    with ExitStack() as stack:
        may_publish = None
        if needs_election:
            election = stack.enter_context(Election(settings, KafkaLog(settings.kafka)))
            if not election.wait(_ELECTION_LIMIT_S):
                raise EventLogError(
                    f"another retrainer of model {settings.releases.model!r} is at work, or the brokers do not answer:"
                    f" not elected within {_ELECTION_LIMIT_S:g} s (group {settings.kafka.group}-retrain-"
                    f"{settings.releases.model}); wait for its end"
                )
            may_publish = election.is_elected
        progress = stack.enter_context(progress_bar(console))
        reports = _reports(retraining, progress.console.print, evaluation_callback(progress), lambda: None, may_publish)
        return retraining.retrain(make(), reports, time.time_ns() // 1_000_000)


def _serve(make: Any, settings: Settings, retraining: ModuleType) -> None:
    from models.jobs.election import Election  # noqa: PLC0415 - with torch, as all of the jobs
    from models.jobs.retrain_schedule import RetrainSchedule  # noqa: PLC0415
    from models.jobs.retrain_service import RetrainService, Stopped  # noqa: PLC0415
    from models.jobs.retrainer_signature import check  # noqa: PLC0415

    RetrainSchedule(settings.retrain, time.time_ns() // 1_000_000)  # bad settings are refused before the broker is met
    check(settings)
    stop, metrics = stop_on_signals(), Metrics()

    def give_way() -> None:
        """End a training that is told to stop, or whose retrainer is no longer the one; the next goes on with it."""
        if stop.is_set():
            raise Stopped

    with Election(settings, KafkaLog(settings.kafka)) as election:
        reports = _reports(retraining, logger.info, lambda *_: None, give_way, election.is_elected)
        service = RetrainService(make, reports, election, metrics)

        def stalled() -> str | None:
            silent_s = time.monotonic() - service.heartbeat_s
            return f"a retraining has taken {silent_s:.0f} s" if silent_s > _STALLED_S else None

        with Telemetry(settings.telemetry, metrics.registry, stalled, lambda: None) as telemetry:
            logger.info("metrics on http://%s:%d/metrics", settings.telemetry.host, telemetry.port)
            try:
                service.run(stop)
            except Stopped:
                logger.info("stopped in the middle of a training, which the next start goes on with")
    logger.info("stopped")


def _reports(retraining: ModuleType, on_message: Any, on_progress: Any, on_step: Any, may_publish: Any) -> Any:
    from models.jobs.training_job import Callbacks  # noqa: PLC0415 - with torch

    callbacks = Callbacks(on_message=on_message, on_step=lambda _now: on_step())
    return retraining.Reports(callbacks, on_progress, may_publish or (lambda: True))


def _print(outcome: Any, *, as_json: bool) -> None:
    from models.jobs.retraining import figures  # noqa: PLC0415 - with torch

    if as_json:
        click.echo(json.dumps(figures(outcome), indent=1))
        return
    said = {
        "published": "is published",
        "forced": "is published in spite of the gate (--force)",
        "refused": "is refused, and the live release stays",
        "superseded": "is not published",
    }[outcome.outcome]
    click.echo(f"{outcome.release} {said}; report: {outcome.report}")
    for reason in outcome.reasons:
        click.echo(f"  {reason}")
