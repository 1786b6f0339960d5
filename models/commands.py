"""Verbs of the learning side: `train`, `evaluate`, `publish`. Only `train` needs torch, and imports it when called."""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import click
from pydantic import ValidationError
from rich.box import SIMPLE
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from engine import release
from engine import settings as settings_module
from engine.commands import config_option
from engine.errors import MissingExtraError, SettingsError
from engine.eventlog.kafka import KafkaLog
from engine.settings import Settings
from models import content, dataset
from models import publish as publishing
from models.cold_start import cold_start as ask_cold_start
from models.evaluate import evaluate as evaluate_release
from models.protocol import ACCURACY, FIGURES, HEADINGS
from models.settings import EncoderSettings, HoldoutName, TrainSettings

if TYPE_CHECKING:
    from models import train as training

_FOLDER = click.Path(path_type=Path, file_okay=False)
_PAGE = click.Path(path_type=Path, dir_okay=False, writable=True)
_Verb = TypeVar("_Verb", bound=Callable[..., None])
_ENCODER_OPTIONS = {
    "dimensions": int,
    "interests": int,
    "heads": int,
    "window_length": int,
    "dropout": float,
    "id_dropout": float,
}
_TRAIN_OPTIONS = {
    "minutes": float,
    "epochs": int,
    "seed": int,
    "batch_sequences": int,
    "learning_rate": float,
    "negatives": int,
    "patience": int,
    "holdout_items": float,
}


def _choices(verb: _Verb) -> _Verb:
    """Options for the training settings; what is not given keeps its default there."""
    for section, options in ((EncoderSettings, _ENCODER_OPTIONS), (TrainSettings, _TRAIN_OPTIONS)):
        for name, kind in reversed(options.items()):
            default = section.model_fields[name].default
            text = f"Default: {'no limit' if default is None else default}."
            verb = click.option(f"--{name.replace('_', '-')}", type=kind, help=text)(verb)
    return verb


@click.command()
@config_option
@click.option("--data", required=True, type=_FOLDER, help="Folder with interactions.csv.gz (user, item, ts[, event]).")
@click.option("--out", required=True, type=_FOLDER, help="Folder that the release bundle is written to.")
@click.option("--version", help="Version of the release. Default: the time, to the second.")
@click.option(
    "--holdout",
    type=click.Choice(get_args(HoldoutName)),
    default="both",
    show_default=True,
    help="What training leaves out to be asked by `evaluate`: each user's last event, the last tenth of time, or both.",
)
@click.option("--no-content", is_flag=True, help="Learn from clicks alone, though DATA has an items file.")
@_choices
def train(config: Path | None, data: Path, out: Path, version: str | None, *, no_content: bool, **chosen: Any) -> None:
    """Train the two-hop encoder on recorded clicks, and on what an items file says, and write a release bundle."""
    settings = settings_module.load(config)
    plan = _plan(settings, chosen)
    train_encoder, write = _training_side()
    interactions = dataset.read(data)
    items = {} if no_content else content.read(data, settings.items)
    with _bar(Console(stderr=True)) as progress:
        task = progress.add_task("training", total=60.0 * plan.minutes)

        def watch(now: "training.Progress") -> None:
            text = f"epoch {now.epoch + 1}  loss {now.loss:.3f}  validation NDCG {now.ndcg:.4f}"
            progress.update(task, completed=now.elapsed_s, description=text)

        trained = train_encoder(interactions, plan, watch, items=items)
    name = (settings.releases.model, version or datetime.now(UTC).strftime("%Y%m%d%H%M%S"))
    click.echo(write(trained, plan, name, time.time_ns() // 1_000_000, out))


@click.command()
@config_option
@click.argument("bundle", type=_FOLDER)
@click.option("--data", required=True, type=_FOLDER, help="Folder with interactions.csv.gz (user, item, ts[, event]).")
@click.option("--json", "as_json", is_flag=True, help="Print one object instead of a table.")
@click.option("--html", type=_PAGE, help="Write a page with plots to this file as well.")
def evaluate(config: Path | None, bundle: Path, data: Path, *, as_json: bool, html: Path | None) -> None:
    """Ask a release, through the engine's own path, for what it was not trained on; baselines beside it."""
    settings = settings_module.load(config)
    render = _page_maker(html) if html else None
    verified, interactions = release.read(bundle), dataset.read(data)
    with _bar(Console(stderr=True)) as progress:
        report = evaluate_release(verified, interactions, settings, _watch(progress))
    if html and render:
        html.write_text(render(report, verified, settings), encoding="utf-8")
    if as_json:
        click.echo(json.dumps(report, indent=1))
    else:
        Console().print(_table("Leave-last-out", report), _table("Time split", report["time_split"]))


@click.command("cold-start")
@config_option
@click.argument("bundle", type=_FOLDER)
@click.option("--data", required=True, type=_FOLDER, help="Folder with interactions.csv.gz, and an items file if any.")
@click.option("--json", "as_json", is_flag=True, help="Print one object instead of tables.")
def cold_start(config: Path | None, bundle: Path, data: Path, *, as_json: bool) -> None:
    """Ask a release about items it saw no event of, and about users from their first clicks on."""
    settings = settings_module.load(config)
    verified, interactions, items = release.read(bundle), dataset.read(data), content.read(data, settings.items)
    with _bar(Console(stderr=True)) as progress:
        report = ask_cold_start(verified, interactions, items, settings, _watch(progress))
    if as_json:
        click.echo(json.dumps(report, indent=1))
        return
    new_items, new_users = report["new_items"], report["new_users"]
    after = {f"New users, clicks so far: {clicks}": row for clicks, row in new_users.get("clicks", {}).items()}
    for title, figures in {"New items": new_items, **(after or {"New users": new_users})}.items():
        if reason := figures.get("reason"):
            click.echo(f"{title}: no figures: {reason}")
        else:
            Console().print(_table(title, figures))


@click.command()
@config_option
@click.argument("bundle", type=_FOLDER)
@click.option("--folder", type=_FOLDER, help="Announce in this watched folder instead of on the topic.")
def publish(config: Path | None, bundle: Path, folder: Path | None) -> None:
    """Verify a release bundle and announce it to the workers, who go over to it without a pause."""
    settings, now_ms = settings_module.load(config), time.time_ns() // 1_000_000
    if folder:
        announcement = publishing.to_folder(bundle, folder, now_ms)
    else:
        announcement = publishing.to_topic(bundle, KafkaLog(settings.kafka), settings.releases.topic, now_ms)
    click.echo(f"{announcement.model}-{announcement.version} is {announcement.state}: {announcement.bundle}")


def _plan(settings: Settings, chosen: Mapping[str, Any]) -> TrainSettings:
    """The training settings with what was chosen on the command line.

    Raises:
        SettingsError: a choice is out of range.
    """
    given = {name: value for name, value in chosen.items() if value is not None}
    encoder = {name: given.pop(name) for name in _ENCODER_OPTIONS if name in given}
    try:
        return TrainSettings.model_validate({"encoder": encoder, "clicks": settings.clicks, **given})
    except ValidationError as error:
        problems = (f"{'.'.join(map(str, one['loc']))}: found {one['input']!r}, {one['msg']}" for one in error.errors())
        raise SettingsError("; ".join(problems)) from error


def _training_side() -> tuple[Callable[..., "training.Trained"], Callable[..., Path]]:
    """What needs torch.

    Raises:
        MissingExtraError: the extra is not installed.
    """
    # Threads that spin while they wait are slow beyond measure where they share cores; torch reads this when it loads.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        from models import export  # noqa: PLC0415 - the other verbs work without torch
        from models import train as learning  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"headrace train needs {error.name}, which is not installed: pip install 'headrace[train]'"
        ) from error
    return learning.train, export.write


def _page_maker(path: Path) -> Callable[..., str]:
    """What needs matplotlib and jinja2, and a folder to write to: asked for before the hours are spent.

    Raises:
        MissingExtraError: the extra is not installed.
    """
    if not path.parent.is_dir():
        raise click.BadParameter(
            f"{path.parent} does not exist; name a file in a folder that does", param_hint="--html"
        )
    try:
        from models import report  # noqa: PLC0415 - the table works without them
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"headrace evaluate --html needs {error.name}, which is not installed: pip install 'headrace[report]'"
        ) from error
    return report.render


