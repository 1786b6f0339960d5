"""What a re-scorer learns from: training events of its release, and the candidates that the release had found for each.

The events are those that the release was trained on, never those it held out. Some of them its training kept aside to
tell when to stop; they tell the same here, because a release ranks what it has learned higher than what it has not:
of the events it has learned, its own order looks better than it is.

An event whose item is not among its candidates teaches nothing: no order of them would list it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Final, Self, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from engine import contract
from engine.arrays import NO_ITEM, Float32, Int32, Int64, Windows
from engine.errors import DataError, UnfitReleaseError
from engine.releases.bundles import Bundle
from models.data.dataset import Interactions
from models.data.histories import Histories
from models.data.sequences import Sequences
from models.lab.rescoring.top_candidates import CandidateSearch
from models.settings import RescoreSettings, TrainSettings
from models.training import training_data, validation

_BATCH_USERS: Final = 256
_Number = TypeVar("_Number", bound=np.generic)


@dataclass(frozen=True, slots=True)
class RescoringQueries:
    """Q windows, their candidates, and which of these came next."""

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
    places: Int64
    """[Q] where the item that came next stands among them, from 0; -1 where it does not."""

    def __len__(self) -> int:
        return len(self.places)

    def take(self, chosen: Int64) -> Self:
        """The questions at `chosen`."""
        return replace(self, **{name: getattr(self, name)[chosen] for name in _COLUMNS})

    @classmethod
    def together(cls, parts: Sequence[Self]) -> Self:
        """All of these, one part after the other."""
        return cls(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in _COLUMNS})


_COLUMNS: Final = tuple(field.name for field in fields(RescoringQueries))


@dataclass(frozen=True, slots=True)
class RescoringExamples:
    """Questions to learn from, and questions that tell when to stop."""

    training: RescoringQueries
    """Each has its target among the candidates."""
    kept_aside: RescoringQueries


def prepare(
    bundle: Bundle, asking: CandidateSearch, interactions: Interactions, settings: RescoreSettings
) -> RescoringExamples:
    """Ask a release about the events it was trained on.

    Args:
        bundle: the release.
        asking: the same, warm.
        interactions: what it was trained on.
        settings: how many questions, and which.

    Raises:
        UnfitReleaseError: it was trained on other data, or privately.
        DataError: none of its candidates was ever clicked next.
    """
    trained = _training_settings(bundle, interactions)
    known = training_data.prepare(interactions.histories(), trained)
    learned, stopping = validation.cut(known.histories, trained)
    school = ExampleBuilder(asking, known.histories, settings.events)
    able = np.random.default_rng(settings.seed).permutation(_targets(learned))[: settings.questions]
    training, kept_aside = school.ask(np.sort(able)), school.ask(_targets(stopping.asked))
    training = training.take(np.flatnonzero(training.places >= 0))
    if not len(training) or not len(kept_aside):
        raise DataError(
            f"of {len(able)} training events none has its item among the {settings.candidates} candidates that"
            f" {bundle.manifest.name} found before it; train the release for longer, or on more data"
        )
    return RescoringExamples(training, kept_aside)


def _training_settings(bundle: Bundle, interactions: Interactions) -> TrainSettings:
    """How the release was trained."""
    report = msgspec.json.decode((bundle.folder / contract.REPORT_FILE).read_bytes(), type=dict[str, object])
    if "privacy" in report:
        raise UnfitReleaseError(
            f"{bundle.manifest.name} was trained privately, and a re-scorer learns from single users' clicks without"
            " any such promise; take a release that was not"
        )
    if report.get("data_fingerprint") != interactions.fingerprint():
        raise UnfitReleaseError(
            f"{bundle.manifest.name} was trained on other data, so which events it must not be taught is unknown here;"
            " give the data it was trained on"
        )
    return TrainSettings.model_validate(report["settings"])


def _targets(sequences: Sequences) -> Int64:
    """Places in the histories of the events that these sequences ask for."""
    lengths = sequences.ends - sequences.target_begins
    firsts = np.cumsum(lengths) - lengths
    within = np.arange(lengths.sum()) - np.repeat(firsts, lengths)
    targets: Int64 = np.repeat(sequences.target_begins, lengths) + within + 1
    return targets


class ExampleBuilder:
    """A release, asked for events of the histories it was trained on."""

    def __init__(self, asking: CandidateSearch, histories: Histories, events: int) -> None:
        """`events`: W."""
        self._asking, self._histories, self._events = asking, histories, events

    def ask(self, targets: Int64) -> RescoringQueries:
        """Questions for the events at `targets` [Q], without those whose window holds their item already."""
        parts = np.split(targets, range(_BATCH_USERS, len(targets), _BATCH_USERS))
        return RescoringQueries.together([self._part(part) for part in parts])

    def _part(self, targets: Int64) -> RescoringQueries:
        windows = self._windows(targets)
        wanted = self._asking.live.numbers[self._histories.items[targets]]
        fresh = np.flatnonzero((windows.items != wanted[:, None]).all(axis=1))
        best, wanted = self._asking.of(windows.take(fresh)), wanted[fresh]
        hit = (best.items == wanted[:, None]) & np.isfinite(best.scores)
        return RescoringQueries(
            rows=self._newest(best.inputs.rows),
            ages=self._newest(best.inputs.ages),
            weights=self._newest(best.inputs.weights),
            candidates=best.rows,
            scores=best.scores,
            places=np.where(hit.any(axis=1), hit.argmax(axis=1), -1),
        )

    def _windows(self, targets: Int64) -> Windows:
        """The windows [B, L] before the events at `targets` [B]."""
        windows = self._histories.windows(targets, self._asking.live.contract.window_length)
        numbers = self._asking.live.numbers[windows.items]
        return replace(windows, items=np.where(windows.items == NO_ITEM, np.int32(NO_ITEM), numbers))

    def _newest(self, column: npt.NDArray[_Number]) -> npt.NDArray[_Number]:
        """[B, W] of a column [B, L], zeros before its first event."""
        kept = column[:, -self._events :]
        return np.pad(kept, ((0, 0), (self._events - kept.shape[1], 0)))
