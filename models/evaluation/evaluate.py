"""How good a release is, asked through the engine's own path: window store, ONNX, index, ranking.

    leave-last-out   the newest event of every user, from the window of all before it
    time split       every event after the split, from the window of all the user's events before it: was the clicked
                     item in the list that was already published?

Every list is a full ranking of the release's catalogue without what the user's window holds. An item that the release
does not know is a miss; so is one that the window holds already. A split whose events the release was trained on gets
no figures but a reason. The whole in words: `docs/evaluation.md`.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import msgspec
import numpy as np

from engine import contract, live
from engine.columns import NO_ITEM, Bool, Int32, Int64, Windows
from engine.index import ExactIndex
from engine.live import LiveRelease
from engine.pipeline import Lists, Recommender
from engine.popular import Popularity as EnginePopularity
from engine.release import Bundle
from engine.settings import Settings
from models import protocol
from models.data.dataset import Interactions
from models.evaluation import breakdowns, questions
from models.evaluation.baselines import Baseline, Neighbours, Popularity
from models.evaluation.breakdowns import InterestsInUse, MeasuredIndex
from models.evaluation.questions import LISTED, Questions, Recording
from models.protocol import FIGURES, Tally

OURS: Final = "release"
Watch = Callable[[str, int, int], None]
"""Called with the split's name, targets asked so far and targets in all."""


def evaluate(bundle: Bundle, interactions: Interactions, settings: Settings, watch: Watch) -> dict[str, Any]:
    """All that `headrace evaluate --json` prints: leave-last-out on top, the time split inside.

    Raises:
        ReleaseError: the release cannot be warmed.
    """
    trial = _Trial(bundle, interactions, settings)
    return {
        "release": bundle.manifest.name,
        "catalogue": bundle.manifest.items,
        "data_fingerprint": trial.fingerprint,
        "split": "leave_last_out",
        **_leave_last_out(trial, watch),
        "time_split": _time_split(trial, watch),
    }


class _Trial(Recording):
    """One release, warm, and the interactions it is asked about."""

    def __init__(self, bundle: Bundle, interactions: Interactions, settings: Settings) -> None:
        super().__init__(interactions, settings)
        self.bundle = bundle
        self.fingerprint = interactions.fingerprint()
        self.live = live.warm(bundle, self.catalogue, settings.index, settings.worker.threads)
        self.learned: Bool = self.wanted & ~protocol.held_out(interactions, bundle.manifest.holdout)  # [n]
        self.popularity: Int64 = np.bincount(self.items[self.learned], minlength=len(self.catalogue))  # by item number


class _Contest:
    """The release and the baselines, asked for the same targets."""

    def __init__(self, trial: _Trial, asked: Questions) -> None:
        """Everyone gets ready for these questions."""
        data, counted, depth = trial.interactions, asked.counted, LISTED + trial.settings.windows.length
        popularity = Popularity(trial.items[counted], data.times_ms[counted], data.times_ms[asked.targets], depth)
        learned = data.by_user()
        learned = learned[trial.learned[learned]]
        self._trial = trial
        self._engine = _WatchedEngine(trial, len(asked.targets))
        self._contestants: dict[str, Baseline] = {
            OURS: self._engine,
            "popularity_7d": popularity,
            "last_item_neighbours": Neighbours(data.users[learned], trial.items[learned], popularity),
        }
        self._tallies = {name: Tally(trial.live.numbers, trial.popularity) for name in self._contestants}
        self._targets = [np.zeros(0, np.int64)]
        self.asked = self._seen = 0

    def ask(self, windows: Windows, targets: Int64) -> None:
        """Ask everyone for lists for these windows [B], and score them by the events at `targets` [B]."""
        data, items = self._trial.interactions, self._trial.items[targets]
        for name, contestant in self._contestants.items():
            lists = contestant.lists(windows, data.times_ms[targets], LISTED)
            self._tallies[name].add(data.users[targets], lists, items)
        self._targets.append(targets)
        self.asked += len(targets)
        self._seen += int((windows.items == items[:, None]).any(axis=1).sum())

    def figures(self) -> dict[str, Any]:
        """Ours, how many were asked, what stands behind ours, and the baselines' with our lead over each."""
        data, targets = self._trial.interactions, np.concatenate(self._targets)
        ours = self._tallies[OURS]
        return {
            **ours.figures(),
            "users": len(np.unique(data.users[targets])),
            "targets": len(targets),
            "unknown_targets": int((self._trial.live.rows(self._trial.items[targets]) == NO_ITEM).sum()),
            "seen_targets": self._seen,
            "baselines": {
                name: {**tally.figures(), "lead": ours.lead(tally)}
                for name, tally in self._tallies.items()
                if name != OURS
            },
            "by_history": breakdowns.by_history(data, targets, ours.places),
            "by_item_age": breakdowns.by_item_age(data, targets, ours.places),
            **self._engine.report(),
        }


