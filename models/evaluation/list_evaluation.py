"""Lists of several systems for the same queries, scored against the same targets."""

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np

from engine.arrays import Int32, Int64, Windows
from models.evaluation.baselines import Baseline
from models.evaluation.queries import LIST_LENGTH, EvalData, EvalQueries, QueryBatches, without_searches
from models.evaluation.ranking_metrics import MetricAccumulator

RELEASE: Final = "release"
"""Name of the release among the systems it is compared with."""
PUSHED: Final = "pushed"
"""Name of the release's lists as they were pushed, at the time of the newest event of their windows."""
LIVE: Final = "live"
"""Name of the release that is live, where another one is compared with it."""
_RELEASES: Final = frozenset({RELEASE, PUSHED, LIVE})
OnProgress = Callable[[str, int, int], None]
"""Called with the name of a stage, its queries so far and its queries in all."""


def batches_with_progress(queries: EvalQueries, stage: str, on_progress: OnProgress) -> QueryBatches:
    """The batches of `queries`, each reported when it is done."""
    done = 0
    for windows, targets in queries.batches():
        yield windows, targets
        done += len(targets)
        on_progress(stage, done, len(queries.targets))


class ListEvaluation:
    """Systems by name, and the metrics of their lists."""

    def __init__(
        self, eval_data: EvalData, systems: Mapping[str, Baseline], catalogue: Int32, popularity: Int64
    ) -> None:
        """Start without any list.

        Args:
            eval_data: the events that queries are about.
            systems: by name. Releases get windows with their searches, every other system their clicks alone.
            catalogue: see `MetricAccumulator`.
            popularity: see `MetricAccumulator`.
        """
        self.eval_data, self._systems = eval_data, systems
        self.accumulators = {name: MetricAccumulator(catalogue, popularity) for name in systems}
        self.seen_targets = 0
        self._targets = [np.zeros(0, np.int64)]

    @property
    def targets(self) -> Int64:
        """[Q] indices of the target events so far, in the order of their lists."""
        return np.concatenate(self._targets)

    def run(
        self, queries: EvalQueries, stage: str = "", on_progress: OnProgress = lambda _stage, _done, _total: None
    ) -> None:
        """Score every system on these queries."""
        for windows, targets in batches_with_progress(queries, stage, on_progress):
            self.evaluate_batch(windows, targets)

    def evaluate_batch(self, windows: Windows, targets: Int64) -> None:
        """Score every system's lists for `windows` [B] by the events at the indices `targets` [B]."""
        data, target_items = self.eval_data.interactions, self.eval_data.items[targets]
        clicks = without_searches(windows)
        for name, system in self._systems.items():
            lists = system.lists(windows if name in _RELEASES else clicks, data.times_ms[targets], LIST_LENGTH)
            self.accumulators[name].add(data.users[targets], lists, target_items)
        self._targets.append(targets)
        self.seen_targets += int((windows.items == target_items[:, None]).any(axis=1).sum())


def with_baselines(
    accumulators: Mapping[str, MetricAccumulator], other_baselines: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Figures of the release, `pushed` if there are any, and `baselines`: those of the others and the lead over each.

    Args:
        accumulators: by name, `RELEASE` among them.
        other_baselines: figures by name of baselines that have no accumulator.
    """
    release = accumulators[RELEASE]
    baselines = {
        name: {**accumulator.figures(), "lead": release.lead(accumulator)}
        for name, accumulator in accumulators.items()
        if name not in (RELEASE, PUSHED)
    }
    pushed = {PUSHED: accumulators[PUSHED].figures()} if PUSHED in accumulators else {}
    return {**release.figures(), **pushed, "baselines": {**(other_baselines or {}), **baselines}}
