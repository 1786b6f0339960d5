"""Evaluation on users of whom the release was trained on no event: those whose first event is after its time split.

Targets are the second, third, fourth and sixth event of each, ranked in the release's whole catalogue from windows of
1, 2, 3 and 5 clicks. The baselines are those of every evaluation.
"""

from typing import Any, Final

import numpy as np

from engine.arrays import Int64
from models.data import splits
from models.evaluation.baselines import Baseline
from models.evaluation.list_evaluation import RELEASE, OnProgress
from models.evaluation.queries import event_queries
from models.evaluation.release_under_test import BaselineComparison, ReleaseRecommender, ReleaseUnderTest

CLICKS: Final = (1, 2, 3, 5)
"""Clicks in the windows that lists are made from."""


def new_users(under_test: ReleaseUnderTest, on_progress: OnProgress) -> dict[str, Any]:
    """Figures of the release and its baselines by number of clicks, or the reason why there are none."""
    from_ms = under_test.bundle.manifest.holdout.from_ms
    if from_ms is None:
        return {"reason": "the release was trained on events of all times; train with --holdout time or both"}
    targets_by_clicks = _events_of_new_users(under_test, from_ms)
    all_queries = event_queries(under_test, np.sort(np.concatenate(list(targets_by_clicks.values()))))
    if not len(all_queries.targets):
        return {"reason": "no user's first event is after the time that the release was trained on"}
    release = ReleaseRecommender(under_test.live, under_test, all_queries.popularity_mask)
    systems: dict[str, Baseline] = {RELEASE: release}
    baselines = under_test.baselines(all_queries)
    systems |= baselines.systems
    rows = {}
    for clicks, targets in targets_by_clicks.items():
        comparison = BaselineComparison(under_test, systems)
        comparison.run(event_queries(under_test, targets), f"new users, clicks so far: {clicks}", on_progress)
        rows[str(clicks)] = comparison.figures()
    return {"from_ms": from_ms, "clicks": rows, "skipped": baselines.skipped}


def _events_of_new_users(under_test: ReleaseUnderTest, from_ms: int) -> dict[int, Int64]:
    """Indices of the target events of new users, by number of the user's events before (`CLICKS`)."""
    data = under_test.interactions
    known_users = np.zeros(len(data.user_ids), np.bool_)  # [U]
    known_users[data.users[data.times_ms < from_ms]] = True
    of_new_users, earlier = under_test.target_mask & ~known_users[data.users], splits.earlier(data.users)
    return {clicks: np.flatnonzero(of_new_users & (earlier == clicks)) for clicks in CLICKS}
