"""A warm release with recorded interactions, its lists through the engine's own pipeline, and baselines for them."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec
import numpy as np

from engine import contract
from engine.arrays import NO_ITEM, Bool, Int32, Int64, Windows
from engine.errors import DataError, MissingExtraError
from engine.pipeline import Recommender
from engine.ranking.lists import Lists
from engine.releases import serving
from engine.releases.bundles import Bundle
from engine.releases.serving import LiveRelease
from engine.settings.sections import RecommendationSettings, Settings
from models.data import splits
from models.data.dataset import Interactions
from models.data.popularity_at import HOUR_MS, PopularityAt
from models.evaluation import recorded_stream
from models.evaluation.baselines import Baseline, Neighbours, PopularityBaseline, extras
from models.evaluation.baselines.task import Hyperparameters, Task
from models.evaluation.list_evaluation import PUSHED, RELEASE, ListEvaluation, OnProgress, with_baselines
from models.evaluation.queries import EvalData, EvalQueries, frequent_item_queries, pushed_order
from models.evaluation.recorded_stream import RecordedStream

_TUNING_MINUTES: Final = 4.0
"""Processor time for the hyperparameters of item-kNN; half of it goes to the search."""


@dataclass(frozen=True, slots=True)
class Baselines:
    """The baselines of an evaluation."""

    systems: dict[str, Baseline]
    """By name."""
    skipped: dict[str, str]
    """By name, the reason why one is missing."""


class ReleaseUnderTest(EvalData):
    """A warm release, and the interactions it is evaluated on."""

    def __init__(
        self, bundle: Bundle, interactions: Interactions, settings: Settings, min_item_events: int = 0
    ) -> None:
        """Warm the release.

        Args:
            bundle: the release.
            interactions: n recorded events.
            settings: action weights, windows, index and lists.
            min_item_events: see `frequent_only`.

        Raises:
            ReleaseError: it cannot be warmed.
        """
        super().__init__(interactions, settings)
        self.bundle, self.min_item_events = bundle, min_item_events
        self.live = serving.warm(bundle, self.catalogue, settings.index, settings.worker.threads)
        self.training_mask: Bool = self.target_mask & ~splits.held_out(interactions, bundle.manifest.holdout)  # [n]
        self._item_knn_configuration: Hyperparameters | None = None

    @property
    def popularity(self) -> Int64:
        """Training events by item number, of every item numbered so far: another release may know more of them."""
        return np.bincount(self.items[self.training_mask], minlength=len(self.catalogue))

    def frequent_only(self, queries: EvalQueries) -> EvalQueries:
        """The queries whose target item has at least `min_item_events` training events."""
        return frequent_item_queries(queries, self, self.training_mask, self.min_item_events)

    def unknown_targets(self, targets: Int64) -> int:
        """Number of the events at these indices whose item the release does not know."""
        return int((self.live.rows(self.items[targets]) == NO_ITEM).sum())

    def baselines(self, queries: EvalQueries) -> Baselines:
        """The baselines of every evaluation, fitted for these queries on the release's training events."""
        popularity, training = PopularityBaseline.of(self, queries), self.by_user(self.training_mask)
        systems: dict[str, Baseline] = {
            "popularity_7d": popularity,
            "last_item_neighbours": Neighbours(training.users, training.items, popularity),
        }
        try:
            return Baselines(systems | {"item_knn": self._item_knn(queries)}, {})
        except (DataError, MissingExtraError) as error:
            return Baselines(systems, {"item_knn": str(error)})

    def _item_knn(self, queries: EvalQueries) -> Baseline:
        """Item-kNN, tuned at the first call.

        Raises:
            MissingExtraError: it needs an extra that is not installed.
            DataError: there are too few events to tune it on.
        """
        with extras.required("baselines"):
            from models.evaluation.baselines import item_knn  # noqa: PLC0415 - only where the extra is installed
        task = Task.of(self, self.training_mask, queries)
        if self._item_knn_configuration is None:
            limited = replace(task, minutes=_TUNING_MINUTES, clock_s=time.process_time)
            notes = item_knn.fit(limited, item_knn.QUICK_GRID).notes
            self._item_knn_configuration = {name: notes[name] for name in item_knn.QUICK_GRID[0]}
        return item_knn.ItemKnn(task, self._item_knn_configuration, task.events)