class Engine:
    """The engine as a contestant."""

    def __init__(self, release: LiveRelease, recording: Recording) -> None:
        """A release that is asked about this recording."""
        popularity = EnginePopularity()
        popularity.seed(release.numbers, release.popularity)
        settings, weights, codes = recording.settings.recommendations, recording.weights, recording.codes
        self._recommender = Recommender(settings, weights, codes, popularity)
        self._live = release

    def lists(self, windows: Windows, times_ms: Int64, count: int) -> Int32:
        """See `Baseline.lists`; the engine knows no clock, and its settings say how long lists are."""
        del times_ms, count
        return self._recommend(windows).items

    def _recommend(self, windows: Windows) -> Lists:
        return self._recommender.recommend(windows, self._live)


class _WatchedEngine(Engine):
    """The engine as a contestant, watched at work."""

    def __init__(self, trial: _Trial, lists: int) -> None:
        """It will be asked for about `lists` lists."""
        release, index, settings = trial.live, trial.live.index, trial.settings.recommendations
        self._in_use, self._index = InterestsInUse(release.contract.interests), None
        if not isinstance(index, ExactIndex):
            depth = min(len(index), settings.candidates_per_interest)
            exact = ExactIndex(release.vectors)
            self._index = MeasuredIndex(index, exact, release.contract.interests, lists, depth)
            release = replace(release, index=self._index)
        super().__init__(release, trial)

    def report(self) -> dict[str, Any]:
        """What was seen of its interests and its index."""
        return {
            "interests_in_use": self._in_use.report(),
            "index": self._index.report() if self._index else {"kind": "exact"},
        }

    def _recommend(self, windows: Windows) -> Lists:
        lists = super()._recommend(windows)
        self._in_use.add(lists.interests)
        return lists


def _leave_last_out(trial: _Trial, watch: Watch) -> dict[str, Any]:
    if not trial.bundle.manifest.holdout.last_event:
        return _no_figures("the release was trained on the users' last events; train with --holdout last or both")
    trained = training_report(trial.bundle)
    private = "privacy" in trained  # it does not say which data it was trained on: whoever asks has to know
    if not private and trial.fingerprint != trained.get("data_fingerprint"):
        return _no_figures("the release was trained on other data, where other events may have been the last ones")
    asked = questions.last_event(trial)
    if not len(asked.targets):
        return _no_figures("no user has an event before the last one to make a list from")
    return _ask(trial, asked, "leave-last-out", watch)


def _time_split(trial: _Trial, watch: Watch) -> dict[str, Any]:
    from_ms = trial.bundle.manifest.holdout.from_ms
    if from_ms is None:
        return _no_figures("the release was trained on all of time; train with --holdout time or both")
    asked = questions.since(trial, from_ms)
    if not len(asked.targets):
        return _no_figures("the data has no events after the time that the release was trained on")
    return {"from_ms": from_ms, **_ask(trial, asked, "time split", watch)}


def _ask(trial: _Trial, asked: Questions, split: str, watch: Watch) -> dict[str, Any]:
    contest = _Contest(trial, asked)
    for windows, targets in asked.ask():
        contest.ask(windows, targets)
        watch(split, contest.asked, len(asked.targets))
    return contest.figures()


def training_report(bundle: Bundle) -> dict[str, Any]:
    """How the release was trained, as its trainer wrote it down; nothing in it is certain to be there."""
    return msgspec.json.decode((bundle.folder / contract.REPORT_FILE).read_bytes(), type=dict[str, Any])


def _no_figures(reason: str) -> dict[str, Any]:
    return {**dict.fromkeys(FIGURES), "reason": reason, "baselines": {}}
