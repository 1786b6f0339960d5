"""What a system of a comparison is given: events to learn from, a validation of its own, and the time it has.

Settings that a library leaves to its user are chosen here: each is fitted without the newest event of some users and
asked for those, the best is fitted anew on all events. What the comparison will ask takes no part in that.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np

from engine.arrays import NO_ITEM, Bool, Float32, Int32, Windows
from engine.errors import DataError
from models.data.histories import Histories
from models.evaluation import ranking_metrics
from models.evaluation.baselines.baseline import Baseline
from models.evaluation.baselines.most_popular import PopularityBaseline
from models.evaluation.queries import LISTED, EvalData, EvalQueries

VALIDATION_USERS: Final = 1_000
_BATCH_USERS: Final = 256
_TUNING_SHARE: Final = 0.5
"""Share of the time that may go into choosing settings; the rest is kept for the fit that counts."""


class BaselineValidation:
    """The newest training event of some users, to be asked from what is before it."""

    def __init__(self, events: Histories, window_length: int) -> None:
        """Choose the users, always the same ones.

        Raises:
            DataError: no user has two events.
        """
        newest = np.flatnonzero(np.diff(events.users, append=-1))
        able = newest[np.bincount(events.users)[events.users[newest]] > 1]
        if not len(able):
            raise DataError("no user has two events left to train on; give more data or another --split")
        chosen = np.random.default_rng(0).choice(able, min(VALIDATION_USERS, (len(able) + 1) // 2), replace=False)
        self._places = np.sort(chosen)
        self._events, self._length = events, window_length
        self.times_ms = events.times_ms[self._places]
        self.users = events.users[self._places]

    def rest(self) -> Histories:
        """The training events without those asked for here."""
        mask = np.ones(len(self._events), np.bool_)
        mask[self._places] = False
        return self._events.select(mask)

    def ndcg10(self, baseline: Baseline) -> float:
        """What `baseline`, fitted on `rest`, scores here."""
        gains = []
        for events in np.split(self._places, range(_BATCH_USERS, len(self._places), _BATCH_USERS)):
            windows = self._events.windows(events, self._length)
            lists = baseline.lists(windows, self._events.times_ms[events], LISTED)
            gains.append(ranking_metrics.gains(ranking_metrics.places_of(self._events.items[events], lists))["ndcg10"])
        return float(np.concatenate(gains).mean())


@dataclass(frozen=True, slots=True)
class Task:
    """What every system gets."""

    events: Histories
    item_count: int
    """V, of the whole data."""
    validation: BaselineValidation
    popularity: PopularityBaseline
    """Fills lists that would be short; knows the times of all questions and of the validation."""
    window_length: int
    """L: a question comes with at most so many events."""
    action_weights: Float32
    """[256] weight by action code."""
    minutes: float = math.inf
    """Time for all that a system does before the first question."""
    clock_s: Callable[[], float] = time.monotonic
    """Tells that time, in seconds."""
    threads: int = 1
    seed: int = 0

    @classmethod
    def of(cls, recording: EvalData, learned: Bool, asked: EvalQueries) -> Self:
        """To learn from the events `learned` [n] of the recording, and to be `asked` these questions.

        Raises:
            DataError: no user has two events to learn from.
        """
        data, length = recording.interactions, recording.settings.windows.length
        events = recording.by_user(learned)
        validation = BaselineValidation(events, length)
        asked_ms = np.concatenate([data.times_ms[asked.targets], validation.times_ms])
        counted = asked.counted
        return cls(
            events=events,
            item_count=len(data.item_ids),
            validation=validation,
            popularity=PopularityBaseline(recording.items[counted], data.times_ms[counted], asked_ms, LISTED + length),
            window_length=length,
            action_weights=recording.weights,
        )

    def liked(self, windows: Windows) -> Int32:
        """[B, L] the items of the windows; NO_ITEM where the action speaks against the item, or is none."""
        return np.where(self.action_weights[windows.actions] > 0.0, windows.items, np.int32(NO_ITEM))


@dataclass(frozen=True, slots=True)
class Fitted:
    """A system ready to be asked."""

    baseline: Baseline
    notes: dict[str, Any]
    """What it chose for itself, and where its training ended."""


Option = Mapping[str, float]
"""Settings to be tried, by name."""
Fit = Callable[[Option, Histories, float], Baseline]
"""Fits with an option on events, and returns what it has when the task's clock reaches the limit."""


def tuned(task: Task, options: Sequence[Option], fit: Fit) -> Fitted:
    """Fit with the option that does best on the validation; the first is tried in any case, the rest as time allows."""
    began_s = task.clock_s()
    tuning_ends_s = began_s + 60.0 * task.minutes * _TUNING_SHARE
    rest = task.validation.rest()
    found: list[float] = []
    for option in options:
        found.append(task.validation.ndcg10(fit(option, rest, tuning_ends_s)))
        if task.clock_s() > tuning_ends_s:
            break
    best = options[int(np.argmax(found))]
    baseline = fit(best, task.events, began_s + 60.0 * task.minutes)
    return Fitted(baseline, {**best, "options_tried": len(found), "validation_ndcg10": max(found)})
