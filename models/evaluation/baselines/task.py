"""The training task of a compared system: events, a validation set, a time limit; and a grid search within it.

Hyperparameters that a library leaves to its user are chosen on the training events: each configuration is fitted
without the newest event of some users and scored on those events, and the best one is fitted again on all events. The
queries of the comparison take no part in that.
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
from models.evaluation.queries import LIST_LENGTH, EvalData, EvalQueries, split_batches

VALIDATION_USERS: Final = 1_000
_TUNING_SHARE: Final = 0.5
"""Share of the time that the grid search may take; the rest is for the final fit."""


class BaselineValidation:
    """The newest training event of some users as targets, each from the window before it."""

    def __init__(self, events: Histories, window_length: int) -> None:
        """Draw the users, the same ones for the same events.

        Raises:
            DataError: no user has two events.
        """
        newest = np.flatnonzero(np.diff(events.users, append=-1))
        eligible = newest[np.bincount(events.users)[events.users[newest]] > 1]
        if not len(eligible):
            raise DataError("no user has two events left to train on; give more data or another --split")
        count = min(VALIDATION_USERS, (len(eligible) + 1) // 2)
        self._targets = np.sort(np.random.default_rng(0).choice(eligible, count, replace=False))
        self._events, self._length = events, window_length
        self.times_ms = events.times_ms[self._targets]
        self.users = events.users[self._targets]

    def training_events(self) -> Histories:
        """The events without the targets."""
        mask = np.ones(len(self._events), np.bool_)
        mask[self._targets] = False
        return self._events.select(mask)

    def ndcg10(self, baseline: Baseline) -> float:
        """NDCG@10 of a baseline that was fitted on `training_events`."""
        gains = []
        for targets in split_batches(self._targets):
            windows = self._events.windows(targets, self._length)
            lists = baseline.lists(windows, self._events.times_ms[targets], LIST_LENGTH)
            ranks = ranking_metrics.target_ranks(self._events.items[targets], lists)
            gains.append(ranking_metrics.gains(ranks)["ndcg10"])
        return float(np.concatenate(gains).mean())


@dataclass(frozen=True, slots=True)
class Task:
    """The input that every compared system is fitted on."""

    events: Histories
    item_count: int
    """V, of the whole data."""
    validation: BaselineValidation
    popularity: PopularityBaseline
    """Fills lists that would be short; supports the times of all queries and of the validation."""
    popularity_mask: Bool
    """[n] recorded events that popularity may count, each from its own time on."""
    window_length: int
    """L: the most events that the window of a query holds."""
    action_weights: Float32
    """[256] weight by action code."""
    minutes: float = math.inf
    """Time limit for everything before the first query."""
    clock_s: Callable[[], float] = time.monotonic
    """Clock of that limit, in seconds."""
    threads: int = 1
    seed: int = 0
    ended: Callable[[], bool] = lambda: False
    """Whether somebody has ended this system's training before its time."""

    @classmethod
    def of(cls, eval_data: EvalData, training_mask: Bool, queries: EvalQueries) -> Self:
        """A task of training on the events under `training_mask` [n], to be evaluated on `queries`.

        Raises:
            DataError: no user has two events to train on.
        """
        length = eval_data.settings.windows.length
        events = eval_data.by_user(training_mask)
        validation = BaselineValidation(events, length)
        return cls(
            events=events,
            item_count=len(eval_data.interactions.item_ids),
            validation=validation,
            popularity=PopularityBaseline.of(eval_data, queries, validation.times_ms),
            popularity_mask=queries.popularity_mask,
            window_length=length,
            action_weights=eval_data.action_weights,
        )

    def is_over(self, until_s: float) -> bool:
        """Whether the clock is past `until_s`, or the training was ended: what is learned by now has to do."""
        return self.ended() or self.clock_s() > until_s

    def liked_items(self, windows: Windows) -> Int32:
        """[B, L] items of the windows' events with a weight above 0; NO_ITEM elsewhere."""
        return np.where(self.action_weights[windows.actions] > 0.0, windows.items, np.int32(NO_ITEM))


@dataclass(frozen=True, slots=True)
class Fitted:
    """A fitted system."""

    baseline: Baseline
    notes: dict[str, Any]
    """Hyperparameters it was tuned to, and the state in which its training ended."""


Hyperparameters = Mapping[str, float]
"""One configuration of a grid, by name."""
FitConfiguration = Callable[[Hyperparameters, Histories, float], Baseline]
"""Fits a configuration on events; must return when the task is over by the given time (`Task.is_over`), in seconds."""


def grid_search(task: Task, grid: Sequence[Hyperparameters], fit: FitConfiguration) -> Fitted:
    """Fit the configuration with the best validation NDCG@10; the first is always tried, the rest as time allows.

    A search that is ended leaves no time to fit on all events: its best fit, without those of the validation, is kept.
    """
    began_s = task.clock_s()
    tuning_ends_s = began_s + 60.0 * task.minutes * _TUNING_SHARE
    training_events = task.validation.training_events()
    best, baseline, ndcgs = grid[0], None, list[float]()
    for configuration in grid:
        candidate = fit(configuration, training_events, tuning_ends_s)
        ndcg = task.validation.ndcg10(candidate)
        if baseline is None or ndcg > max(ndcgs):
            best, baseline = configuration, candidate
        ndcgs.append(ndcg)
        if task.is_over(tuning_ends_s):
            break
    if baseline is None or not task.ended():
        baseline = fit(best, task.events, began_s + 60.0 * task.minutes)
    return Fitted(baseline, {**best, "configurations_tried": len(ndcgs), "validation_ndcg10": max(ndcgs)})
