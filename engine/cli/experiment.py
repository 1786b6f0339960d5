"""The verb `experiment`, with `start`, `stop`, `list`, `report` and `purge`."""

import json
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import click
import msgspec

from engine.cli import experiment_page
from engine.cli.options import config_option
from engine.cli.releases import open_registrar
from engine.eventlog import topic_plan
from engine.eventlog.base import EventLog, Outgoing
from engine.eventlog.kafka import KafkaLog
from engine.messages.experiment_messages import Experiment
from engine.quality import experiment_report
from engine.quality.experiment_report import ArmReport, ExperimentCounts, ExperimentReport, Interval
from engine.releases import experiments
from engine.releases.experiments import Judgement
from engine.releases.registrar import Registrar
from engine.releases.registry import Change, Registry
from engine.settings import loader
from engine.settings.sections import Exposure, Settings
from engine.worker.sums_reader import SumsReader

_folder_option: Final = click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Only this watched folder, without a broker. Default: the topic, and releases.folder where it is set.",
)
_json_option: Final = click.option("--json", "as_json", is_flag=True, help="Print one object.")
_reason_option: Final = click.option("--reason", default="", help="Kept with the change, for those who look later.")
_DEFAULTS: Final = Judgement()
_COLUMNS: Final = ("arm", "share", "users", "clicks", "hits", "gain", "lift", "always valid", "verdict")
_FIXED_COLUMNS: Final = ("fixed horizon", "p")
_EXPOSED: Final = {"lists": "users", "impressions": "users who were shown a list"}
"""Those who count, by exposure."""


@click.group()
def experiment() -> None:
    """Compare releases, or settings of lists, on shares of the users."""


@experiment.command("start")
@click.argument("name")
@click.option(
    "--arm",
    "arm_texts",
    multiple=True,
    required=True,
    help="'NAME [share=0.2] [release=VERSION] [SETTING=VALUE ...]', two to eight times; the first one is the control.",
)
@click.option("--salt", default="", help="Of the split; the salt of an earlier experiment repeats its split.")
@click.option(
    "--error",
    type=click.FloatRange(0.0, 0.2, min_open=True),
    default=_DEFAULTS.error,
    show_default=True,
    help="Probability that any interval is wrong at any look.",
)
@click.option(
    "--difference",
    type=click.FloatRange(0.0, 1.0, min_open=True, max_open=True),
    help="Difference of the mean gain that matters. Default: canary.difference.",
)
@click.option(
    "--min-users", type=click.IntRange(min=50), help="In each arm before a lift is reported. Default: canary.min_users."
)
@click.option(
    "--exposure",
    type=click.Choice(["lists", "impressions"]),
    help="Users are counted once a list was sent to them, or shown. Default: canary.exposure.",
)
@_reason_option
@_folder_option
@config_option
def start_experiment(  # noqa: PLR0913 - an option each
    name: str,
    arm_texts: tuple[str, ...],
    salt: str,
    error: float,
    difference: float | None,
    min_users: int | None,
    exposure: Exposure | None,
    reason: str,
    folder: Path | None,
    config: Path | None,
) -> None:
    """Start the experiment NAME over the live release. All workers take it up within a second."""
    settings = loader.load(config)
    arms = [*map(experiments.parse_arm, arm_texts)]
    for arm in arms:
        settings.recommendations.with_arm(arm.settings)
    canary = settings.canary
    exposure = exposure or canary.exposure
    if exposure == "impressions" and folder is None:
        topic_plan.check_impressions(KafkaLog(settings.kafka), settings)
    judgement = Judgement(error, difference or canary.difference, min_users or canary.min_users, exposure)

    def rule(registry: Registry, now_ms: int) -> list[Change]:
        return experiments.start(registry, name, arms, now_ms, salt=salt, judgement=judgement, reason=reason)

    for change in _change(config, folder, rule):
        if isinstance(change, Experiment):
            by = ", judged by impressions" if change.exposure == "impressions" else ""
            click.echo(f"the experiment {name!r} is running{by}: {_arms_line(change)}")


@experiment.command("stop")
@click.argument("name")
@_reason_option
@_folder_option
@config_option
def stop_experiment(name: str, reason: str, folder: Path | None, config: Path | None) -> None:
    """End the experiment NAME: all users are served by the live release."""
    _change(config, folder, lambda registry, now_ms: experiments.stop(registry, name, now_ms, reason))
    live = open_registrar(config, folder).read().live()
    click.echo(f"the experiment {name!r} is stopped; all users are served by {live[0].name if live else 'nothing'}")


@experiment.command("list")
@_json_option
@_folder_option
@config_option
def list_experiments(as_json: bool, folder: Path | None, config: Path | None) -> None:
    """Print the experiments, newest first: name, state, time and arms."""
    registry = open_registrar(config, folder).read()
    newest_first = sorted(registry.experiments.values(), key=lambda known: known.started_ms, reverse=True)
    if as_json:
        rows = [
            {**msgspec.to_builtins(known), "state": experiments.state_of(registry, known)} for known in newest_first
        ]
        click.echo(json.dumps(rows))
        return
    for known in newest_first:
        columns = [known.experiment, experiments.state_of(registry, known), _time(known.started_ms), _arms_line(known)]
        click.echo("  ".join([*columns, *([known.reason] if known.reason else [])]))


