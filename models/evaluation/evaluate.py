"""Evaluation of a release through the engine's own path: window store, ONNX graphs, index, ranking.

    leave-last-out   the newest event of every user, from the window of all events before it
    time split       every event after the split, from the window of all the user's events before it: is the clicked
                     item in the list that was published before the click?

Every list is a full ranking of the release's catalogue without the items of the user's window. A target that the
release does not know is a miss, and so is one that the window holds already. A split that the release was trained on
has a reason instead of figures. The protocol in full: `docs/evaluation.md`.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from engine.arrays import NO_ITEM, Windows
from engine.quality.next_click import PLACES
from engine.ranking.lists import FROM_POPULAR, Lists
from engine.releases.bundles import Bundle
from engine.releases.serving import LiveRelease
from engine.retrieval.index import ExactIndex
from engine.settings.sections import Settings
from models.data.dataset import Interactions
from models.evaluation import breakdowns
from models.evaluation.breakdowns import InterestsInUse, MeasuredIndex
from models.evaluation.list_evaluation import RELEASE, OnProgress
from models.evaluation.queries import EvalQueries, last_event_queries, queries_since
from models.evaluation.ranking_metrics import METRICS
from models.evaluation.release_under_test import (
    BaselineComparison,
    ReleaseRecommender,
    ReleaseUnderTest,
    training_report,
)


def evaluate(
    bundle: Bundle, interactions: Interactions, settings: Settings, on_progress: OnProgress, min_item_events: int = 0
) -> dict[str, Any]:
    """The report that `headrace evaluate --json` prints: leave-last-out at the top level, the time split inside.

    Args:
        bundle: the release.
        interactions: recorded events.
        settings: action weights, windows, index and lists.
        on_progress: called after every batch of queries.
        min_item_events: only targets whose item has at least this many training events count.

    Raises:
        ReleaseError: the release cannot be warmed.
    """
    under_test = ReleaseUnderTest(bundle, interactions, settings, min_item_events)
    fingerprint = interactions.fingerprint()
    return {
        "release": bundle.manifest.name,
        "catalogue": bundle.manifest.items,
        "data_fingerprint": fingerprint,
        "split": "leave_last_out",
        **_leave_last_out(under_test, fingerprint, on_progress),
        "time_split": _time_split(under_test, on_progress),
    }


class InstrumentedRecommender(ReleaseRecommender):
    """A release whose interests in use and index recall are recorded while it serves."""

    def __init__(self, under_test: ReleaseUnderTest, queries: EvalQueries, release: LiveRelease | None = None) -> None:
        """Args: the evaluation; the queries; another release than the one under test."""
        release = release or under_test.live
        index, settings = release.index, under_test.settings.recommendations
        self._in_use, self._index = InterestsInUse(release.contract.interests), None
        if not isinstance(index, ExactIndex):
            depth = min(len(index), settings.candidates_per_interest)
            exact = ExactIndex(release.vectors)
            self._index = MeasuredIndex(index, exact, release.contract.interests, len(queries.targets), depth)
            release = replace(release, index=self._index)
        self._listed = np.zeros(len(under_test.catalogue), np.bool_)
        super().__init__(release, under_test, queries.popularity_mask)

    def report(self) -> dict[str, Any]:
        """`listed_items`, `interests_in_use` and `index` of a report."""
        return {
            "listed_items": int(self._listed.sum()),
            "interests_in_use": self._in_use.report(),
            "index": self._index.report() if self._index else {"kind": "exact"},
        }

    def _recommend(self, windows: Windows) -> Lists:
        lists = super()._recommend(windows)
        self._in_use.add(lists.interests)
        top = lists.items[:, :PLACES]
        self._listed[top[(top != NO_ITEM) & (lists.sources[:, :PLACES] != FROM_POPULAR)]] = True
        return lists


def _leave_last_out(under_test: ReleaseUnderTest, fingerprint: str, on_progress: OnProgress) -> dict[str, Any]:
    if not under_test.bundle.manifest.holdout.last_event:
        return _no_figures("the release was trained on the users' last events; train with --holdout last or both")
    trained = training_report(under_test.bundle)
    private = "privacy" in trained  # such a report has no fingerprint: the caller has to know that the data is the same
    if not private and fingerprint != trained.get("data_fingerprint"):
        return _no_figures("the release was trained on other data, where other events may have been the last ones")
    queries = under_test.frequent_only(last_event_queries(under_test))
    if not len(queries.targets):
        return _no_figures(f"no user has an event before the last one to make a list from{_narrowed(under_test)}")
    return _evaluate_split(under_test, queries, "leave-last-out", on_progress)


def _time_split(under_test: ReleaseUnderTest, on_progress: OnProgress) -> dict[str, Any]:
    from_ms = under_test.bundle.manifest.holdout.from_ms
    if from_ms is None:
        return _no_figures("the release was trained on events of all times; train with --holdout time or both")
    queries = under_test.frequent_only(queries_since(under_test, from_ms))
    if not len(queries.targets):
        return _no_figures(
            f"the data has no events after the time that the release was trained on{_narrowed(under_test)}"
        )
    return {"from_ms": from_ms, **_evaluate_split(under_test, queries, "time split", on_progress)}


def _evaluate_split(
    under_test: ReleaseUnderTest, queries: EvalQueries, split: str, on_progress: OnProgress
) -> dict[str, Any]:
    release = InstrumentedRecommender(under_test, queries)
    baselines = under_test.baselines(queries)
    systems = {RELEASE: release, **baselines.systems}
    comparison = BaselineComparison(under_test, systems)
    comparison.run(queries, split, on_progress)
    if under_test.live.contract.popularity is not None or under_test.live.lists_later_items:
        comparison.evaluate_pushed(queries, f"{split}, as pushed", on_progress)
    data, targets, ranks = under_test.interactions, comparison.targets, comparison.ranks
    figures = comparison.figures()
    return {
        **figures,
        "skipped": baselines.skipped,
        "verdict": verdict(figures["baselines"]),
        "by_history": breakdowns.by_history(data, targets, ranks),
        "by_item_age": breakdowns.by_item_age(data, targets, ranks),
        **release.report(),
    }


def verdict(baselines: Mapping[str, Any]) -> str:
    """Whether the release is worth serving, in a sentence, by its lead in NDCG@10 over each baseline."""
    leads = {
        name: (figures["lead"]["ndcg10"], *figures["lead"]["intervals"]["ndcg10"])
        for name, figures in baselines.items()
    }
    least = min(leads, key=lambda name: leads[name][0])
    lead = leads[least][0]
    behind = [name for name, (_, _, high) in leads.items() if high < 0.0]
    level = [name for name, (_, low, high) in leads.items() if low <= 0.0 <= high]
    if behind:
        return f"Not worth serving: {' and '.join(behind)} beyond chance ahead, {least} by {-lead:.4f} NDCG@10."
    if level:
        return f"No clear gain: level with {' and '.join(level)} within chance, ahead of every other baseline."
    return f"Worth serving: beyond chance ahead of every baseline, of the best one, {least}, by {lead:.4f} NDCG@10."


def _narrowed(under_test: ReleaseUnderTest) -> str:
    """The part of a reason that names `min_item_events`, where it leaves out any items."""
    least = under_test.min_item_events
    return f", with an item of at least {least} training events; give a smaller --min-item-events" if least else ""


def _no_figures(reason: str) -> dict[str, Any]:
    return {**dict.fromkeys(METRICS), "reason": reason, "baselines": {}}
