"""The verb `settings`."""

import json
from pathlib import Path

import click

from engine.cli.options import config_option
from engine.settings import loader


@click.command("settings")
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print one object instead of a table.")
def show_settings(config: Path | None, as_json: bool) -> None:
    """Print every setting in force, and where it comes from."""
    values = loader.flatten(loader.load(config))
    origins = loader.origins(config)
    if as_json:
        click.echo(json.dumps(values, default=str, indent=2))
        return
    width = max(map(len, values))
    for name, value in values.items():
        click.echo(f"{name:{width}}  {json.dumps(value, default=str)}  # {origins.get(name, 'default')}")
