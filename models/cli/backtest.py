"""The verb `backtest`. It imports torch only when it is called."""

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console

from engine.cli.options import config_option
from engine.errors import MissingExtraError, SettingsError
from engine.interactions.layout import Source
from engine.settings import loader
from models.cli import tables
from models.cli.options import FOLDER, evaluation_callback, progress_bar
from models.cli.source_options import source_options
from models.cli.train import module_with_torch, no_content_option, setting_options, training_settings
from models.data import dataset, item_content
from models.data.dataset import Interactions

_FILE = click.Path(path_type=Path, dir_okay=False, writable=True)


@click.command()
@config_option
@source_options
@click.option("--parts", type=click.IntRange(2), default=10, show_default=True, help="Parts of equally many events.")
@click.option("--events", type=click.IntRange(2), help="Play the first so many events. Default: all.")
@click.option("--force", is_flag=True, help="Let every release serve in spite of the gate, as the first one does.")
@click.option("--out", type=FOLDER, help="Folder for archive, releases and backtest.json; empty.")
@no_content_option
@setting_options("minutes", "epochs", "seed")
@click.option("--json", "as_json", is_flag=True, help="Print one object instead of a table.")
@click.option("--plot", type=_FILE, help="Also write a plot to this file (SVG).")
def backtest(  # noqa: PLR0913 - one for each option
    config: Path | None,
    source: Source,
    parts: int,
    events: int | None,
    out: Path | None,
    plot: Path | None,
    *,
    force: bool,
    no_content: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Play recorded clicks in order through the engine, with a retraining after each part, and judge every next click.

    Compares the lists that workers push, with retraining and without, with popularity, item-kNN and session-kNN that
    learn from the same clicks. The first part trains the first release.
    """
    settings = loader.load(config)
    plan = training_settings(settings, {**options, "holdout": "time"}, settings.retrain.training)
    playing = module_with_torch("models.lab.backtest.backtest", "backtest", settings.retrain.threads)
    draw = _plotting(plot) if plot else None
    interactions = _first(dataset.read(source, settings.clicks), events)
    items = {} if no_content else item_content.read(source.address, settings.items)
    console = Console(stderr=True)
    with _folder(out) as folder, progress_bar(console) as progress:
        inputs = playing.BacktestInput(interactions, items, settings, plan, folder, parts, force)
        on_progress = evaluation_callback(progress)

        def on_part(played: Any) -> None:
            (folder / "backtest.json").write_text(json.dumps(_report(played, interactions), indent=1))

        reports = _reports(progress.console.print, on_progress)
        report = _report(playing.backtest(inputs, reports, on_progress, on_part), interactions)
    if draw and plot:
        draw(report, plot)
    if as_json:
        click.echo(json.dumps(report, indent=1))
    else:
        Console().print(tables.backtest(report), tables.backtest_parts(report))


def _first(interactions: Interactions, events: int | None) -> Interactions:
    """The first so many events; all of them for None."""
    return interactions if events is None else interactions.select(np.arange(len(interactions)) < events)


@contextmanager
def _folder(out: Path | None) -> Iterator[Path]:
    """The folder of a backtest; a temporary one where none is named.

    Raises:
        SettingsError: there is something in it, which an archive or a retraining would go on with.
    """
    if out is None:
        with tempfile.TemporaryDirectory(prefix="headrace-backtest-") as folder:
            yield Path(folder)
        return
    if out.exists() and any(out.iterdir()):
        raise SettingsError(f"--out: found files in {out}, expected a folder that is empty or not there; name another")
    out.mkdir(parents=True, exist_ok=True)
    yield out


def _reports(on_message: Any, on_progress: Any) -> Any:
    from models.jobs.retraining import Reports  # noqa: PLC0415 - with torch
    from models.jobs.training_job import Callbacks  # noqa: PLC0415

    return Reports(Callbacks(on_message=on_message, on_step=lambda _now: None), on_progress)


def _report(played: Any, interactions: Interactions) -> Mapping[str, Any]:
    from models.lab.backtest import backtest_report  # noqa: PLC0415 - with torch

    return backtest_report.report(played, interactions)


def _plotting(path: Path) -> Any:
    """The function that draws; checks before hours of training that it can.

    Raises:
        BadParameter: the folder does not exist.
        MissingExtraError: the extra with matplotlib is not installed.
    """
    if not path.parent.is_dir():
        raise click.BadParameter(
            f"{path.parent} does not exist; name a file in a folder that does", param_hint="--plot"
        )
    try:
        from models.lab.backtest.backtest_plot import plot  # noqa: PLC0415 - tables need no extra
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"headrace backtest --plot needs {error.name}, which is not installed: pip install 'headrace[report]'"
        ) from error
    return plot
