"""A release on trial: warm, asked through the engine's own path, with those beside it that must be beaten."""

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np

from engine.arrays import NO_ITEM, Bool, Int32, Int64, Windows
from engine.pipeline import Recommender
from engine.ranking.lists import Lists
from engine.releases import serving
from engine.releases.bundles import Bundle
from engine.releases.serving import LiveRelease
from engine.settings.sections import RecommendationSettings, Settings
from models.data import splits
from models.data.dataset import Interactions
from models.evaluation import queries
from models.evaluation.baselines import Baseline, Neighbours, PopularityBaseline
from models.evaluation.queries import LISTED, EvalData, EvalQueries
from models.evaluation.ranking_metrics import Tally

RELEASE: Final = "release"
Watch = Callable[[str, int, int], None]
"""Called with the name of what is asked, targets asked so far and targets in all."""


class ReleaseUnderTest(EvalData):
    """One release, warm, and the interactions it is asked about."""

    def __init__(
        self, bundle: Bundle, interactions: Interactions, settings: Settings, min_item_events: int = 0
    ) -> None:
        """Warm the release.

        Args:
            bundle: the release.
            interactions: what it is asked about.
            settings: how clicks count, windows are kept and lists are made.
            min_item_events: see `fair`.

        Raises:
            ReleaseError: it cannot be warmed.
        """
        super().__init__(interactions, settings)
        self.bundle, self.min_item_events = bundle, min_item_events
        self.live = serving.warm(bundle, self.catalogue, settings.index, settings.worker.threads)
        self.learned: Bool = self.wanted & ~splits.held_out(interactions, bundle.manifest.holdout)  # [n]
        self.popularity: Int64 = np.bincount(self.items[self.learned], minlength=len(self.catalogue))  # by item number

    def fair(self, asked: EvalQueries) -> EvalQueries:
        """Those about items that the release could learn from at least `min_item_events` events."""
        return queries.about_frequent_items(asked, self, self.learned, self.min_item_events)

    def unknown(self, targets: Int64) -> int:
        """How many of these events have an item that the release does not know."""
        return int((self.live.rows(self.items[targets]) == NO_ITEM).sum())

    def baselines(self, asked: EvalQueries) -> dict[str, Baseline]:
        """Those that need nothing but numpy, ready for these questions."""
        times_ms, depth = self.interactions.times_ms, LISTED + self.settings.windows.length
        counted, learned = asked.counted, self.by_user(self.learned)
        popularity = PopularityBaseline(self.items[counted], times_ms[counted], times_ms[asked.targets], depth)
        return {
            "popularity_7d": popularity,
            "last_item_neighbours": Neighbours(learned.users, learned.items, popularity),
        }


def recommender(release: LiveRelease, recording: EvalData, lists: RecommendationSettings) -> Recommender:
    """The engine's way from this recording's windows to such lists, when this release serves."""
    return Recommender.starting(lists, recording.weights_for(release.manifest), release)


class Engine:
    """The engine as a system."""

    def __init__(self, release: LiveRelease, recording: EvalData) -> None:
        """A release that is asked about this recording."""
        self._recommender = recommender(release, recording, recording.settings.recommendations)
        self._live = release

    def lists(self, windows: Windows, times_ms: Int64, count: int) -> Int32:
        """See `Baseline.lists`; the engine knows no clock, and its settings say how long lists are."""
        del times_ms, count
        return self._recommend(windows).items

    def _recommend(self, windows: Windows) -> Lists:
        return self._recommender.recommend(windows, self._live)


class BaselineComparison:
    """The release and the baselines, asked for the same targets."""

    def __init__(self, under_test: ReleaseUnderTest, systems: Mapping[str, Baseline]) -> None:
        """Everyone by name, the release among them as `RELEASE`."""
        self._trial, self._contestants = under_test, systems
        self._tallies = {name: Tally(under_test.live.numbers, under_test.popularity) for name in systems}
        self._targets = [np.zeros(0, np.int64)]
        self.asked = self._seen = 0

    def ask(self, windows: Windows, targets: Int64) -> None:
        """Ask everyone for lists for these windows [B], and score them by the events at `targets` [B]."""
        data, items = self._trial.interactions, self._trial.items[targets]
        clicks = queries.without_searches(windows)  # all that baselines know of
        for name, system in self._contestants.items():
            lists = system.lists(windows if name == RELEASE else clicks, data.times_ms[targets], LISTED)
            self._tallies[name].add(data.users[targets], lists, items)
        self._targets.append(targets)
        self.asked += len(targets)
        self._seen += int((windows.items == items[:, None]).any(axis=1).sum())

    @property
    def targets(self) -> Int64:
        """[n] places of the events asked for, in the order of asking."""
        return np.concatenate(self._targets)

    @property
    def places(self) -> Int64:
        """[n] places of these in the release's lists."""
        return self._tallies[RELEASE].places

    def figures(self) -> dict[str, Any]:
        """Ours, how many were asked, and the baselines' with our lead over each."""
        targets = self.targets
        return {
            "users": len(np.unique(self._trial.interactions.users[targets])),
            "targets": len(targets),
            "min_item_events": self._trial.min_item_events,
            "unknown_targets": self._trial.unknown(targets),
            "seen_targets": self._seen,
            **beside(self._tallies),
        }


def beside(tallies: Mapping[str, Tally], others: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The release's figures, and those of the others with its lead over each."""
    ours = tallies[RELEASE]
    scored = {name: {**tally.figures(), "lead": ours.lead(tally)} for name, tally in tallies.items() if name != RELEASE}
    return {**ours.figures(), "baselines": {**(others or {}), **scored}}
