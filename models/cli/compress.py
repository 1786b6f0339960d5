"""Verbs of `headrace compress`: compressed forms of a release, all measured, or one of them written."""

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
    "ndcg_loss": ".2%",
    "ndcg_loss_error": ".2%",
    "output_difference": ".2g",
    "us_per_user_16": ".1f",
    "ratio_16": ".2f",
    "us_per_user_256": ".1f",
    "ratio_256": ".2f",
    "table_bytes": ",",
    "bundle_bytes": ",",
}


@click.group()
def compress() -> None:
    """Compress a release: lower precision, fewer hidden units."""


@compress.command()
@config_option
@click.argument("bundle", type=FOLDER)
@source_options
@click.option("--out", required=True, type=FOLDER, help="Folder that the new release bundle is written to.")
@click.option("--version", help="Version of the new release. Default: the old version with the form added.")
@click.option("--precision", type=click.Choice(get_args(Precision)), default=Form().precision, show_default=True)
@click.option(
    "--prune",
    type=click.FloatRange(0.0, 1.0, max_open=True),
    default=Form().pruned,
    show_default=True,
    help="Share of the hidden units of each feed-forward layer to remove, the smallest first.",
)
@click.option(
    "--allow-loss",
    type=click.FloatRange(0.0, 1.0),
    default=ALLOWED_LOSS,
    show_default=True,
    help="Refuse a form that loses a larger share of NDCG@10.",
)
def write(config: Path | None, bundle: Path, source: Source, out: Path, **options: Any) -> None:
    """Check a compressed form of a release on recorded windows, and write it as a new release."""
    form = Form(precision=options["precision"], pruned=options["prune"])
    if form == Form(precision="fp32"):
        raise click.UsageError("fp32 without --prune is the release as it is; choose a lower precision, or prune")
    settings, compressing = loader.load(config), _forms()
    compressed = compressing.CompressionCheck(
        bundles.read(bundle), dataset.read(source, settings.clicks), settings.clicks
    ).run(form)
    compressed.raise_if_unfit(options["allow_loss"])
    click.echo(compressing.write(compressed, options["version"], time.time_ns() // 1_000_000, out))


@compress.command()
@config_option
@click.argument("bundle", type=FOLDER)
@source_options
@click.option(
    "--items", type=click.IntRange(min=1), help="Catalogue size to measure cost with. Default: the release's."
)
@click.option("--json", "as_json", is_flag=True, help="Print a list of objects instead of a table.")
def measure(config: Path | None, bundle: Path, source: Source, items: int | None, *, as_json: bool) -> None:
    """Compare the compressed forms of a release: accuracy as in `evaluate`, cost per user, and sizes."""
    settings, forms = loader.load(config), _forms()
    interactions = dataset.read(source, settings.clicks)
    check = forms.CompressionCheck(bundles.read(bundle), interactions, settings.clicks)
    with Console(stderr=True).status("measuring"):
        rows = forms.measure(check, interactions, settings, items)
    if as_json:
        click.echo(json.dumps(rows, indent=1))
    else:
        Console().print(_table(rows))


def _forms() -> ModuleType:
    """The module `models.lab.compression.forms`, which needs onnx.

    Raises:
        MissingExtraError: the extra is not installed.
    """
    try:
        from models.lab.compression import forms  # noqa: PLC0415 - the other verbs work without onnx
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"headrace compress needs {error.name}, which is not installed: pip install 'headrace[train]'"
        ) from error
    return forms


def _table(rows: list[dict[str, Any]]) -> Table:
    """A row for each form; a dash for figures of a split that the release was trained on."""
    table = Table("", *_COLUMNS)
    for row in rows:
        cells = ("-" if row[name] is None else format(row[name], spec) for name, spec in _COLUMNS.items())
        table.add_row(row["form"], *cells)
    return table
