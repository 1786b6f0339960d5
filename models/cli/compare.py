"""The verb `compare`."""

import json
from pathlib import Path
from typing import Any, get_args

import click
from rich.console import Console

from engine.cli.options import config_option
from engine.interactions.layout import Source
from engine.settings import loader
from models.cli import tables
from models.cli.interruption import interruptible
from models.cli.options import FOLDER, min_item_events_option
from models.cli.source_options import source_options
from models.cli.train import set_waiting_threads_to_sleep
from models.data import dataset, item_content
from models.evaluation.queries import EvalData
from models.lab.comparison import compare as comparing
from models.lab.comparison import systems, variants
from models.lab.comparison.results import Results


def _seeds(_context: click.Context, _parameter: click.Parameter, text: str) -> list[int]:
    try:
        seeds = [int(part) for part in text.split(",")]
    except ValueError:
        raise click.BadParameter(f"found {text!r}, expected whole numbers with commas between them") from None
    return list(dict.fromkeys(seeds))


@click.command()
@config_option
@source_options
@click.option(
    "--split",
    type=click.Choice(get_args(comparing.SplitName)),
    default="last",
    show_default=True,
    help="Targets: each user's last event, or the last tenth of time.",
)
@click.option("--seeds", default="1,2,3", show_default=True, callback=_seeds, help="Each seed trains all systems.")
@click.option(
    "--minutes",
    type=click.FloatRange(0.0, min_open=True),
    default=5.0,
    show_default=True,
    help="Training time of each system.",
)
@click.option(
    "--clock",
    type=click.Choice(get_args(comparing.ClockName)),
    default="wall",
    show_default=True,
    help="Clock of the minutes: elapsed time, or CPU time (for a shared machine).",
)
@min_item_events_option
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Per system; 1 is repeatable.")
@click.option("--only", multiple=True, metavar="NAME", help="Only this system or variant; can be repeated.")
@click.option("--variants", "variants_file", type=click.Path(path_type=Path), help="TOML: training settings by name.")
@click.option("--out", type=FOLDER, help="Folder for results.jsonl, from which the same command resumes.")
@click.option("--json", "as_json", is_flag=True, help="Print one object instead of a table.")
def compare(  # noqa: PLR0913 - one for each option
    config: Path | None,
    source: Source,
    only: tuple[str, ...],
    variants_file: Path | None,
    seeds: list[int],
    out: Path | None,
    *,
    as_json: bool,
    **terms: Any,
) -> None:
    """Train and evaluate the two-hop encoder and other systems in one run: same events, same time, same queries.

    Ctrl-C ends the training that runs, which keeps what it has learned, and goes on with the next; twice ends the
    comparison.
    """
    settings = loader.load(config)
    clicks = dataset.read(source, settings.clicks).without_searches()  # baselines know no searches
    eval_data = EvalData(clicks, settings)
    items = item_content.read(source.address, settings.items)
    variant_settings = variants.read(variants_file) if variants_file else {}
    two_hop_systems = systems.two_hop_systems(eval_data, terms["split"], variant_settings, items)
    selected = systems.select([*systems.baselines(), *two_hop_systems], only)
    comparison = comparing.Comparison(eval_data, comparing.ComparisonTerms(**terms))
    set_waiting_threads_to_sleep()
    console = Console(stderr=True)
    with console.status("") as status, interruptible(console.print) as interrupted:

        def on_start(name: str, seed: int) -> None:
            status.update(f"{name}, seed {seed}: up to {terms['minutes']:g} minutes of training, then its evaluation")
            interrupted.arm(f"{name}, seed {seed} ends early, with what it has learned; again: the comparison ends")

        report = comparing.run(comparison, selected, seeds, Results(out), on_start, interrupted)
    if as_json:
        click.echo(json.dumps(report, indent=1))
    else:
        Console().print(tables.comparison(report))
