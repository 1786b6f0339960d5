"""The verb `train`, and the options that it shares with `tune`. Both import torch only when they are called."""

import importlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, get_args

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
from models.cli.interruption import interruptible
from models.cli.options import FOLDER, LogLines
from models.cli.source_options import source_options
from models.data import item_content
from models.lab.tuning import search_space
from models.settings import (
    ActionValueMode,
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
    "query_context": bool,
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
    "skip_max": int,
    "action_values": click.Choice(get_args(ActionValueMode)),
    "full_softmax_up_to": int,
    "negatives": int,
    "patience": int,
    "validation_interval_steps": int,
    "validation_users": int,
    "holdout_items": float,
    "spectral_start": bool,
    "neighbours": bool,
    "popularity": bool,
    "private_epsilon": float,
    "private_delta": float,
    "private_clip": float,
    "device": click.Choice(get_args(DeviceName)),
    "checkpoint_s": float,
}
_INTERRUPTED = "interrupted: the best weights so far become the release, please wait"
_LEFT_OUT: Final = {
    "last": "each user's last event",
    "time": "the last tenth of time",
    "both": "each user's last event and the last tenth of time",
}
"""By holdout, the events that the training left out."""
_UNSET = {
    "epochs": "no limit",
    "private_epsilon": "not private",
    "private_delta": "1 / users^1.1",
    "item_rate": "by the data",
}
"""Defaults that are no number, in words."""


def setting_options(*names: str) -> Callable[[_Verb], _Verb]:
    """Options for training settings, with their defaults in the help."""
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
    help="Events left out of training for `evaluate`: each user's last event, the last tenth of time, or both.",
)
no_content_option = click.option(
    "--no-content", is_flag=True, help="Train on clicks alone, even if there is an items file with them."
)


@click.command()
@config_option
@source_options
@click.option("--out", required=True, type=FOLDER, help="Folder that the release bundle is written to.")
@click.option("--version", help="Version of the release. Default: the time, and a hash of the content.")
@click.option(
    "--run",
    "run_folder",
    type=FOLDER,
    help="Folder of checkpoints and progress; an interrupted training is resumed. Default: OUT/.runs/RELEASE.",
)
@click.option(
    "--settings",
    "settings_file",
    type=_FILE,
    help="TOML file of training settings, one value each; the options below take precedence.",
)
@holdout_option
@no_content_option
@setting_options(*_OPTIONS)
def train(config: Path | None, source: Source, *, no_content: bool, **options: Any) -> None:
    """Train the two-hop encoder on recorded clicks and on item content, and write a release bundle.

    Ctrl-C stops training in order: the best weights so far become the release.
    """
    settings = loader.load(config)
    out, version, run_folder, file = (options.pop(name) for name in ("out", "version", "run_folder", "settings_file"))
    plan = training_settings(settings, options, file)
    trainer, training_job = _training_modules()
    training_input = training_job.TrainingInput(
        source, {} if no_content else item_content.read(source.address, settings.items)
    )
    with time_bar(Console(stderr=True)) as progress, interruptible(progress.console.print, _INTERRUPTED) as interrupted:
        task = progress.add_task("training", total=1.0, visible=False, left_s=0.0)
        lines = LogLines(progress.console)

        def on_step(now: "TrainingProgress") -> None:
            share, left_s = trainer.estimate_remaining(now, plan)
            text = f"epoch {now.epoch + 1}  loss {now.loss:.3f}"
            if not plan.private_epsilon:
                text += f"  validation NDCG {now.ndcg:.4f}"
            progress.update(task, completed=share, left_s=left_s, description=text, visible=True)
            lines.report(f"{text}  {share:.0%} done, {left_s:.0f} s left at most")
            if interrupted():
                raise trainer.StopTraining

        callbacks = training_job.Callbacks(on_message=progress.console.print, on_step=on_step)
        target = training_job.RunTarget(settings.releases.model, version, out, run_folder)
        bundle = training_job.run(training_input, plan, target, time.time_ns() // 1_000_000, callbacks)
        if bundle and plan.holdout in _LEFT_OUT:
            progress.console.print(
                f"left out, for `headrace evaluate`: {_LEFT_OUT[plan.holdout]}; a release that is to serve learns from"
                " these too with --holdout none"
            )
    if bundle:
        click.echo(bundle)


def training_settings(settings: Settings, options: Mapping[str, Any], file: Path | None = None) -> TrainSettings:
    """The training settings of a file and of the options that were given, which take precedence.

    Raises:
        SettingsError: the file cannot be read, or a setting is unknown or out of range.
    """
    from_file = search_space.read_settings(file) if file else {}
    given = {name: value for name, value in options.items() if value is not None}
    try:
        return TrainSettings.model_validate({"clicks": settings.clicks} | search_space.nested({**from_file, **given}))
    except ValidationError as error:
        raise SettingsError(refusal(error)) from error


def _training_modules() -> tuple[ModuleType, ModuleType]:
    """The modules `models.training.trainer` and `models.jobs.training_job`, which need torch.

    Raises:
        MissingExtraError: the extra is not installed.
    """
    set_waiting_threads_to_sleep()
    try:
        from models.jobs import training_job  # noqa: PLC0415
        from models.training import trainer  # noqa: PLC0415 - the other verbs work without torch
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"headrace train needs {error.name}, which is not installed: pip install 'headrace[train]'"
        ) from error
    return trainer, training_job


def set_waiting_threads_to_sleep() -> None:
    """Make OpenMP threads sleep while they wait; call it before torch loads, which reads the setting.

    Spinning threads slow training down many times over where they share cores with other programs.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def module_with_torch(name: str, verb: str, threads: int) -> ModuleType:
    """A module that needs torch, which is held to so many threads.

    Raises:
        MissingExtraError: the extra of the verb is not installed.
    """
    set_waiting_threads_to_sleep()
    try:
        import torch  # noqa: PLC0415 - the other verbs work without torch

        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"headrace {verb} needs {error.name}, which is not installed: pip install 'headrace[train]'"
        ) from error
    torch.set_num_threads(threads)
    return module


class _TimeLeftColumn(ProgressColumn):
    """The longest time left: a training may stop earlier, when validations no longer improve."""

    def render(self, task: Task) -> Text:
        """The column's text."""
        return Text(f"{timedelta(seconds=round(task.fields['left_s']))} at most", style="progress.remaining")


@contextmanager
def time_bar(console: Console) -> Iterator[Progress]:
    """A progress bar for tasks with a field `left_s`."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), _TimeLeftColumn())
    with Progress(*columns, console=console) as progress:
        yield progress