@contextmanager
def _bar(console: Console) -> Iterator[Progress]:
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        yield progress


def _watch(progress: Progress) -> Callable[[str, int, int], None]:
    """Shows how many of the targets of each kind have been asked."""
    tasks: dict[str, Any] = {}

    def watch(kind: str, asked: int, targets: int) -> None:
        if kind not in tasks:
            tasks[kind] = progress.add_task(kind, total=targets)
        progress.update(tasks[kind], completed=asked)

    return watch


def _table(title: str, split: Mapping[str, Any]) -> Table:
    """One split: a row for the release and one for each baseline, and the release's lead over each."""
    if split.get("reason"):
        return Table("", title=title, caption=f"no figures: {split['reason']}")
    caption = (
        f"{split['targets']} targets of {split['users']} users, {split['unknown_targets']} of them unknown to the"
        " release; ± 95 % over users; * a lead whose interval leaves out 0"
    )
    table = Table(title=title, caption=caption, box=SIMPLE, padding=0)
    table.add_column("", no_wrap=True)
    for figure in FIGURES:
        table.add_column(HEADINGS[figure].replace(" ", "\n"), justify="right", no_wrap=True)
    table.add_row("release", *(_cell(split, figure) for figure in FIGURES))
    for name, figures in split["baselines"].items():
        table.add_section()
        table.add_row(name, *(_cell(figures, figure) for figure in FIGURES))
        table.add_row("  release leads by", *(_cell(figures["lead"], figure, star="*") for figure in ACCURACY))
    return table


def _cell(figures: Mapping[str, Any], figure: str, star: str = "") -> str:
    """A value, and below it how far its interval reaches; the star where the interval leaves out 0."""
    value, interval = figures[figure], figures["intervals"].get(figure)
    if value is None:
        return "-"
    if interval is None:
        return f"{value:.4f}"
    low, high = interval
    mark = "" if low <= 0.0 <= high else star
    return f"{value:.4f}{mark}\n±{max(high - value, value - low):.4f}"
