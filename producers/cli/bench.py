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
    "--release", "base", type=click.Path(path_type=Path), default=DEMO_RELEASE, help="Trained bundle to start from."
)
@click.option("--json", "as_json", is_flag=True, help="Print one object instead of a table.")
@click.option(
    "--rows",
    "row_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File to add the figures to, one JSON row.",
)
def throughput(base: Path, as_json: bool, row_file: Path | None, **load: int) -> None:
    """CPU time per list on the in-process log, beside the floor."""
    if load["batch"] > load["users"]:
        raise click.UsageError(f"--batch {load['batch']} needs as many --users, found {load['users']}")
    result = measure(Load(**load), base)
    if row_file:
        rows.append(row_file, _command(base, load), result)
    if as_json:
        click.echo(json.dumps(result))
        return
    for name, value in result.items():
        click.echo(f"{name:24} {value if isinstance(value, dict) else f'{value:,.2f}'}")


def _command(base: Path, load: dict[str, int]) -> str:
    """What gives the same figures again."""
    options = [word for name, value in load.items() for word in (f"--{name}", str(value))]
    release = [] if base == DEMO_RELEASE else ["--release", str(base)]
    return shlex.join(["headrace", "bench", "throughput", *options, *release])
