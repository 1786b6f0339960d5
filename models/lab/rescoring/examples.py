"""Examples for a re-scorer: training events of a release as targets, with the release's candidates before each.

Targets are events that the release was trained on, never those it held out. The validation targets are those that its
own training kept for validation: a release ranks trained events higher than others, so that on them its own order looks
better than it is.

A training target that is not among its candidates is left out: no order of them would list it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final, Self, TypeVar

import numpy as np
import numpy.typing as npt

from engine.arrays import NO_ITEM, Float32, Int32, Int64, Windows
from engine.errors import DataError, UnfitReleaseError
from engine.releases.bundles import Bundle
from models.data.dataset import Interactions
from models.data.histories import Histories
from models.data.sequences import Sequences
from models.evaluation.queries import split_batches
from models.evaluation.release_under_test import training_report
from models.lab.rescoring.top_candidates import CandidateSearch
from models.settings import RescoreSettings, TrainSettings
from models.training import training_data, validation

_Number = TypeVar("_Number", bound=np.generic)


@dataclass(frozen=True, slots=True)
class RescorerExamples:
    """Q windows with their candidates, and the target among these."""

    rows: Int32
    """[Q, W] rows of the release's items, newest last; 0 where the weight is 0."""
    ages: Float32
    """[Q, W]"""
    weights: Float32
    """[Q, W]"""
    candidates: Int32
    """[Q, C] rows, best first; 0 where there is no candidate."""
    scores: Float32
    """[Q, C] -inf where there is no candidate."""
    target_columns: Int64
    """[Q] column of the target among the candidates; -1 where it is none of them."""

    def __len__(self) -> int:
        return len(self.target_columns)

    def take(self, indices: Int64) -> Self:
        """The examples at these indices."""
        return replace(self, **{name: getattr(self, name)[indices] for name in _COLUMNS})

    def rescorer_inputs(self) -> dict[str, Any]:
        """Inputs of a re-scorer's graph by name, without its tables."""
        return {
            "items": self.rows,
            "ages": self.ages,
            "weights": self.weights,
            "candidates": self.candidates,
            "scores": self.scores,
        }

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        """The examples of all parts in order."""
        return cls(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in _COLUMNS})


_COLUMNS: Final = tuple(field.name for field in fields(RescorerExamples))


@dataclass(frozen=True, slots=True)
class RescorerData:
    """Training and validation examples."""

    training: RescorerExamples
    """Every target is among its candidates."""
    validation: RescorerExamples


def prepare(
    bundle: Bundle, search: CandidateSearch, interactions: Interactions, settings: RescoreSettings
) -> RescorerData:
    """Make examples of the events that a release was trained on.

    Args:
        bundle: the release.
        search: its top candidates.
        interactions: recorded interactions that it was trained on.
        settings: number of examples, seed, C and W.

    Raises:
        UnfitReleaseError: it was trained on other data, or privately.
        DataError: no training event has its item among its candidates.
    """
    settings_of_release = _training_settings(bundle, interactions)
    data = training_data.prepare(interactions.histories(), settings_of_release)
    training_sequences, release_validation = validation.split(data.histories, settings_of_release)
    builder = ExampleBuilder(search, data.histories, settings.events)
    targets = np.random.default_rng(settings.seed).permutation(_targets(training_sequences))[: settings.examples]
    training, validating = builder.build(np.sort(targets)), builder.build(_targets(release_validation.queries))
    training = training.take(np.flatnonzero(training.target_columns >= 0))
    if not len(training) or not len(validating):
        raise DataError(
            f"none of {len(targets)} training events has its item among the {settings.candidates} candidates that"
            f" {bundle.manifest.name} found before it; train the release for longer, or on more data"
        )
    return RescorerData(training, validating)


def _training_settings(bundle: Bundle, interactions: Interactions) -> TrainSettings:
    """Settings that the release was trained with.

    Raises:
        UnfitReleaseError: it was trained on other data, or privately.
    """
    report = training_report(bundle)
    if "privacy" in report:
        raise UnfitReleaseError(
            f"{bundle.manifest.name} was trained privately, and a re-scorer is trained on single users' clicks without"
            " any such promise; take a release that was not"
        )
    if report.get("data_fingerprint") != interactions.fingerprint():
        raise UnfitReleaseError(
            f"{bundle.manifest.name} was trained on other data, so which events it held out is unknown here; give the"
            " data it was trained on"
        )
    return TrainSettings.model_validate(report["settings"])


def _targets(sequences: Sequences) -> Int64:
    """Indices in the histories of the targets of these sequences."""
    lengths = sequences.ends - sequences.target_begins
    firsts = np.cumsum(lengths) - lengths
    offsets = np.arange(lengths.sum()) - np.repeat(firsts, lengths)
    targets: Int64 = np.repeat(sequences.target_begins, lengths) + offsets + 1
    return targets


class ExampleBuilder:
    """Examples from the histories that a release was trained on."""

    def __init__(self, search: CandidateSearch, histories: Histories, events: int) -> None:
        """Build examples from the top candidates of the release, the histories of all users, and W events each."""
        self._search, self._histories, self._events = search, histories, events

    def build(self, targets: Int64) -> RescorerExamples:
        """Examples for the events at `targets` [Q], without those whose window holds the target already."""
        return RescorerExamples.concatenate([self._batch(batch) for batch in split_batches(targets)])

    def _batch(self, targets: Int64) -> RescorerExamples:
        windows = self._windows(targets)
        target_items = self._search.live.numbers[self._histories.items[targets]]
        unseen = np.flatnonzero((windows.items != target_items[:, None]).all(axis=1))
        top, target_items = self._search.search(windows.take(unseen)), target_items[unseen]
        hit_mask = (top.items == target_items[:, None]) & np.isfinite(top.scores)
        return RescorerExamples(
            rows=self._newest(top.inputs.rows),
            ages=self._newest(top.inputs.ages),
            weights=self._newest(top.inputs.weights),
            candidates=top.rows,
            scores=top.scores,
            target_columns=np.where(hit_mask.any(axis=1), hit_mask.argmax(axis=1), -1),
        )

    def _windows(self, targets: Int64) -> Windows:
        """The windows [B, L] before the events at `targets` [B]."""
        windows = self._histories.windows(targets, self._search.live.contract.window_length)
        numbers = self._search.live.numbers[windows.items]
        return replace(windows, items=np.where(windows.items == NO_ITEM, np.int32(NO_ITEM), numbers))

    def _newest(self, column: npt.NDArray[_Number]) -> npt.NDArray[_Number]:
        """[B, W] the newest events of a column [B, L], with zeros before the first one."""
        newest = column[:, -self._events :]
        return np.pad(newest, ((0, 0), (self._events - newest.shape[1], 0)))
