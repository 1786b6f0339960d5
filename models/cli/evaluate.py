"""Verbs about releases and data: `evaluate`, `compare`, `cold-start`, `publish`. Only `compare` needs torch."""

import json
from collections.abc import Callable
from pathlib import Path

import click
from rich.console import Console

from engine.cli.options import config_option
from engine.errors import MissingExtraError
from engine.interactions.layout import Source
from engine.releases import bundles
from engine.settings import loader
from models.cli import tables
from models.cli.options import FOLDER, min_item_events_option, progress_bar, watch_targets
from models.cli.source_options import source_options
from models.data import dataset
from models.evaluation.evaluate import evaluate as evaluate_release

_PAGE = click.Path(path_type=Path, dir_okay=False, writable=True)


@click.command()
@config_option
@click.argument("bundle", type=FOLDER)
@source_options
@min_item_events_option
@click.option("--json", "as_json", is_flag=True, help="Print one object instead of a table.")
@click.option("--html", type=_PAGE, help="Write a page with plots to this file as well.")
def evaluate(  # noqa: PLR0913 - one for each option
    config: Path | None, bundle: Path, source: Source, min_item_events: int, *, as_json: bool, html: Path | None
) -> None:
    """Ask a release, through the engine's own path, for what it was not trained on; baselines beside it."""
    settings = loader.load(config)
    render = page_maker(html) if html else None
    verified, interactions = bundles.read(bundle), dataset.read(source, settings.clicks)
    with progress_bar(Console(stderr=True)) as progress:
        report = evaluate_release(verified, interactions, settings, watch_targets(progress), min_item_events)
    if html and render:
        html.write_text(render(report, verified, settings), encoding="utf-8")
    if as_json:
        click.echo(json.dumps(report, indent=1))
    else:
        splits = {"Leave-last-out": report, "Time split": report["time_split"]}
        Console().print(*(tables.evaluation(title, split) for title, split in splits.items()))


def page_maker(path: Path) -> Callable[..., str]:
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
