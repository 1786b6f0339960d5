"""The verb `rescore`: train target attention over a release's top candidates, and compare its gain with its cost."""

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import click
from pydantic import ValidationError
from rich.console import Console

from engine.cli.options import config_option
from engine.errors import MissingExtraError, SettingsError
from engine.interactions.layout import Source
from engine.releases import bundles
from engine.settings import loader
from models.cli import tables
from models.cli.options import FOLDER
from models.cli.source_options import source_options
from models.cli.train import set_waiting_threads_to_sleep
from models.data import dataset
from models.settings import RescoreSettings, refusal

_OPTIONS: dict[str, type[int | float]] = {
    "candidates": int,
    "events": int,
    "heads": int,
    "dropout": float,
    "minutes": float,
    "seed": int,
    "examples": int,
    "negatives": int,
    "batch_examples": int,
    "learning_rate": float,
    "validation_interval_steps": int,
    "patience": int,
}


def _setting_options(verb: Any) -> Any:
    """Options for the settings of a re-scorer, with their defaults in the help."""
    for name, kind in reversed(_OPTIONS.items()):
        text = f"Default: {RescoreSettings.model_fields[name].default}."
        verb = click.option(f"--{name.replace('_', '-')}", type=kind, help=text)(verb)
    return verb


@click.command()
@config_option
@click.argument("bundle", type=FOLDER)
@source_options
@click.option("--out", type=FOLDER, help="Folder for the graphs of the re-scorer, and the report.")
@click.option("--json", "as_json", is_flag=True, help="Print one object instead of tables.")
@_setting_options
def rescore(
    config: Path | None, bundle: Path, source: Source, out: Path | None, *, as_json: bool, **options: Any
) -> None:
    """Train a re-scorer of a release's top candidates, and report its gain, its cost and whether it pays."""
    settings, measurement, plan = loader.load(config), _measurement(), _rescore_settings(options)
    verified, interactions = bundles.read(bundle), dataset.read(source, settings.clicks)
    with Console(stderr=True).status("") as status:
        report, graphs = measurement.measure(verified, interactions, settings, plan, status.update)
    if out:
        out.mkdir(parents=True, exist_ok=True)
        (out / "rescorer_items.onnx").write_bytes(graphs.items_onnx)
        (out / "rescorer.onnx").write_bytes(graphs.rescorer_onnx)
        (out / "report.json").write_text(json.dumps(report, indent=1))
    if as_json:
        click.echo(json.dumps(report, indent=1))
        return
    Console().print(tables.rescoring(report), tables.rescoring_cost(report))
    click.echo(report["verdict"]["sentence"])


def _rescore_settings(options: dict[str, Any]) -> RescoreSettings:
    """The settings with the options that were given.

    Raises:
        SettingsError: an option is out of range.
    """
    try:
        return RescoreSettings.model_validate({name: value for name, value in options.items() if value is not None})
    except ValidationError as error:
        raise SettingsError(refusal(error)) from error


def _measurement() -> ModuleType:
    """The module `models.lab.rescoring.measure`, which needs torch and onnx.

    Raises:
        MissingExtraError: the extra is not installed.
    """
    set_waiting_threads_to_sleep()
    try:
        from models.lab.rescoring import measure  # noqa: PLC0415 - the other verbs work without torch
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"headrace rescore needs {error.name}, which is not installed: pip install 'headrace[train]'"
        ) from error
    return measure
