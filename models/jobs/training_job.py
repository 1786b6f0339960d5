"""`headrace train` from end to end: training data, training and release bundle, all in one run folder.

Under torchrun every process runs this; rank 0 reads the data, writes and reports, the others wait for it.
"""

import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from engine.catalogue.content import Item
from engine.errors import ReleaseError
from engine.interactions.layout import Source
from engine.releases.bundles import Provenance
from models.data import action_names, histories, item_content
from models.data.numbering import NumberedInteractions
from models.publishing import export
from models.settings import TrainSettings
from models.training import devices, distributed, private, training_data
from models.training.checkpoints import RunFolder
from models.training.fit import TrainingResult, train
from models.training.score_parts import ScoreParts
from models.training.trainer import TrainingProgress
from models.training.training_data import TrainingData
from models.training.warm_start import WarmVectors

_DEFAULT_VERSION: Final = re.compile(r"\d{14}")
"""The time, to the second: the content hash is added to it."""
RUNS = ".runs"
"""Folder of run folders next to the releases, each under its release's name."""


@dataclass(frozen=True, slots=True)
class TrainingInput:
    """Recorded clicks, and content of their items."""

    source: Source
    items: Mapping[str, Item]
    """Content by item id; empty to train on clicks alone."""
    warm: WarmVectors | None = None
    """Item vectors to begin with; None begins from random ones."""


@dataclass(frozen=True, slots=True)
class RunTarget:
    """Name and folder of the release, and the run folder."""

    model: str
    version: str | None
    """None takes the version recorded in the run folder, or else the time, to the second, and the content hash."""
    releases: Path
    run: Path | None
    """The run folder; None takes one next to the releases."""
    provenance: Provenance = field(default_factory=Provenance)
    """What is known of the release's origin beside its data and code, such as its parent."""


@dataclass(frozen=True, slots=True)
class Callbacks:
    """Reports from a training."""

    on_message: Callable[[str], None]
    """Called with a line for the user."""
    on_step: Callable[[TrainingProgress], None]
    """Called after every step; may raise `models.training.trainer.StopTraining`."""


def run(
    training_input: TrainingInput, settings: TrainSettings, target: RunTarget, created_ms: int, callbacks: Callbacks
) -> Path | None:
    """Start the training of the run folder, or resume it, and write the release; returns the bundle's folder.

    Under torchrun all ranks but 0 return None.

    Raises:
        ReleaseError: that bundle exists already.
        RunFolderError: the run folder holds another training, one that has ended, or one that is running.
        DataError: the data cannot be read, or is unfit to train on.
        SettingsError: there is no such device, or a private training cannot keep its promise with a setting.
        MissingExtraError: a private training needs an extra that is not installed.
    """
    with distributed.process_group(devices.choose(settings.device)) as group:
        private.refuse_unfit(settings, group.size)
        now = default_version(created_ms)
        default_run = target.releases / RUNS / f"{target.model}-{target.version or now}"
        folder = RunFolder(group.broadcast(target.run or default_run))
        if not group.is_rank_zero:
            data = group.rank_zero_first(lambda: training_data.load(folder.training_data))
            train(data, settings, items=training_input.items, checkpointer=folder, warm=training_input.warm)
            return None
        opened = NumberedInteractions(training_input.source, settings.clicks)
        with folder.locked():
            version = folder.begin(settings, group.size, target.version, now)
            bundle = target.releases / f"{target.model}-{version}"
            if bundle.exists():
                raise ReleaseError(f"release {bundle} exists already; releases are immutable, choose another --version")
            data = group.rank_zero_first(
                lambda: _training_data(training_input, opened, settings, folder, callbacks.on_message)
            )
            items, warm = training_input.items, training_input.warm
            trained = train(data, settings, callbacks.on_step, items=items, checkpointer=folder, warm=warm)
            for message in (*map(str, trained.choices), *outcome(trained, settings)):
                callbacks.on_message(message)
            bundle = export.write(
                trained,
                settings,
                (target.model, version),
                created_ms,
                target.releases,
                msgspec.structs.replace(target.provenance, data=opened.address),
                named_by_content=_DEFAULT_VERSION.fullmatch(version) is not None,
            )
            folder.finish(bundle)
        return bundle


