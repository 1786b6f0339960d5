"""Gain and cost of re-scoring a release's lists, and a verdict on whether it pays.

The release with and without a re-scorer answers the same queries through the same windows, filters and index. The cost
is processor time for the lists of recorded windows on one thread, both in turn.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

import numpy as np

from engine.arrays import Int32, Int64, Windows
from engine.errors import SettingsError, UnfitReleaseError
from engine.releases.bundles import Bundle
from engine.settings.sections import Settings
from models.data.dataset import Interactions
from models.evaluation.baselines import Baseline
from models.evaluation.list_evaluation import ListEvaluation
from models.evaluation.queries import LIST_LENGTH, EvalData, EvalQueries, holdout_queries
from models.evaluation.release_under_test import ReleaseRecommender, ReleaseUnderTest
from models.lab import timing
from models.lab.rescoring import examples, exported, rescorer_training
from models.lab.rescoring.exported import ExportedRescorer
from models.lab.rescoring.top_candidates import CandidateSearch
from models.settings import ALLOWED_COST, REQUIRED_GAIN, RescoreSettings

_TIMED_USERS: Final = 5_120
"""Lists of each kind that are timed, for each size of batch."""
_NO_TIMES: Final = np.zeros(0, np.int64)
"""The engine reads no clock."""
OnStage = Callable[[str], None]
"""Called with the name of the stage that begins, or with its progress."""


def measure(
    bundle: Bundle, interactions: Interactions, settings: Settings, rescoring: RescoreSettings, on_stage: OnStage
) -> tuple[dict[str, Any], ExportedRescorer]:
    """Train a re-scorer of a release; returns the report that `headrace rescore --json` prints, and the re-scorer.

    Args:
        bundle: the release.
        interactions: recorded interactions that it was trained on.
        settings: of the engine.
        rescoring: of the re-scorer.
        on_stage: called before each stage, and after each round of training.

    Raises:
        ReleaseError: the release cannot be warmed, was trained privately or on other data, or held out nothing.
        DataError: there are no training examples.
        SettingsError: `rescoring` does not fit the release.
    """
    dimensions = bundle.manifest.contract.dimensions
    if dimensions % rescoring.heads:
        raise SettingsError(
            f"heads: found {rescoring.heads}, expected a divisor of the {dimensions} dimensions of"
            f" {bundle.manifest.name}"
        )
    under_test = ReleaseUnderTest(bundle, interactions.without_searches(), settings)
    queries, search = _queries(bundle, under_test), CandidateSearch(under_test.live, under_test, rescoring.candidates)
    training, rescorer = _train(bundle, search, interactions, rescoring, on_stage)
    comparison = _RescorerComparison(under_test, search, rescorer)
    on_stage("evaluating")
    quality = comparison.quality(queries)
    on_stage("timing")
    cost = comparison.cost([windows for windows, _ in queries.batches()])
    report = {
        "release": bundle.manifest.name,
        "split": "leave_last_out" if bundle.manifest.holdout.last_event else "time_split",
        "settings": rescoring.model_dump(),
        "training": training,
        **quality,
        "cost": cost,
        "table_bytes": sum(table.nbytes for table in rescorer.tables.values()),
    }
    return report | {"verdict": verdict(report)}, rescorer


def verdict(report: Mapping[str, Any]) -> dict[str, Any]:
    """The verdict on re-scoring by `REQUIRED_GAIN` and `ALLOWED_COST`: `pays`, and a sentence with the reason."""
    gain, before = report["lead"]["ndcg10"], report["without"]["ndcg10"]
    low, high = report["lead"]["intervals"].get("ndcg10", (-math.inf, math.inf))  # one user has no interval
    ratio = max(row["ratio"] for row in report["cost"].values())
    pays = low > 0.0 and gain >= REQUIRED_GAIN * before and ratio <= ALLOWED_COST
    sentence = (
        f"It {'pays' if pays else 'does not pay'}: NDCG@10 {gain:+.4f} ({low:+.4f} to {high:+.4f}) on {before:.4f}, for"
        f" {ratio:.2f} times the time of a list; it pays where it adds {REQUIRED_GAIN:.0%} or more, beyond chance, for"
        f" at most {ALLOWED_COST:g} times the time."
    )
    return {"pays": pays, "sentence": sentence}


def _train(
    bundle: Bundle,
    search: CandidateSearch,
    interactions: Interactions,
    settings: RescoreSettings,
    on_stage: OnStage,
) -> tuple[dict[str, Any], ExportedRescorer]:
    """Train and export a re-scorer; returns the part `training` of the report too."""
    on_stage("finding the candidates of training events")
    data = examples.prepare(bundle, search, interactions, settings)
    on_stage("training")
    trained = rescorer_training.train(
        data,
        bundle.vectors,
        settings,
        lambda progress: on_stage(f"training: step {progress.step}, validation NDCG {progress.ndcg:.4f}"),
    )
    rescorer = ExportedRescorer.export(trained.rescorer, bundle.vectors)
    difference = exported.largest_difference(trained.rescorer, rescorer, bundle.vectors, data.validation)
    exported.refuse_difference(difference)
    report = {
        "examples": len(data.training),
        "validation_examples": len(data.validation),
        "rounds": [asdict(progress) for progress in trained.rounds],
        "parity_difference": difference,
    }
    return report, rescorer


class _RescoredRelease:
    """A release with a re-scorer as a `Baseline`."""

    def __init__(self, search: CandidateSearch, rescorer: ExportedRescorer) -> None:
        self._search, self._rescorer = search, rescorer

    def lists(self, windows: Windows, times_ms: Int64, count: int) -> Int32:
        """See `Baseline.lists`; the engine reads no clock."""
        del times_ms
        top = self._search.search(windows)
        return top.ranked(self._rescorer.scores(top), count)


class _RescorerComparison:
    """A release without and with a re-scorer."""

    def __init__(self, under_test: ReleaseUnderTest, search: CandidateSearch, rescorer: ExportedRescorer) -> None:
        self._under_test, self._search, self._rescorer = under_test, search, rescorer
        self._release = ReleaseRecommender(under_test.live, under_test)

    def quality(self, queries: EvalQueries) -> dict[str, Any]:
        """Figures of both, and the lead of the second, paired by target."""
        systems: dict[str, Baseline] = {
            "without": self._release,
            "with": _RescoredRelease(self._search, self._rescorer),
        }
        under_test = self._under_test
        evaluation = ListEvaluation(under_test, systems, under_test.live.numbers, under_test.popularity)
        evaluation.run(queries)
        without, rescored = (evaluation.accumulators[name] for name in systems)
        return {
            "targets": len(queries.targets),
            "without": without.figures(),
            "with": rescored.figures(),
            "lead": rescored.lead(without),
        }

    def cost(self, recorded: Sequence[Windows]) -> dict[str, Any]:
        """Processor time of both per user, and its ratio, by size of batch."""
        windows = Windows(
            items=np.concatenate([batch.items for batch in recorded]),
            times_ms=np.concatenate([batch.times_ms for batch in recorded]),
            actions=np.concatenate([batch.actions for batch in recorded]),
        )
        costs = {}
        for users in timing.BATCHES:
            batches = np.resize(np.arange(len(windows)), (_TIMED_USERS // users, users))
            seconds = np.array([self._seconds(windows.take(batch)) for batch in batches])  # [n, 2]
            (without_us, with_us), (_, ratio) = timing.cost_per_user(seconds, users)
            costs[f"{users}"] = {"without_us": without_us, "with_us": with_us, "ratio": ratio}
        return costs

    def _seconds(self, windows: Windows) -> tuple[float, float]:
        """Processor time for the lists of these windows, without and with."""
        search, rescorer = self._search, self._rescorer
        began_s = time.thread_time()
        self._release.lists(windows, _NO_TIMES, LIST_LENGTH)
        without_s = time.thread_time()
        lists = search.recommender.recommend(windows, search.live)
        searched_s = time.thread_time()
        top = search.candidate_lists(windows, lists)  # not counted: inside the engine these inputs exist already
        ready_s = time.thread_time()
        top.ranked(rescorer.scores(top), LIST_LENGTH)
        return without_s - began_s, searched_s - without_s + time.thread_time() - ready_s


def _queries(bundle: Bundle, eval_data: EvalData) -> EvalQueries:
    """Queries about the events that training held out.

    Raises:
        UnfitReleaseError: it held out none, or none with an event before it.
    """
    holdout = bundle.manifest.holdout
    if not holdout.last_event and holdout.from_ms is None:
        raise UnfitReleaseError(
            f"{bundle.manifest.name} was trained on all events, so that none can be a target; train with --holdout"
            " last, time or both"
        )
    queries = holdout_queries(eval_data, holdout)
    if not len(queries.targets):
        raise UnfitReleaseError(f"no event that {bundle.manifest.name} held out has an event before it; give more data")
    return queries
