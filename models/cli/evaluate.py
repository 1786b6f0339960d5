"""The verb `evaluate`; it needs no torch."""

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
from models.cli.options import FOLDER, evaluation_callback, min_item_events_option, progress_bar
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
@click.option("--html", type=_PAGE, help="Also write a page with plots to this file.")
def evaluate(  # noqa: PLR0913 - one for each option
    config: Path | None, bundle: Path, source: Source, min_item_events: int, *, as_json: bool, html: Path | None
) -> None:
    """Evaluate a release, through the engine's own path, on events that it was not trained on, next to baselines."""
    settings = loader.load(config)
    render = page_renderer(html) if html else None
    verified, interactions = bundles.read(bundle), dataset.read(source, settings.clicks)
    with progress_bar(Console(stderr=True)) as progress:
        report = evaluate_release(verified, interactions, settings, evaluation_callback(progress), min_item_events)
    if html and render:
        html.write_text(render(report, verified, settings), encoding="utf-8")
    if as_json:
        click.echo(json.dumps(report, indent=1))
    else:
        splits = {"Leave-last-out": report, "Time split": report["time_split"]}
        Console().print(*(tables.evaluation(title, split) for title, split in splits.items()))


def page_renderer(path: Path) -> Callable[..., str]:
    """The function that renders the page; checks before the evaluation that it can, and that `path` has a folder.

    Raises:
        BadParameter: the folder does not exist.
        MissingExtraError: the extra with matplotlib and jinja2 is not installed.
    """
    if not path.parent.is_dir():
        raise click.BadParameter(
            f"{path.parent} does not exist; name a file in a folder that does", param_hint="--html"
        )
    try:
        from models.evaluation import report  # noqa: PLC0415 - tables need no extra
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"headrace evaluate --html needs {error.name}, which is not installed: pip install 'headrace[report]'"
        ) from error
    return report.render
