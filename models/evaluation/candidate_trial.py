"""A release that may go live, beside the one that is: on the very same queries, in the same process.

The queries are the events since the candidate's time split, which it was not trained on. The live release may have been
trained on some of them, which is to the candidate's disadvantage alone.
"""

from collections.abc import Callable
from typing import Any, Final

import numpy as np

from engine.arrays import Windows
from engine.errors import DataError
from engine.releases import serving
from engine.releases.bundles import Bundle
from engine.releases.serving import LiveRelease
from engine.settings.sections import Settings
from models.data.dataset import Interactions
from models.evaluation import breakdowns, paired_bootstrap, slowdown
from models.evaluation.evaluate import InstrumentedRecommender, verdict
from models.evaluation.list_evaluation import LIVE, RELEASE, OnProgress
from models.evaluation.queries import EvalQueries, queries_since
from models.evaluation.ranking_metrics import METRICS, gains
from models.evaluation.release_under_test import BaselineComparison, ReleaseUnderTest, recommender

_METRIC: Final = "ndcg10"
_TIMED_WINDOWS: Final = 64


def evaluate_candidate(
    bundle: Bundle, live: Bundle | None, interactions: Interactions, settings: Settings, on_progress: OnProgress
) -> dict[str, Any]:
    """A report as of `models.evaluation.evaluate.evaluate`, whose time split has the live release among its baselines.

    The time split has, beside what it always has, `leads`: of every other system, the candidate's lead in NDCG@10 with
    its bootstrap interval; and `live`: interests in use and index of the live release, None where there is none. With
    a live release it also has `list_ms`: by release, the median processor time of a list; and `slowdown`: see
    `models.evaluation.slowdown.Slowdown.report`.

    Raises:
        DataError: the candidate was trained on events of all times, or there are none after its time split.
        ReleaseError: a release cannot be warmed.
    """
    under_test = ReleaseUnderTest(bundle, interactions, settings)
    from_ms = bundle.manifest.holdout.from_ms
    if from_ms is None:
        raise DataError(f"{bundle.manifest.name} was trained on events of all times; train it with --holdout time")
    queries = queries_since(under_test, from_ms)
    if not len(queries.targets):
        raise DataError(f"there is no click after the time that {bundle.manifest.name} was trained on; collect more")
    served = None
    if live is not None:
        served = serving.warm(live, under_test.catalogue, under_test.settings.index, settings.worker.threads)
    return {
        "release": bundle.manifest.name,
        "live_release": live.manifest.name if live else None,
        "catalogue": bundle.manifest.items,
        "data_fingerprint": interactions.fingerprint(),
        "split": "leave_last_out",
        **dict.fromkeys(METRICS),
        "reason": "a release that may go live is evaluated on the newest events",
        "baselines": {},
        "time_split": {"from_ms": from_ms, **_time_split(under_test, served, queries, on_progress)},
    }


def _time_split(
    under_test: ReleaseUnderTest, served: LiveRelease | None, queries: EvalQueries, on_progress: OnProgress
) -> dict[str, Any]:
    release = InstrumentedRecommender(under_test, queries)
    live = InstrumentedRecommender(under_test, queries, served) if served else None
    baselines = under_test.baselines(queries)
    systems = {RELEASE: release, **({LIVE: live} if live else {}), **baselines.systems}
    comparison = BaselineComparison(under_test, systems)
    comparison.run(queries, "time split", on_progress)
    figures = comparison.figures()
    data, targets, ranks = under_test.interactions, comparison.targets, comparison.ranks
    return {
        **figures,
        "skipped": baselines.skipped,
        "verdict": verdict(figures["baselines"]),
        "by_history": breakdowns.by_history(data, targets, ranks),
        "by_item_age": breakdowns.by_item_age(data, targets, ranks),
        **release.report(),
        "live": live.report() if live else None,
        "leads": _leads(comparison),
        **_slowdown(under_test, served, queries),
    }


def _leads(comparison: BaselineComparison) -> dict[str, Any]:
    """By name of every other system, the release's lead in NDCG@10."""
    release = comparison.accumulators[RELEASE]
    release_gains, users = gains(release.ranks)[_METRIC], release.users
    leads = dict[str, Any]()
    for name, other in comparison.accumulators.items():
        if name != RELEASE:
            estimate = paired_bootstrap.lead(release_gains, gains(other.ranks)[_METRIC], users)
            leads[name] = {"value": estimate.value, "interval": estimate.interval}
    return leads


def _slowdown(under_test: ReleaseUnderTest, served: LiveRelease | None, queries: EvalQueries) -> dict[str, Any]:
    """`list_ms` and `slowdown` of a time split, empty where there is no live release."""
    if served is None:
        return {}
    windows = next(queries.batches())[0]
    windows = windows.take(np.arange(min(len(windows), _TIMED_WINDOWS)))
    measured = slowdown.measure(
        _maker(under_test, under_test.live, windows), _maker(under_test, served, windows), len(windows)
    )
    list_ms = {name: 1000.0 * list_s for name, list_s in zip((RELEASE, LIVE), measured.list_s, strict=True)}
    return {"list_ms": list_ms, "slowdown": measured.report()}


def _maker(under_test: ReleaseUnderTest, release: LiveRelease, windows: Windows) -> Callable[[], object]:
    pipeline = recommender(release, under_test, under_test.settings.recommendations)
    return lambda: pipeline.recommend(windows, release)
