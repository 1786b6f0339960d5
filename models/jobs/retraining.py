"""One retraining: from clicks to a release that went live, or to a report that says why it did not.

    RELEASES/.retrain/MODEL.json      the attempt under way: version, slice of clicks; removed at its end
    RELEASES/.runs/MODEL-VERSION/     its training (`models.jobs.training_job`), then
        gate.json                     the decision, with the evaluation that it is made from
        gate.html                     the same as a page, where the extra is installed

Each step leaves its result before the next begins, and is skipped where that is there: an attempt that was killed is
gone on with, from the training's last checkpoint, and a release is announced once.
"""

import json
import logging
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from engine.catalogue.content import Item
from engine.errors import ReleaseError, RunFolderError
from engine.interactions.interaction_reader import InteractionReader
from engine.interactions.layout import Source
from engine.messages.announcement import Announcement
from engine.releases import bundles
from engine.releases.bundles import Bundle, Provenance
from engine.settings.sections import Settings
from models.data import dataset
from models.evaluation.candidate_trial import evaluate_candidate
from models.evaluation.list_evaluation import OnProgress
from models.jobs import gate_page, refused_bundles, release_gate, retrainer_signature, training_job
from models.jobs.live_release import Stage, fetched
from models.jobs.release_gate import GateDecision
from models.jobs.training_job import Callbacks, RunTarget, TrainingInput
from models.settings import TrainSettings
from models.training.warm_start import WarmVectors

logger = logging.getLogger(__name__)

_DAY_MS: Final = 86_400_000
_FOLDER: Final = ".retrain"


@dataclass(frozen=True, slots=True)
class RetrainInput:
    """Everything that a retraining depends on."""

    source: Source
    items: Mapping[str, Item]
    """Content by item id; empty to train on clicks alone."""
    settings: Settings
    training: TrainSettings
    stage: Stage
    force: bool = False
    """Publish in spite of the gate."""


@dataclass(frozen=True, slots=True)
class Reports:
    """Callbacks of a retraining."""

    training: Callbacks
    on_progress: OnProgress
    """Of the evaluation."""
    may_publish: Callable[[], bool] = lambda: True
    """Asked before the announcement: whether this is still the one retrainer of its model."""


class Attempt(msgspec.Struct, frozen=True):
    """A retraining under way."""

    version: str
    address: str
    since_ms: int
    ends: tuple[tuple[int, int], ...] | None
    """Of an archive: the clicks that came later are the next attempt's."""


class RetrainOutcome(msgspec.Struct, frozen=True):
    """The end of a retraining."""

    release: str
    outcome: Literal["published", "forced", "refused", "superseded"]
    reasons: list[str]
    """Why it was refused, or would have been."""
    report: str
    """Path of gate.json."""


def retrain(inputs: RetrainInput, reports: Reports, now_ms: int) -> RetrainOutcome:
    """Go on with the attempt that was interrupted, or make a new one.

    Raises:
        DataError: the clicks cannot be read, or are too few to train on or to evaluate.
        ReleaseError: the live release cannot be fetched, or no worker could serve by the new one.
        EventLogError: the topic of releases cannot be read or written.
        RunFolderError: another training is using the run folder.
        SettingsError: no worker would serve by what `retrain.signing_key` signs.
    """
    retrainer_signature.check(inputs.settings)
    releases, model = inputs.settings.retrain.releases, inputs.settings.releases.model
    record = releases / _FOLDER / f"{model}.json"
    attempt, is_resumed = _interrupted(record, inputs.source.address), True
    if attempt is None:
        attempt, is_resumed = _begin(inputs, record, now_ms), False
    try:
        outcome = _carry_out(attempt, inputs, reports, now_ms)
    except RunFolderError as error:
        if not is_resumed or "in use" in str(error):
            raise
        reports.training.on_message(f"the interrupted retraining cannot be gone on with, a new one begins: {error}")
        outcome = _carry_out(_begin(inputs, record, now_ms), inputs, reports, now_ms)
    if outcome.outcome != "superseded":  # the attempt is the other retrainer's then, where they share the folder
        record.unlink(missing_ok=True)
        refused_bundles.prune(releases, inputs.stage.registry(), inputs.settings.retrain.keep_refused)
    return outcome


def _begin(inputs: RetrainInput, record: Path, now_ms: int) -> Attempt:
    """A new attempt, on the newest slice of the clicks."""
    reader = InteractionReader(inputs.source, inputs.settings.clicks)
    since_ms = max(0, reader.newest_ms() - round(inputs.settings.retrain.days * _DAY_MS))
    attempt = Attempt(training_job.default_version(now_ms), inputs.source.address, since_ms, reader.ends())
    record.parent.mkdir(parents=True, exist_ok=True)
    partial = record.with_name(f".{record.name}")
    partial.write_bytes(msgspec.json.encode(attempt))
    partial.replace(record)
    return attempt


