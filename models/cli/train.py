"""The verb `train`, and what it shares with `tune`. Both need torch, which is imported when they are called."""

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import FrameType, ModuleType
from typing import TYPE_CHECKING, Any, get_args

import click
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskProgressColumn, TextColumn
from rich.text import Text

from engine.cli.options import config_option
from engine.errors import MissingExtraError, SettingsError
from engine.interactions.layout import Source
from engine.settings import loader
from engine.settings.sections import Settings
from models.cli.options import FOLDER
from models.cli.source_options import source_options
from models.data import item_content
from models.lab.tuning import search_space
from models.settings import (
    ActionValues,
    DeviceName,
    EncoderSettings,
    HoldoutName,
    InterestChoice,
    LearningRateDecay,
    MatmulPrecision,
    Scoring,
    TrainSettings,
    refusal,
)

if TYPE_CHECKING:
    from models.training.trainer import TrainingProgress

_Verb = Callable[..., None]
_FILE = click.Path(path_type=Path, dir_okay=False)
_OPTIONS: dict[str, Any] = {
    "dimensions": int,
    "interests": int,
    "heads": int,
    "scoring": click.Choice(get_args(Scoring)),
    "window_length": int,
    "dropout": float,
    "seconds": bool,
    "moment": bool,
    "id_dropout": float,
    "minutes": float,
    "epochs": int,
    "seed": int,
    "batch_sequences": int,
    "learning_rate": float,
    "learning_rate_decay": click.Choice(get_args(LearningRateDecay)),
    "warmup_steps": int,
    "matmul_precision": click.Choice(get_args(MatmulPrecision)),
    "weight_averaging": float,
    "interest_choice": click.Choice(get_args(InterestChoice)),
    "interest_agreement": float,
    "skip_share": float,
    "skip_most": int,
    "action_values": click.Choice(get_args(ActionValues)),
    "full_softmax_up_to": int,
    "negatives": int,
    "patience": int,
    "round_steps": int,
    "validation_users": int,
    "holdout_items": float,
    "private_epsilon": float,
    "private_delta": float,
    "private_clip": float,
    "device": click.Choice(get_args(DeviceName)),
    "checkpoint_s": float,
}
_UNSET = {"epochs": "no limit", "private_epsilon": "not private", "private_delta": "1 / users^1.1"}
"""What it means not to choose, where there is no number for it."""


def setting_options(*names: str) -> Callable[[_Verb], _Verb]:
    """Options for training settings; what is not given keeps its default there."""
    fields = EncoderSettings.model_fields | TrainSettings.model_fields

    def with_options(verb: _Verb) -> _Verb:
        for name in reversed(names):
            text = f"Default: {_UNSET.get(name, fields[name].default)}."
            verb = click.option(f"--{name.replace('_', '-')}", type=_OPTIONS[name], help=text)(verb)
        return verb

    return with_options


holdout_option = click.option(
    "--holdout",
    type=click.Choice(get_args(HoldoutName)),
    default="both",
    show_default=True,
    help="What training leaves out to be asked by `evaluate`: each user's last event, the last tenth of time, or both.",
)
no_content_option = click.option(
    "--no-content", is_flag=True, help="Learn from clicks alone, though an items file lies beside them."
)


@click.command()
@config_option
@source_options
@click.option("--out", required=True, type=FOLDER, help="Folder that the release bundle is written to.")
@click.option("--version", help="Version of the release. Default: the time, to the second.")
@click.option(
    "--run",
    "run_folder",
    type=FOLDER,
    help="Folder of checkpoints and progress; a training that was cut off there goes on. Default: OUT/.runs/RELEASE.",
)
@click.option(
    "--settings",
    "settings_file",
    type=_FILE,
    help="TOML file of training settings, one value each; the options below win over it.",
)
@holdout_option
@no_content_option
@setting_options(*_OPTIONS)
def train(config: Path | None, source: Source, *, no_content: bool, **chosen: Any) -> None:
    """Train the two-hop encoder on recorded clicks, and on what an items file says, and write a release bundle.

    Ctrl-C ends training in order: the best weights so far become the release.
    """
    settings = loader.load(config)
    out, version, run_folder, file = (chosen.pop(name) for name in ("out", "version", "run_folder", "settings_file"))
    plan = training_settings(settings, chosen, file)
    trainer, training_job = _training_side()
    lessons = training_job.TrainingInput(
        source, {} if no_content else item_content.read(source.address, settings.items)
    )
    with bar(Console(stderr=True)) as progress, interruptible() as interrupted:
        task = progress.add_task("training", total=1.0, visible=False, left_s=0.0)

        def watch(now: "TrainingProgress") -> None:
            done, left_s = trainer.outlook(now, plan)
            text = f"epoch {now.epoch + 1}  loss {now.loss:.3f}"
            if not plan.private_epsilon:
                text += f"  validation NDCG {now.ndcg:.4f}"
            progress.update(task, completed=done, left_s=left_s, description=text, visible=True)
            if interrupted():
                progress.console.print("interrupted: the best weights so far become the release, a moment, please")
                raise trainer.StopTraining

        reports = training_job.Callbacks(say=progress.console.print, watch=watch)
        goal = training_job.RunTarget(settings.releases.model, version, out, run_folder)
        bundle = training_job.run(lessons, plan, goal, time.time_ns() // 1_000_000, reports)
    if bundle:
        click.echo(bundle)


def training_settings(settings: Settings, chosen: Mapping[str, Any], file: Path | None = None) -> TrainSettings:
    """The training settings with what stands in a file, and over it what was chosen on the command line.

    Raises:
        SettingsError: the file cannot be read, or a choice is unknown or out of range.
    """
    before = search_space.read_settings(file) if file else {}
    given = {name: value for name, value in chosen.items() if value is not None}
    try:
        return TrainSettings.model_validate({"clicks": settings.clicks} | search_space.nested({**before, **given}))
    except ValidationError as error:
        raise SettingsError(refusal(error)) from error


def _training_side() -> tuple[ModuleType, ModuleType]:
    """What needs torch: the modules `models.training.trainer` and `models.jobs.training_job`.

    Raises:
        MissingExtraError: the extra is not installed.
    """
    waiting_threads_sleep()
    try:
        from models.jobs import training_job  # noqa: PLC0415
        from models.training import trainer  # noqa: PLC0415 - the other verbs work without torch
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"headrace train needs {error.name}, which is not installed: pip install 'headrace[train]'"
        ) from error
    return trainer, training_job


def waiting_threads_sleep() -> None:
    """Spinning threads are slow beyond measure where they share cores; torch reads this when it loads."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """What it gives says whether Ctrl-C was pressed; pressed once more, it ends the program as usual."""
    pressed = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        del number, frame
        pressed = True
        signal.signal(signal.SIGINT, usual)

    usual = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, usual)


class _Left(ProgressColumn):
    """The time that it takes at most: a training may stop earlier, when it gets no better."""

    def render(self, task: Task) -> Text:
        """The text of the column."""
        return Text(f"{timedelta(seconds=round(task.fields['left_s']))} at most", style="progress.remaining")


@contextmanager
def bar(console: Console) -> Iterator[Progress]:
    """A bar for tasks with a field `left_s`."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), _Left())
    with Progress(*columns, console=console) as progress:
        yield progress
