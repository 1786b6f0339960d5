"""The verb `rescore`: target attention over a release's best candidates, trained and weighed against its cost."""

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
from models.cli.train import waiting_threads_sleep
from models.data import dataset
from models.settings import RescoreSettings

_OPTIONS: dict[str, type[int | float]] = {
    "candidates": int,
    "events": int,
    "heads": int,
    "dropout": float,
    "minutes": float,
    "seed": int,
    "questions": int,
    "negatives": int,
    "batch_questions": int,
    "learning_rate": float,
    "round_steps": int,
    "patience": int,
}


def _plan_options(verb: Any) -> Any:
    """Options for the settings of a re-scorer; what is not given keeps its default there."""
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
@_plan_options
def rescore(
    config: Path | None, bundle: Path, source: Source, out: Path | None, *, as_json: bool, **chosen: Any
) -> None:
    """Train a re-scoring of a release's best candidates, and say what it gains, what it costs and whether it pays."""
    settings, measuring, plan = loader.load(config), _measuring(), _plan(chosen)
    verified, interactions = bundles.read(bundle), dataset.read(source, settings.clicks)
    with Console(stderr=True).status("") as status:
        report, graphs = measuring.measure(verified, interactions, settings, plan, status.update)
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


def _plan(chosen: dict[str, Any]) -> RescoreSettings:
    """The settings with what was chosen on the command line.

    Raises:
        SettingsError: a choice is out of range.
    """
    try:
        return RescoreSettings.model_validate({name: value for name, value in chosen.items() if value is not None})
    except ValidationError as error:
        problems = (f"{'.'.join(map(str, one['loc']))}: found {one['input']!r}, {one['msg']}" for one in error.errors())
        raise SettingsError("; ".join(problems)) from error


def _measuring() -> ModuleType:
    """`models.lab.rescoring.measure`, which needs torch and onnx.

    Raises:
        MissingExtraError: the extra is not installed.
    """
    waiting_threads_sleep()
    try:
        from models.lab.rescoring import measure  # noqa: PLC0415 - the other verbs work without torch
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"headrace rescore needs {error.name}, which is not installed: pip install 'headrace[train]'"
        ) from error
    return measure
