"""The verb `tune`; what needs torch, Optuna and matplotlib is imported when it is called."""

import json
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from engine.cli.options import config_option
from engine.errors import MissingExtraError
from engine.interactions.layout import Source
from engine.settings import loader
from models.cli.options import FOLDER
from models.cli.source_options import source_options
from models.cli.train import (
    bar,
    holdout_option,
    interruptible,
    no_content_option,
    setting_options,
    training_settings,
    waiting_threads_sleep,
)
from models.data import dataset, item_content
from models.lab.tuning import search_space

if TYPE_CHECKING:
    from models.lab.tuning.study import Trial
    from models.lab.tuning.tune import Outlook

_MINUTES = click.FloatRange(min=0.0, min_open=True)
_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@config_option
@source_options
@click.option("--out", required=True, type=FOLDER, help="Folder of the tuning; one that is there already goes on.")
@click.option("--minutes", required=True, type=_MINUTES, help="Time budget of this call.")
@click.option("--trial-minutes", type=_MINUTES, default=5.0, show_default=True, help="Time of one trial at most.")
@click.option("--space", type=_FILE, help="TOML file of what to search instead of the defaults.")
@holdout_option
@no_content_option
@setting_options("holdout_items", "seed", "device")
@click.option("--json", "as_json", is_flag=True, help="Print one object instead of a table.")
def tune(  # noqa: PLR0913 - one for each option
    config: Path | None,
    source: Source,
    out: Path,
    space: Path | None,
    *,
    minutes: float,
    trial_minutes: float,
    no_content: bool,
    as_json: bool,
    **chosen: Any,
) -> None:
    """Look for better training settings within a time budget; the same command again goes on.

    Ctrl-C ends in order, with what was found so far.
    """
    settings = loader.load(config)
    base = training_settings(settings, {"minutes": trial_minutes, **chosen})
    items = {} if no_content else item_content.read(source.address, settings.items)
    searched = search_space.read(space, with_content=bool(items))
    tuning, report, picture = _tuning_side()
    plan = tuning.StudyPlan(base, searched, minutes)
    interactions = dataset.read(source, settings.clicks)
    with bar(Console(stderr=True)) as progress, interruptible() as interrupted:
        task = progress.add_task("tuning", total=60.0 * minutes, left_s=60.0 * minutes)

        def watch(now: "Outlook") -> None:
            leader = f"best {now.best.outcome.ndcg:.4f} (trial {now.best.number})  " if now.best else ""
            score = f"{now.training.best_ndcg:.4f}" if now.training.best_ndcg else "no validation yet"
            left_s, text = max(now.left_s, 0.0), f"{leader}trial {now.number}: {score}"
            progress.update(task, completed=60.0 * minutes - left_s, left_s=left_s, description=text)
            if interrupted():
                raise tuning.EndTuning

        def ended(trials: "list[Trial]") -> None:
            progress.console.print(report.line(trials[-1]), highlight=False)
            report.write(trials, plan, out)

        trials = tuning.tune(interactions, plan, out, tuning.TuningCallbacks(watch, ended), items=items)
    picture.plot(trials, searched.searched, out / report.PLOT_NAME)
    if as_json:
        click.echo(json.dumps(report.summary(trials, plan, out), indent=1))
    else:
        Console().print(report.table(trials))
        click.echo(f"{out / report.SETTINGS_NAME}: for `headrace train --settings`")


def _tuning_side() -> tuple[ModuleType, ModuleType, ModuleType]:
    """What needs torch, Optuna and matplotlib: `tune`, `tuning_report` and `plot` of `models.lab.tuning`.

    Raises:
        MissingExtraError: the extra is not installed.
    """
    waiting_threads_sleep()
    try:
        from models.lab.tuning import plot as tuning_plot  # noqa: PLC0415
        from models.lab.tuning import tune as tuning  # noqa: PLC0415 - the other verbs work without them
        from models.lab.tuning import tuning_report  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"headrace tune needs {error.name}, which is not installed: pip install 'headrace[tune]'"
        ) from error
    return tuning, tuning_report, tuning_plot
