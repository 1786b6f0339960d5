"""Verbs of `headrace compress`: cheaper forms of a release, measured side by side, or one of them written."""

import json
import time
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import click
from rich.console import Console
from rich.table import Table

from engine.cli.options import config_option
from engine.errors import MissingExtraError
from engine.interactions.layout import Source
from engine.releases import bundles
from engine.settings import loader
from models.cli.options import FOLDER
from models.cli.source_options import source_options
from models.data import dataset
from models.settings import ALLOWED_LOSS, Form, Precision

_COLUMNS = {
    "ndcg10": ".4f",
    "hr10": ".4f",
    "time_split_ndcg10": ".4f",
    "trial_loss": ".2%",
    "trial_loss_error": ".2%",
    "difference": ".2g",
    "us_per_user_16": ".1f",
    "ratio_16": ".2f",
    "us_per_user_256": ".1f",
    "ratio_256": ".2f",
    "table_bytes": ",",
    "bundle_bytes": ",",
}


@click.group()
def compress() -> None:
    """Make a release cheaper: lower precision, fewer hidden units."""


@compress.command()
@config_option
@click.argument("bundle", type=FOLDER)
@source_options
@click.option("--out", required=True, type=FOLDER, help="Folder that the new release bundle is written to.")
@click.option("--version", help="Version of the new release. Default: the old one, and what was done.")
@click.option("--precision", type=click.Choice(get_args(Precision)), default=Form().precision, show_default=True)
@click.option(
    "--prune",
    type=click.FloatRange(0.0, 1.0, max_open=True),
    default=Form().pruned,
    show_default=True,
    help="Share of the hidden units of each feed-forward layer to leave out, the smallest first.",
)
@click.option(
    "--allow-loss",
    type=click.FloatRange(0.0, 1.0),
    default=ALLOWED_LOSS,
    show_default=True,
    help="Refuse what loses a larger share of NDCG@10.",
)
def write(config: Path | None, bundle: Path, source: Source, out: Path, **chosen: Any) -> None:
    """Try a cheaper form of a release on recorded windows and write it as a release of its own."""
    form = Form(precision=chosen["precision"], pruned=chosen["prune"])
    if form == Form(precision="fp32"):
        raise click.UsageError("fp32 without --prune is the release as it is; choose a lower precision, or prune")
    settings, compressing = loader.load(config), _compressing()
    interactions = dataset.read(source, settings.clicks)
    tried = compressing.CompressionCheck(bundles.read(bundle), interactions, settings.clicks).run(form)
    tried.refuse(chosen["allow_loss"])
    click.echo(compressing.write(tried, chosen["version"], time.time_ns() // 1_000_000, out))


@compress.command()
@config_option
@click.argument("bundle", type=FOLDER)
@source_options
@click.option("--items", type=click.IntRange(min=1), help="Catalogue to measure the cost on. Default: the release's.")
@click.option("--json", "as_json", is_flag=True, help="Print a list of objects instead of a table.")
def measure(config: Path | None, bundle: Path, source: Source, items: int | None, *, as_json: bool) -> None:
    """Put the cheaper forms of a release side by side: quality as `evaluate` has it, cost per user, and sizes."""
    settings, compressing = loader.load(config), _compressing()
    interactions = dataset.read(source, settings.clicks)
    check = compressing.CompressionCheck(bundles.read(bundle), interactions, settings.clicks)
    with Console(stderr=True).status("measuring"):
        rows = compressing.measure(check, interactions, settings, items)
    if as_json:
        click.echo(json.dumps(rows, indent=1))
    else:
        Console().print(_table(rows))


def _compressing() -> ModuleType:
    """`models.lab.compression.forms`, which needs onnx.

    Raises:
        MissingExtraError: the extra is not installed.
    """
    try:
        from models.lab.compression import forms as compressing  # noqa: PLC0415 - the other verbs work without onnx
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"headrace compress needs {error.name}, which is not installed: pip install 'headrace[train]'"
        ) from error
    return compressing


def _table(rows: list[dict[str, Any]]) -> Table:
    """A row for each form; a split that the release was trained on has no figures."""
    table = Table("", *_COLUMNS)
    for row in rows:
        cells = ("-" if row[name] is None else format(row[name], spec) for name, spec in _COLUMNS.items())
        table.add_row(row["form"], *cells)
    return table