def default_version(created_ms: int) -> str:
    """The version of a release that is given none: the time, to the second."""
    return f"{datetime.fromtimestamp(created_ms / 1000, UTC):%Y%m%d%H%M%S}"


def outcome(trained: TrainingResult, settings: TrainSettings) -> list[str]:
    """Sentences for the user on how the training ended, and what would make the release better."""
    if trained.privacy:
        return []
    validations = [progress.ndcg for progress in trained.validations]
    best, newest = max(validations), validations[-1]
    ended = {
        "patience": f"converged: no better validation in {settings.patience} in a row",
        "minutes": f"stopped by its limit of {settings.minutes:g} minutes (--minutes)",
        "epochs": f"stopped after its {settings.epochs} epochs (--epochs)",
        "interrupted": "stopped when it was interrupted",
    }[trained.stop_reason]
    messages = [f"{ended}, best validation NDCG {best:.4f}"]
    if trained.stop_reason in {"minutes", "interrupted"} and validations.index(best) >= len(validations) - 2:
        messages.append("the validation was still rising: a longer training would make a better release")
    if settings.learning_rate_decay == "cosine" and trained.step < trained.validations[-1].step:
        messages.append(
            f"the weights at the end of the falling rate validate {newest:.4f}, worse than those of step {trained.step}"
            " beyond chance: the release has the latter; give fewer --epochs, or more --dropout"
        )
    if trained.score_parts:
        messages.append(_score_parts(trained.score_parts, settings))
    return messages


def _score_parts(parts: ScoreParts, settings: TrainSettings) -> str:
    """Sentence on the parts of the score other than the encoder's."""
    tried = {
        "neighbours of the newest items": (settings.neighbours, parts.neighbours),
        "popularity of the moment": (settings.popularity, parts.popularity),
    }
    used = [name for name, (allowed, part) in tried.items() if allowed and part]
    useless = [name for name, (allowed, part) in tried.items() if allowed and not part]
    sentences = [f"with {' and '.join(used)} {parts.ndcg:.4f}, without {parts.encoder_ndcg:.4f}"] if used else []
    if useless:
        sentences.append(f"{' and '.join(useless)} made the validation no better: the release does without")
    return "; ".join(sentences)


def _training_data(
    training_input: TrainingInput,
    opened: NumberedInteractions,
    settings: TrainSettings,
    folder: RunFolder,
    on_message: Callable[[str], None],
) -> TrainingData:
    """The run folder's training data, prepared again only if the archive's files or layout have changed."""
    with_searches = bool(training_input.items)
    stamp = [opened.stamp(), with_searches]
    if not training_data.is_saved_for(folder.training_data, stamp):
        on_message(f"reading {opened.address}")
        scratch = folder.folder / "histories"
        try:
            recorded = histories.sort(opened, scratch)
            actions = (recorded.actions[events] for _, events in recorded.parts())
            action_names.warn_of_unnamed(recorded.action_names, actions, settings.clicks)
            prepared = training_data.prepare(recorded, settings, folder.training_data, searches=with_searches)
            training_data.save(prepared, folder.training_data, stamp)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    data = training_data.load(folder.training_data)
    content_fingerprint = item_content.fingerprint(training_input.items) if training_input.items else None
    folder.record_data(opened.address, stamp, {"data": data.fingerprint, "content": content_fingerprint})
    on_rerun = "starts over" if settings.private_epsilon else "is resumed"
    on_message(f"run folder {folder.folder}: an interrupted training {on_rerun} with --run and the same options")
    return data
