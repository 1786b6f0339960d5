"""Verbs about releases and data: `evaluate`, `compare`, `cold-start`, `publish`. Only `compare` needs torch."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from engine import release
from engine import settings as settings_module
from engine.commands import config_option
from engine.errors import MissingExtraError
from engine.eventlog.kafka import KafkaLog
from models import tables
from models.comparison import compare as comparing
from models.comparison import contestants, variants
from models.comparison.results import Results
from models.data import content, dataset
from models.data.archive import Source
from models.evaluation.cold_start import cold_start as ask_cold_start
from models.evaluation.evaluate import evaluate as evaluate_release
from models.evaluation.questions import Recording
from models.publishing import publish as publishing
from models.source_options import source_options
from models.train_command import waiting_threads_sleep

_FOLDER = click.Path(path_type=Path, file_okay=False)
_PAGE = click.Path(path_type=Path, dir_okay=False, writable=True)


_min_item_events_option = click.option(
    "--min-item-events",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Ask only for items with so many events to learn from, where most items have next to none.",
)


@click.command()
@config_option
@click.argument("bundle", type=_FOLDER)
@source_options
@_min_item_events_option
@click.option("--json", "as_json", is_flag=True, help="Print one object instead of a table.")
@click.option("--html", type=_PAGE, help="Write a page with plots to this file as well.")
def evaluate(  # noqa: PLR0913 - one for each option
    config: Path | None, bundle: Path, source: Source, min_item_events: int, *, as_json: bool, html: Path | None
) -> None:
    """Ask a release, through the engine's own path, for what it was not trained on; baselines beside it."""
    settings = settings_module.load(config)
    render = _page_maker(html) if html else None
    verified, interactions = release.read(bundle), dataset.read(source)
    with _bar(Console(stderr=True)) as progress:
        report = evaluate_release(verified, interactions, settings, _watch(progress), min_item_events)
    if html and render:
        html.write_text(render(report, verified, settings), encoding="utf-8")
    if as_json:
        click.echo(json.dumps(report, indent=1))
    else:
        splits = {"Leave-last-out": report, "Time split": report["time_split"]}
        Console().print(*(tables.evaluation(title, split) for title, split in splits.items()))


def _seeds(_context: click.Context, _parameter: click.Parameter, text: str) -> list[int]:
    try:
        seeds = [int(part) for part in text.split(",")]
    except ValueError:
        raise click.BadParameter(f"found {text!r}, expected whole numbers with commas between them") from None
    return list(dict.fromkeys(seeds))


@click.command()
@config_option
@source_options
@click.option(
    "--split",
    type=click.Choice(get_args(comparing.SplitName)),
    default="last",
    show_default=True,
    help="What is asked: each user's last event, or the last tenth of time.",
)
@click.option("--seeds", default="1,2,3", show_default=True, callback=_seeds, help="Each trains its own models.")
@click.option("--minutes", type=click.FloatRange(0.0, min_open=True), default=5.0, show_default=True, help="For each.")
@click.option(
    "--clock",
    type=click.Choice(get_args(comparing.ClockName)),
    default="wall",
    show_default=True,
    help="What the minutes are: by the clock, or of computing (on a machine that is shared).",
)
@_min_item_events_option
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="For each; 1 is repeatable.")
@click.option("--only", multiple=True, metavar="NAME", help="Only this contestant or variant; may be given again.")
@click.option("--variants", "variants_file", type=click.Path(path_type=Path), help="TOML: training settings by name.")
@click.option("--out", type=_FOLDER, help="Folder for results.jsonl; started again, a comparison goes on from there.")
@click.option("--json", "as_json", is_flag=True, help="Print one object instead of a table.")
def compare(  # noqa: PLR0913 - one for each option
    config: Path | None,
    source: Source,
    only: tuple[str, ...],
    variants_file: Path | None,
    seeds: list[int],
    out: Path | None,
    *,
    as_json: bool,
    **terms: Any,
) -> None:
    """Train and ask what others would use, and ours, in one run: same events, same time, same questions."""
    settings = settings_module.load(config)
    recording = Recording(dataset.read(source).without_searches(), settings)  # the others know none, so nobody gets any
    items = content.read(source.address, settings.items)
    chosen = variants.read(variants_file) if variants_file else {}
    ours = contestants.two_hops(recording, terms["split"], chosen, items)
    entered = contestants.named([*contestants.baselines(), *ours], only)
    comparison = comparing.Comparison(recording, comparing.Terms(**terms))
    waiting_threads_sleep()
    with Console(stderr=True).status("") as status:

        def watch(name: str, seed: int) -> None:
            status.update(f"{name}, seed {seed}: up to {terms['minutes']:g} minutes and its questions")

        report = comparing.run(comparison, entered, seeds, Results(out), watch)
    if as_json:
        click.echo(json.dumps(report, indent=1))
    else:
        Console().print(tables.comparison(report))


@click.command("cold-start")
@config_option
@click.argument("bundle", type=_FOLDER)
@source_options
@click.option("--json", "as_json", is_flag=True, help="Print one object instead of tables.")
def cold_start(config: Path | None, bundle: Path, source: Source, *, as_json: bool) -> None:
    """Ask a release about items it saw no event of, and about users from their first clicks on."""
    settings = settings_module.load(config)
    verified, interactions, items = (
        release.read(bundle),
        dataset.read(source).without_searches(),
        content.read(source.address, settings.items),
    )
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
            Console().print(tables.evaluation(title, figures))
    for name, reason in new_users.get("left_out", {}).items():
        click.echo(f"New users: {name} left out: {reason}")


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
        from models.evaluation import report  # noqa: PLC0415 - the table works without them
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
