"""How good a release is about users whom it saw no event of: those who came after the time split.

The second, third, fourth and sixth event of each is asked for: a full ranking of the release's catalogue from 1, 2, 3
and 5 clicks. Beside the release stand the baselines of every evaluation and item-kNN, tuned as in a comparison.
"""

import time
from dataclasses import replace
from typing import Any, Final

import numpy as np

from engine.arrays import Int64
from engine.errors import DataError, MissingExtraError
from models.data import splits
from models.evaluation import queries
from models.evaluation.baselines import Baseline, extras
from models.evaluation.baselines.task import Task
from models.evaluation.queries import EvalQueries
from models.evaluation.release_under_test import RELEASE, BaselineComparison, Engine, ReleaseUnderTest, Watch

CLICKS: Final = (1, 2, 3, 5)
"""How many clicks of a new user the lists are made from."""
_ITEM_KNN: Final = "item_knn"
_TUNING_MINUTES: Final = 5.0
"""On the processor, for the settings of item-kNN."""


def new_users(under_test: ReleaseUnderTest, watch: Watch) -> dict[str, Any]:
    """Figures of everyone by how many clicks the lists are made from, or why there are none."""
    from_ms = under_test.bundle.manifest.holdout.from_ms
    if from_ms is None:
        return {"reason": "the release was trained on all of time; train with --holdout time or both"}
    steps = _events_after(under_test, from_ms)
    everything = queries.chosen(under_test, np.sort(np.concatenate(list(steps.values()))))
    if not len(everything.targets):
        return {"reason": "nobody came after the time that the release was trained on"}
    systems, left_out = {RELEASE: Engine(under_test.live, under_test), **under_test.baselines(everything)}, {}
    try:
        systems[_ITEM_KNN] = _item_knn(under_test, everything)
    except (DataError, MissingExtraError) as error:
        left_out[_ITEM_KNN] = str(error)
    rows, done = {}, 0
    for clicks, targets in steps.items():
        contest = BaselineComparison(under_test, systems)
        for windows, part in queries.chosen(under_test, targets).ask():
            contest.ask(windows, part)
            watch("new users", done + contest.asked, len(everything.targets))
        done += contest.asked
        rows[str(clicks)] = contest.figures()
    return {"from_ms": from_ms, "clicks": rows, "left_out": left_out}


def _events_after(under_test: ReleaseUnderTest, from_ms: int) -> dict[int, Int64]:
    """Places of the events of new users by how many came before them."""
    data = under_test.interactions
    old = np.zeros(len(data.user_ids), np.bool_)
    old[data.users[data.times_ms < from_ms]] = True
    asked, before = under_test.wanted & ~old[data.users], splits.earlier(data.users)
    return {clicks: np.flatnonzero(asked & (before == clicks)) for clicks in CLICKS}


def _item_knn(under_test: ReleaseUnderTest, asked: EvalQueries) -> Baseline:
    """Item-kNN that has learned what the release has.

    Raises:
        MissingExtraError: it needs an extra that is not installed.
        DataError: there is too little for it to learn from.
    """
    with extras.needed("compare"):
        from models.evaluation.baselines import item_knn  # noqa: PLC0415 - only where the extra is installed
    task = Task.of(under_test, under_test.learned, asked)
    return item_knn.fit(replace(task, minutes=_TUNING_MINUTES, clock_s=time.process_time)).baseline