def _interrupted(record: Path, address: str) -> Attempt | None:
    """The attempt that was interrupted, if it was on the same clicks."""
    try:
        attempt = msgspec.json.decode(record.read_bytes(), type=Attempt)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
    return attempt if attempt.address == address else None


def _carry_out(attempt: Attempt, inputs: RetrainInput, reports: Reports, now_ms: int) -> RetrainOutcome:
    releases, model = inputs.settings.retrain.releases, inputs.settings.releases.model
    source = replace(inputs.source, since_ms=attempt.since_ms, ends=attempt.ends)
    run = releases / training_job.RUNS / f"{model}-{attempt.version}"
    registry, written = inputs.stage.registry(), bundles.written_as(releases, model, attempt.version)
    is_announced = written is not None and any(written.name == f"{model}-{known}" for known in registry.versions)
    served = next(iter(registry.live()), None)
    with ExitStack() as stack:
        live = _live(served if not is_announced else None, stack, inputs, reports)
        bundle = bundles.read(written or _train(attempt, source, live, inputs, reports, now_ms))
        decision = _decision(run, source, bundle, live, inputs, reports)
    report = run / gate_page.REPORT
    if not is_announced:
        retrainer_signature.withdraw(bundle.folder, inputs.settings)
        bundles.record_gate(bundle.folder, gate_page.summary(json.loads(report.read_text()), forced=inputs.force))
    if not (decision.passed or inputs.force):
        return RetrainOutcome(bundle.manifest.name, "refused", decision.reasons(), str(report))
    if not is_announced:
        if not reports.may_publish():
            return RetrainOutcome(bundle.manifest.name, "superseded", ["another retrainer took over"], str(report))
        retrainer_signature.sign(bundle.folder, inputs.settings)
        inputs.stage.publish(bundle.folder, inputs.settings.retrain.publish_as if served else "live")
    outcome: Literal["published", "forced"] = "published" if decision.passed else "forced"
    return RetrainOutcome(bundle.manifest.name, outcome, decision.reasons(), str(report))


def _live(served: Announcement | None, stack: ExitStack, inputs: RetrainInput, reports: Reports) -> Bundle | None:
    """The live release, with which the new one is compared; None where there is none, or `force` does without it."""
    try:
        return stack.enter_context(fetched(served))
    except ReleaseError as error:
        if served is None or not inputs.force:
            raise ReleaseError(
                f"the live release, with which a new one is compared, cannot be read: {error}; copy it back, let the"
                " workers serve by another (`headrace releases promote`), or publish without the comparison (`headrace"
                " retrain --once --force`)"
            ) from error
        reports.training.on_message(f"no comparison with the live release, which cannot be read: {error}")
        return None


def _train(  # noqa: PLR0913 - all of a training
    attempt: Attempt, source: Source, live: Bundle | None, inputs: RetrainInput, reports: Reports, now_ms: int
) -> Path:
    """Train, and write the bundle; returns its folder."""
    settings, warm, provenance = inputs.settings, None, Provenance(from_ms=attempt.since_ms)
    if live is not None:
        parent = live.manifest
        provenance = Provenance(from_ms=attempt.since_ms, parent=parent.version, parent_content=parent.content_hash)
        if settings.retrain.warm_start:
            warm = WarmVectors(live.ids, live.vectors)
    target = RunTarget(settings.releases.model, attempt.version, settings.retrain.releases, None, provenance)
    written = training_job.run(
        TrainingInput(source, inputs.items, warm), inputs.training, target, now_ms, reports.training
    )
    if written is None:
        raise RuntimeError("a retraining is one process: the others of torchrun have no release")
    return written


def _decision(  # noqa: PLR0913 - all of an evaluation
    run: Path, source: Source, bundle: Bundle, live: Bundle | None, inputs: RetrainInput, reports: Reports
) -> GateDecision:
    """The gate's decision, which is made once, unless another release went live since."""
    path = run / gate_page.REPORT
    if path.exists():
        report = json.loads(path.read_text())
        if live is None or report["live_release"] == live.manifest.name:
            return msgspec.convert(report["gate"], GateDecision)
    reports.training.on_message("evaluating it on the newest clicks, beside the live release and the baselines")
    interactions = dataset.read(source, inputs.settings.clicks)
    evaluation = evaluate_candidate(bundle, live, interactions, inputs.settings, reports.on_progress)
    decision = release_gate.decide(evaluation, inputs.settings.retrain)
    gate_page.write(run, evaluation, decision, bundle, inputs.settings)
    return decision


def figures(outcome: RetrainOutcome) -> dict[str, Any]:
    """The outcome, as `headrace retrain --json` prints it."""
    values: dict[str, Any] = msgspec.to_builtins(outcome)
    return values