class ReleaseRecommender:
    """A release as a `Baseline`: its lists through the engine's own pipeline."""

    def __init__(self, release: LiveRelease, eval_data: EvalData, popularity_mask: Bool | None = None) -> None:
        """Serve a release.

        Args:
            release: to serve.
            eval_data: its settings, and the events that popularity counts.
            popularity_mask: [n] events that it counts, each from its own hour on, and clicks on items that came after
                training with it; None leaves popularity as it was at the end of the release's training.
        """
        self._recommender = recommender(release, eval_data, eval_data.settings.recommendations)
        self._live, self._popularity = release, None
        self._stream: RecordedStream | None = None
        if popularity_mask is not None:
            counted = popularity_mask & eval_data.target_mask
            times_ms = eval_data.interactions.times_ms[counted]
            self._popularity = PopularityAt(eval_data.items[counted], times_ms, len(eval_data.catalogue))
            self._recommender = replace(self._recommender, popularity=self._popularity)
            most_items = eval_data.settings.recommendations.stream_neighbours
            self._stream = recorded_stream.of_later_items(release, eval_data, counted, most_items)

    def lists(self, windows: Windows, times_ms: Int64, count: int) -> Int32:
        """See `Baseline.lists`; the settings decide how long lists are, and only counted clicks have a time."""
        del count
        if self._popularity is None:
            return self._recommend(windows).items
        items = np.empty((len(windows), self._recommender.settings.count), np.int32)
        hours = times_ms // HOUR_MS
        for hour in np.unique(hours).tolist():
            self._move_to(hour * HOUR_MS)
            users = np.flatnonzero(hours == hour)
            items[users] = self._recommend(windows.take(users)).items
        return items

    def _move_to(self, time_ms: int) -> None:
        if self._popularity is not None:
            self._popularity.move_to(time_ms)
        if self._stream is not None:
            self._stream.move_to(time_ms)
            self._recommender = replace(self._recommender, stream=self._stream.counts)

    def _recommend(self, windows: Windows) -> Lists:
        return self._recommender.recommend(windows, self._live)


class PushedLists:
    """A release as a `Baseline` whose lists are those of the time at which they were pushed.

    A worker makes a list when the user clicks; what became popular between that click and the next one it cannot know.
    """

    def __init__(self, release: ReleaseRecommender) -> None:
        """Push the lists of `release`."""
        self._release = release

    def lists(self, windows: Windows, times_ms: Int64, count: int) -> Int32:
        """See `Baseline.lists`; the time is that of each window's newest event, of the query where there is none."""
        newest_ms = np.where(windows.items == NO_ITEM, np.int64(0), windows.times_ms).max(axis=1)
        return self._release.lists(windows, np.where(newest_ms > 0, newest_ms, times_ms), count)


class BaselineComparison(ListEvaluation):
    """A release and baselines, scored on the same queries."""

    def __init__(self, under_test: ReleaseUnderTest, systems: Mapping[str, Baseline]) -> None:
        """`systems` by name, the release among them as `RELEASE`."""
        super().__init__(under_test, systems, under_test.live.numbers, under_test.popularity)
        self._under_test = under_test

    @property
    def ranks(self) -> Int64:
        """[Q] ranks of the targets in the release's lists."""
        return self.accumulators[RELEASE].ranks

    def evaluate_pushed(self, queries: EvalQueries, stage: str, on_progress: OnProgress) -> None:
        """Score the release's lists as they were pushed: a pass of its own, as their order in time is another one."""
        under_test = self._under_test
        pushed = PushedLists(ReleaseRecommender(under_test.live, under_test, queries.popularity_mask))
        alone = ListEvaluation(under_test, {PUSHED: pushed}, under_test.live.numbers, under_test.popularity)
        alone.run(pushed_order(under_test, queries), stage, on_progress)
        self.accumulators |= alone.accumulators

    def figures(self) -> dict[str, Any]:
        """Numbers of users and targets, the release's figures, and `baselines` with the release's lead over each."""
        targets = self.targets
        return {
            "users": len(np.unique(self._under_test.interactions.users[targets])),
            "targets": len(targets),
            "min_item_events": self._under_test.min_item_events,
            "unknown_targets": self._under_test.unknown_targets(targets),
            "seen_targets": self.seen_targets,
            **with_baselines(self.accumulators),
        }


def recommender(release: LiveRelease, eval_data: EvalData, settings: RecommendationSettings) -> Recommender:
    """The engine's pipeline from windows of `eval_data` to lists by `settings`, for this release."""
    return Recommender.starting(settings, eval_data.weights_for(release.manifest), release)


def training_report(bundle: Bundle) -> dict[str, Any]:
    """The report that training wrote into the release's bundle; no key in it is guaranteed."""
    return msgspec.json.decode((bundle.folder / contract.REPORT_FILE).read_bytes(), type=dict[str, Any])
