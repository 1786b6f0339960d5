"""A re-scorer beside its release: what it gains, what it costs, and whether it pays.

Both answer the same questions, behind the same windows, filters and index. The cost is the processor's own time for the
lists of recorded windows, one thread, both in turn; medians over the batches, their ratio batch by batch.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

import numpy as np

from engine.arrays import Windows
from engine.errors import SettingsError, UnfitReleaseError
from engine.releases.bundles import Bundle
from engine.settings.sections import Settings
from models.data.dataset import Interactions
from models.evaluation.queries import LIST_LENGTH, EvalData, EvalQueries, last_event_queries, queries_since
from models.evaluation.ranking_metrics import MetricAccumulator
from models.evaluation.release_under_test import ReleaseRecommender, ReleaseUnderTest
from models.lab.rescoring import examples as teaching
from models.lab.rescoring import exported as exporting
from models.lab.rescoring import rescorer_training
from models.lab.rescoring.exported import Exported
from models.lab.rescoring.top_candidates import CandidateSearch
from models.settings import ALLOWED_COST, REQUIRED_GAIN, RescoreSettings

BATCHES: Final = (16, 256)
_TIMED_USERS: Final = 5_120
"""So many lists of each kind are timed, for each size of batch."""
_NO_TIMES: Final = np.zeros(0, np.int64)
"""The engine knows no clock."""
Watch = Callable[[str], None]
"""Called with what is going on."""


def measure(
    bundle: Bundle, interactions: Interactions, settings: Settings, plan: RescoreSettings, watch: Watch
) -> tuple[dict[str, Any], Exported]:
    """Train a re-scorer of a release; all that `headrace rescore --json` prints, and the re-scorer.

    Raises:
        ReleaseError: the release cannot be warmed, was trained privately or on other data, or has nothing to be asked.
        DataError: there is nothing to teach.
        SettingsError: the plan does not fit the release.
    """
    if bundle.manifest.contract.dimensions % plan.heads:
        raise SettingsError(
            f"heads: found {plan.heads}, expected a divisor of the {bundle.manifest.contract.dimensions} dimensions of"
            f" {bundle.manifest.name}"
        )
    under_test = ReleaseUnderTest(bundle, interactions.without_searches(), settings)
    split, asked = _questions(bundle, under_test)
    shortlisting = CandidateSearch(under_test.live, under_test, plan.candidates)
    watch("finding the candidates of training events")
    examples = teaching.prepare(bundle, shortlisting, interactions, plan)
    watch("training")
    trained = rescorer_training.train(
        examples, bundle.vectors, plan, lambda now: watch(f"training: step {now.step}, validation NDCG {now.ndcg:.4f}")
    )
    exported = Exported.of(trained.rescorer, bundle.vectors)
    difference = exporting.largest_difference(trained.rescorer, exported, bundle.vectors, examples.kept_aside)
    exporting.refuse_difference(difference)
    contest = _RescorerComparison(under_test, shortlisting, exported)
    watch("asking for what training did not see")
    quality = contest.quality(asked)
    watch("timing")
    cost = contest.cost([windows for windows, _ in asked.batches()])
    report = {
        "release": bundle.manifest.name,
        "split": split,
        "plan": plan.model_dump(),
        "training": {
            "questions": len(examples.training),
            "kept_aside": len(examples.kept_aside),
            "rounds": [asdict(progress) for progress in trained.rounds],
            "parity_difference": difference,
        },
        **quality,
        "cost": cost,
        "table_bytes": sum(table.nbytes for table in exported.tables.values()),
    }
    return report | {"verdict": verdict(report)}, exported


def verdict(report: Mapping[str, Any]) -> dict[str, Any]:
    """Whether a re-scorer pays, and why, in a sentence."""
    gain, before = report["lead"]["ndcg10"], report["without"]["ndcg10"]
    low, high = report["lead"]["intervals"].get("ndcg10", (-math.inf, math.inf))  # one user says nothing about others
    times = max(row["ratio"] for row in report["cost"].values())
    pays = low > 0.0 and gain >= REQUIRED_GAIN * before and times <= ALLOWED_COST
    sentence = (
        f"It {'pays' if pays else 'does not pay'}: NDCG@10 {gain:+.4f} ({low:+.4f} to {high:+.4f}) on {before:.4f}, for"
        f" {times:.2f} times the time of a list; it pays where it adds {REQUIRED_GAIN:.0%} or more, beyond chance, for"
        f" at most {ALLOWED_COST:g} times the time."
    )
    return {"pays": pays, "sentence": sentence}


class _RescorerComparison:
    """A release without and with a re-scorer."""

    def __init__(self, under_test: ReleaseUnderTest, shortlisting: CandidateSearch, exported: Exported) -> None:
        self._trial, self._engine = under_test, ReleaseRecommender(under_test.live, under_test)
        self._shortlisting, self._exported = shortlisting, exported

    def quality(self, asked: EvalQueries) -> dict[str, Any]:
        """Figures of both, and the lead of the second, target by target."""
        under_test = self._trial
        users, items = under_test.interactions.users, under_test.items
        without, with_it = (
            MetricAccumulator(under_test.live.numbers, under_test.popularity),
            MetricAccumulator(under_test.live.numbers, under_test.popularity),
        )
        for windows, targets in asked.batches():
            best = self._shortlisting.of(windows)
            rescored = best.ranked(self._exported.scores(best), LIST_LENGTH)
            without.add(users[targets], self._engine.lists(windows, _NO_TIMES, LIST_LENGTH), items[targets])
            with_it.add(users[targets], rescored, items[targets])
        return {
            "targets": len(asked.targets),
            "without": without.figures(),
            "with": with_it.figures(),
            "lead": with_it.lead(without),
        }

    def cost(self, recorded: Sequence[Windows]) -> dict[str, Any]:
        """Microseconds a user of both, and their ratio, by size of batch."""
        windows = Windows(
            items=np.concatenate([part.items for part in recorded]),
            times_ms=np.concatenate([part.times_ms for part in recorded]),
            actions=np.concatenate([part.actions for part in recorded]),
        )
        costs = {}
        for users in BATCHES:
            chosen = np.resize(np.arange(len(windows)), (_TIMED_USERS // users, users))
            spent_s = np.array([self._timed(windows.take(batch)) for batch in chosen])  # [n, 2]
            without, with_it = (1e6 / users * np.median(spent_s, axis=0)).tolist()
            ratio = float(np.median(spent_s[:, 1] / spent_s[:, 0]))
            costs[f"{users}"] = {"without_us": without, "with_us": with_it, "ratio": ratio}
        return costs

    def _timed(self, windows: Windows) -> tuple[float, float]:
        """Processor seconds for the lists of these windows, without and with."""
        shortlisting, exported = self._shortlisting, self._exported
        began_s = time.thread_time()
        self._engine.lists(windows, _NO_TIMES, LIST_LENGTH)
        without_s = time.thread_time()
        lists = shortlisting.recommender.recommend(windows, shortlisting.live)
        found_s = time.thread_time()
        best = shortlisting.candidate_lists(windows, lists)  # the engine would have these at hand
        ready_s = time.thread_time()
        best.ranked(exported.scores(best), LIST_LENGTH)
        return without_s - began_s, found_s - without_s + time.thread_time() - ready_s


def _questions(bundle: Bundle, recording: EvalData) -> tuple[str, EvalQueries]:
    """What training left out: the last events, or else what came after a time.

    Raises:
        UnfitReleaseError: it left out nothing that could be asked.
    """
    left_out = bundle.manifest.holdout
    if left_out.last_event:
        asked = "leave_last_out", last_event_queries(recording)
    elif left_out.from_ms is not None:
        asked = "time_split", queries_since(recording, left_out.from_ms)
    else:
        raise UnfitReleaseError(
            f"{bundle.manifest.name} was trained on all there is, so that nothing can be asked; train with --holdout"
            " last, time or both"
        )
    if not len(asked[1].targets):
        raise UnfitReleaseError(f"nothing that {bundle.manifest.name} left out has an event before it; give more data")
    return asked