@experiment.command("report")
@click.argument("name", required=False)
@_json_option
@click.option(
    "--html",
    "page",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write a page with the lifts over time to this file.",
)
@config_option
def report_experiment(name: str | None, as_json: bool, page: Path | None, config: Path | None) -> None:
    """Print the arms of the experiment NAME, compared with its control; without NAME, of the one started last."""
    settings = loader.load(config)
    report = read_report(open_registrar(config, None), KafkaLog(settings.kafka), settings, name, _now_ms())
    if page is not None:
        page.write_text(experiment_page.render(report), encoding="utf-8")
    if as_json:
        click.echo(msgspec.json.encode(report).decode())
        return
    click.echo("\n".join(table(report)))
    if page is not None:
        click.echo(f"the page is {page}")


@experiment.command("purge")
@click.argument("name")
@config_option
def purge_experiment(name: str, config: Path | None) -> None:
    """Delete the sums and looks of the experiment NAME, which is over. Its arms stay in the list, and its name used."""
    settings = loader.load(config)
    registrar, log = open_registrar(config, None), KafkaLog(settings.kafka)
    known = experiments.ended(registrar.read(), name)
    topic = topic_plan.canary_sums(settings).name
    keys: list[bytes | None] = []
    if log.partitions(topic):
        with closing(SumsReader(log.reader([topic]))) as sums:
            sums.counts(known)
            keys += sums.experiment_keys(known)
        with log.producer() as producer:
            producer.send(Outgoing(topic, keys, [None] * len(keys)))
    click.echo(f"the sums and looks of the experiment {name!r} are deleted")


def read_report(
    registrar: Registrar, log: EventLog, settings: Settings, name: str | None, now_ms: int
) -> ExperimentReport:
    """The report of an experiment by all that workers have counted until now.

    Raises:
        ReleaseError: there is no such experiment.
        EventLogError: the sums cannot be read.
    """
    registry = registrar.read()
    known = experiments.resolve(registry, name)
    topic = topic_plan.canary_sums(settings).name
    counts, looks = ExperimentCounts.empty(len(known.arms)), []
    if log.partitions(topic):
        with closing(SumsReader(log.reader([topic]))) as sums:
            counts, looks = sums.counts(known), sums.looks(known)
    return experiment_report.report(known, experiments.state_of(registry, known), counts, looks, now_ms)


def table(report: ExperimentReport) -> list[str]:
    """The lines of a report."""
    is_over = report.state != "running"
    rows = [[*_COLUMNS, *(_FIXED_COLUMNS if is_over else ())]]
    rows += [_row(arm, is_over=is_over) for arm in report.arms]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    hours = (report.until_ms - report.started_ms) / 3_600_000
    head = (
        f"experiment {report.experiment!r} is {report.state}: {hours:.1f} h from {_time(report.started_ms)},"
        f" judged by {report.exposure}, workers' sessions: {report.sessions}"
        f"{f' ({report.reason})' if report.reason else ''}"
    )
    return [
        head,
        ratio_line(report),
        *("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows),
        *(f"{arm.arm}: not served by some worker: {reason}" for arm in report.arms for reason in arm.refused),
    ]


def ratio_line(report: ExperimentReport) -> str:
    """The outcome of the sample-ratio check in a sentence."""
    ratio = report.sample_ratio
    users = ", ".join(f"{arm} {count}" for arm, count in ratio.users.items())
    if ratio.mismatch:
        return (
            f"NOT TO BE READ: the arms do not have the users that their shares promise (p = {ratio.p_value:.1g}, users"
            f" {users}); find the cause, such as lists of one arm that are lost or a worker of an older version, and"
            " start another experiment"
        )
    p_value = "-" if ratio.p_value is None else f"{ratio.p_value:.3f}"
    return f"{_EXPOSED[report.exposure]} as the shares promise: p = {p_value} ({users})"


def _row(arm: ArmReport, *, is_over: bool) -> list[str]:
    fixed = [_interval(arm.fixed_horizon), "-" if arm.p_value is None else f"{arm.p_value:.4f}"]
    return [
        arm.arm,
        f"{arm.share:.1%}",
        str(arm.users),
        str(arm.clicks),
        _percent(arm.hit_rate),
        "-" if arm.gain is None else f"{arm.gain:.4f}",
        _percent(arm.lift, "+"),
        _interval(arm.always_valid),
        arm.verdict,
        *(fixed if is_over else []),
    ]


def _percent(value: float | None, sign: str = "") -> str:
    return "-" if value is None else f"{value:{sign}.1%}"


def _interval(interval: Interval | None) -> str:
    if interval is None:
        return "-"
    return f"{interval.lower:+.1%} to {'any' if interval.upper is None else f'{interval.upper:+.1%}'}"


def _arms_line(known: Experiment) -> str:
    texts = []
    for arm in known.arms:
        changes = [f"{key}={json.dumps(value)}" for key, value in arm.settings.items()]
        release = [f"release={arm.version}"] if arm.version else []
        texts.append(" ".join([arm.name, f"{arm.share:.1%}", *release, *changes]))
    return ", ".join(texts)


def _change(config: Path | None, folder: Path | None, rule: Callable[[Registry, int], list[Change]]) -> list[Change]:
    now_ms = _now_ms()
    return open_registrar(config, folder).change(lambda registry: rule(registry, now_ms))


def _time(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="seconds")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
