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
from models.cli.options import FOLDER, min_item_events_option
from models.cli.source_options import source_options
from models.cli.train import waiting_threads_sleep
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
    help="What is asked: each user's last event, or the last tenth of time.",
)
@click.option("--seeds", default="1,2,3", show_default=True, callback=_seeds, help="Each trains its own models.")
@click.option("--minutes", type=click.FloatRange(0.0, min_open=True), default=5.0, show_default=True, help="For each.")
@click.option(
    "--clock",
    type=click.Choice(get_args(comparing.ClockName)),
    default="wall",
    show_default=True,
    help="What the minutes are: by the clock, or of computing (on a machine that is shared).",
)
@min_item_events_option
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="For each; 1 is repeatable.")
@click.option("--only", multiple=True, metavar="NAME", help="Only this system or variant; may be given again.")
@click.option("--variants", "variants_file", type=click.Path(path_type=Path), help="TOML: training settings by name.")
@click.option("--out", type=FOLDER, help="Folder for results.jsonl; started again, a comparison goes on from there.")
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
    """Train and ask what others would use, and ours, in one run: same events, same time, same questions."""
    settings = loader.load(config)
    clicks = dataset.read(source, settings.clicks).without_searches()  # the others know none, so nobody gets any
    recording = EvalData(clicks, settings)
    items = item_content.read(source.address, settings.items)
    chosen = variants.read(variants_file) if variants_file else {}
    ours = systems.two_hops(recording, terms["split"], chosen, items)
    entered = systems.named([*systems.baselines(), *ours], only)
    comparison = comparing.Comparison(recording, comparing.ComparisonTerms(**terms))
    waiting_threads_sleep()
    with Console(stderr=True).status("") as status:

        def watch(name: str, seed: int) -> None:
            status.update(f"{name}, seed {seed}: up to {terms['minutes']:g} minutes and its questions")

        report = comparing.run(comparison, entered, seeds, Results(out), watch)
    if as_json:
        click.echo(json.dumps(report, indent=1))
    else:
        Console().print(tables.comparison(report))
