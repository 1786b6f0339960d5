"""The verb `cold-start`."""

import json
from pathlib import Path

import click
from rich.console import Console

from engine.cli.options import config_option
from engine.interactions.layout import Source
from engine.releases import bundles
from engine.settings import loader
from models.cli import tables
from models.cli.options import FOLDER, evaluation_callback, progress_bar
from models.cli.source_options import source_options
from models.data import dataset, item_content
from models.evaluation.cold_start import cold_start as evaluate_cold_start


@click.command("cold-start")
@config_option
@click.argument("bundle", type=FOLDER)
@source_options
@click.option("--json", "as_json", is_flag=True, help="Print one object instead of tables.")
def cold_start(config: Path | None, bundle: Path, source: Source, *, as_json: bool) -> None:
    """Evaluate a release on items without a training event, and on users from their first clicks on."""
    settings = loader.load(config)
    verified, interactions, items = (
        bundles.read(bundle),
        dataset.read(source, settings.clicks).without_searches(),
        item_content.read(source.address, settings.items),
    )
    with progress_bar(Console(stderr=True)) as progress:
        report = evaluate_cold_start(verified, interactions, items, settings, evaluation_callback(progress))
    if as_json:
        click.echo(json.dumps(report, indent=1))
        return
    new_items, new_users = report["new_items"], report["new_users"]
    by_clicks = {f"New users, clicks so far: {clicks}": row for clicks, row in new_users.get("clicks", {}).items()}
    for title, figures in {"New items": new_items, **(by_clicks or {"New users": new_users})}.items():
        if reason := figures.get("reason"):
            click.echo(f"{title}: no figures: {reason}")
        else:
            Console().print(tables.evaluation(title, figures))
    for name, reason in new_users.get("skipped", {}).items():
        click.echo(f"New users: {name} skipped: {reason}")
