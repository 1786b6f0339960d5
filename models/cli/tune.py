"""The verb `tune`; torch, Optuna and matplotlib are imported only when it is called."""

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
from models.cli.interruption import interruptible
from models.cli.options import FOLDER
from models.cli.source_options import source_options
from models.cli.train import (
    holdout_option,
    no_content_option,
    set_waiting_threads_to_sleep,
    setting_options,
    time_bar,
    training_settings,
)
from models.data import dataset, item_content
from models.lab.tuning import search_space

if TYPE_CHECKING:
    from models.lab.tuning.study import Trial
    from models.lab.tuning.tune import TuningProgress

_MINUTES = click.FloatRange(min=0.0, min_open=True)
_INTERRUPTED = "interrupted: the tuning ends with the trials so far"
_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@config_option
@source_options
@click.option("--out", required=True, type=FOLDER, help="Folder of the tuning; if it holds one, that is resumed.")
@click.option("--minutes", required=True, type=_MINUTES, help="Time budget of this call.")
@click.option("--trial-minutes", type=_MINUTES, default=5.0, show_default=True, help="Time limit of one trial.")
@click.option("--space", type=_FILE, help="TOML file of a search space in place of the default one.")
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
    **options: Any,
) -> None:
    """Search for better training settings within a time budget; the same command resumes the search.

    Ctrl-C stops in order, with the trials so far.
    """
    settings = loader.load(config)
    base = training_settings(settings, {"minutes": trial_minutes, **options})
    items = {} if no_content else item_content.read(source.address, settings.items)
    searched_space = search_space.read(space, with_content=bool(items))
    tuning, report, plot = _tuning_modules()
    plan = tuning.StudyPlan(base, searched_space, minutes)
    interactions = dataset.read(source, settings.clicks)
    with time_bar(Console(stderr=True)) as progress, interruptible(progress.console.print, _INTERRUPTED) as interrupted:
        task = progress.add_task("tuning", total=60.0 * minutes, left_s=60.0 * minutes)

        def on_step(now: "TuningProgress") -> None:
            leader = f"best {now.best.outcome.ndcg:.4f} (trial {now.best.number})  " if now.best else ""
            score = f"{now.training.best_ndcg:.4f}" if now.training.best_ndcg else "no validation yet"
            left_s, text = max(now.left_s, 0.0), f"{leader}trial {now.number}: {score}"
            progress.update(task, completed=60.0 * minutes - left_s, left_s=left_s, description=text)
            if interrupted():
                raise tuning.StopTuning

        def on_trial_end(trials: "list[Trial]") -> None:
            progress.console.print(report.line(trials[-1]), highlight=False)
            report.write(trials, plan, out)

        trials = tuning.tune(interactions, plan, out, tuning.TuningCallbacks(on_step, on_trial_end), items=items)
    plot.plot(trials, searched_space.searched, out / report.PLOT_NAME)
    if as_json:
        click.echo(json.dumps(report.summary(trials, plan, out), indent=1))
    else:
        Console().print(report.table(trials))
        click.echo(f"{out / report.SETTINGS_NAME}: for `headrace train --settings`")


def _tuning_modules() -> tuple[ModuleType, ModuleType, ModuleType]:
    """The modules `tune`, `tuning_report` and `plot` of `models.lab.tuning`, which need torch, Optuna and matplotlib.

    Raises:
        MissingExtraError: the extra is not installed.
    """
    set_waiting_threads_to_sleep()
    try:
        from models.lab.tuning import plot, tuning_report  # noqa: PLC0415
        from models.lab.tuning import tune as tuning  # noqa: PLC0415 - the other verbs work without them
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"headrace tune needs {error.name}, which is not installed: pip install 'headrace[tune]'"
        ) from error
    return tuning, tuning_report, plot
