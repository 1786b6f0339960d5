"""The verb `bench`."""

import json
import shlex
from pathlib import Path

import click

from producers.bench import rows
from producers.bench.throughput import Load, measure
from producers.demo.bundled import DEMO_RELEASE


@click.group()
def bench() -> None:
    """Measure the engine on this machine."""


@bench.command()
@click.option("--items", default=100_000, show_default=True, help="Items in the catalogue.")
@click.option("--users", default=4_000, show_default=True, help="Users with a full window.")
@click.option("--batch", default=256, show_default=True, help="Clicks in a micro-batch.")
@click.option("--batches", default=60, show_default=True, help="Batches measured.")
@click.option(
    "--neighbours",
    default=64,
    show_default=True,
    help="Neighbours of an item; 0: scores of interests alone.",
)
@click.option(
    "--release",
    type=click.Path(path_type=Path),
    default=DEMO_RELEASE,
    help="Bundle whose graphs are used and whose vectors the items of the benchmark resemble.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one object instead of a table.")
@click.option(
    "--rows",
    "row_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File to add the figures to, one JSON row.",
)
def throughput(release: Path, as_json: bool, row_file: Path | None, **load: int) -> None:
    """CPU time per list on the in-process log, compared with the bare kernels."""
    if load["batch"] > load["users"]:
        raise click.UsageError(f"--batch {load['batch']} needs as many --users, found {load['users']}")
    figures = measure(Load(**load), release)
    if row_file:
        rows.append(row_file, _command(release, load), figures)
    if as_json:
        click.echo(json.dumps(figures))
        return
    for name, value in figures.items():
        click.echo(f"{name:24} {value if isinstance(value, dict) else f'{value:,.2f}'}")


def _command(release: Path, load: dict[str, int]) -> str:
    """The command that gives the same figures again."""
    options = [word for name, value in load.items() for word in (f"--{name}", str(value))]
    options += [] if release == DEMO_RELEASE else ["--release", str(release)]
    return shlex.join(["headrace", "bench", "throughput", *options])
