"""`headrace train` from beginning to end: data to material, training, and the bundle, all in one run folder.

Under torchrun every process goes through here; the first reads the data, writes and reports, the others wait for it.
"""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from engine.catalogue.content import Item
from engine.errors import ReleaseError
from engine.interactions.layout import Source
from models.data import action_names, histories, item_content
from models.data.numbering import NumberedInteractions
from models.publishing import export
from models.settings import TrainSettings
from models.training import devices, distributed, private, training_data
from models.training.checkpoints import RunFolder
from models.training.fit import train
from models.training.trainer import TrainingProgress
from models.training.training_data import TrainingData

RUNS = ".runs"
"""Beside the releases: here lie their run folders, each under its release's name."""


@dataclass(frozen=True, slots=True)
class TrainingInput:
    """What is learned from."""

    source: Source
    items: Mapping[str, Item]
    """What is known of each by its id; empty where training is to go by clicks alone."""


@dataclass(frozen=True, slots=True)
class RunTarget:
    """What is to come out, and where it is worked on."""

    model: str
    version: str | None
    """None takes the one that the run folder's training was begun with, or else the time, to the second."""
    releases: Path
    run: Path | None
    """The run folder; None takes one beside the releases."""


@dataclass(frozen=True, slots=True)
class Callbacks:
    """What a training tells whoever started it."""

    say: Callable[[str], None]
    """A sentence now and then."""
    watch: Callable[[TrainingProgress], None]
    """Told after every step; may raise `models.training.trainer.StopTraining`."""


def run(
    lessons: TrainingInput, settings: TrainSettings, goal: RunTarget, created_ms: int, reports: Callbacks
) -> Path | None:
    """Train on `lessons`, or go on where the run folder's training was cut off; returns the new bundle's folder.

    All processes but the first return None.

    Raises:
        ReleaseError: that bundle is there already.
        RunFolderError: the run folder holds another training, one that has ended, or one that is under way.
        DataError: the data cannot be read, or is unfit to learn from.
        SettingsError: there is no such device, or a setting that a private training cannot keep its promise with.
        MissingExtraError: a private training needs an extra that is not installed.
    """
    with distributed.joined(devices.choose(settings.device)) as group:
        private.refuse_unfit(settings, group.size)
        now = f"{datetime.fromtimestamp(created_ms / 1000, UTC):%Y%m%d%H%M%S}"
        folder = RunFolder(group.broadcast(goal.run or goal.releases / RUNS / f"{goal.model}-{goal.version or now}"))
        if not group.first:
            train(
                group.rank_zero_first(lambda: training_data.load(folder.material)),
                settings,
                items=lessons.items,
                keeper=folder,
            )
            return None
        opened = NumberedInteractions(lessons.source, settings.clicks)
        with folder.locked():
            version = folder.begin(settings, group.size, goal.version, now)
            bundle = goal.releases / f"{goal.model}-{version}"
            if bundle.exists():
                raise ReleaseError(f"release {bundle} exists already; releases are immutable, choose another --version")
            learned = group.rank_zero_first(lambda: _material(lessons, opened, settings, folder, reports.say))
            trained = train(learned, settings, reports.watch, items=lessons.items, keeper=folder)
            export.write(trained, settings, (goal.model, version), created_ms, goal.releases)
            folder.end(bundle)
        return bundle


def _material(
    lessons: TrainingInput,
    opened: NumberedInteractions,
    settings: TrainSettings,
    folder: RunFolder,
    say: Callable[[str], None],
) -> TrainingData:
    """Training data made of this archive before, if neither its files nor its layout changed; or else it is read."""
    searches = bool(lessons.items)
    stamp, scratch = [opened.stamp(), searches], folder.folder / "histories"
    if not training_data.saved_for(folder.material, stamp):
        say(f"reading {opened.address}")
        try:
            found = histories.sort(opened, scratch)
            every_action = (found.actions[events] for _, events in found.parts())
            action_names.warn_of_unnamed(found.action_names, every_action, settings.clicks)
            made = training_data.prepare(found, settings, folder.material, searches=searches)
            training_data.save(made, folder.material, stamp)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    learned = training_data.load(folder.material)
    of_items = item_content.fingerprint(lessons.items) if lessons.items else None
    folder.add_data(opened.address, stamp, {"data": learned.fingerprint, "content": of_items})
    goes_on = "begins anew" if settings.private_epsilon else "goes on"
    say(f"run folder {folder.folder}: a training that was cut off {goes_on} with --run and the same options")
    return learned
