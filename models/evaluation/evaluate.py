"""How good a release is, asked through the engine's own path: window store, ONNX, index, ranking.

    leave-last-out   the newest event of every user, from the window of all before it
    time split       every event after the split, from the window of all the user's events before it: was the clicked
                     item in the list that was already published?

Every list is a full ranking of the release's catalogue without what the user's window holds. An item that the release
does not know is a miss; so is one that the window holds already. A split whose events the release was trained on gets
no figures but a reason. The whole in words: `docs/evaluation.md`.
"""

from dataclasses import replace
from typing import Any

import msgspec

from engine import contract
from engine.arrays import Windows
from engine.ranking.lists import Lists
from engine.releases.bundles import Bundle
from engine.retrieval.index import ExactIndex
from engine.settings.sections import Settings
from models.data.dataset import Interactions
from models.evaluation import breakdowns, queries
from models.evaluation.breakdowns import InterestsInUse, MeasuredIndex
from models.evaluation.queries import EvalQueries
from models.evaluation.ranking_metrics import FIGURES
from models.evaluation.release_under_test import RELEASE, BaselineComparison, Engine, ReleaseUnderTest, Watch


def evaluate(
    bundle: Bundle, interactions: Interactions, settings: Settings, watch: Watch, min_item_events: int = 0
) -> dict[str, Any]:
    """All that `headrace evaluate --json` prints: leave-last-out on top, the time split inside.

    Args:
        bundle: the release.
        interactions: what it is asked about.
        settings: how clicks count, windows are kept and lists are made.
        watch: told how far it is.
        min_item_events: only items that the release could learn from so many events are asked for.

    Raises:
        ReleaseError: the release cannot be warmed.
    """
    under_test, fingerprint = (
        ReleaseUnderTest(bundle, interactions, settings, min_item_events),
        interactions.fingerprint(),
    )
    return {
        "release": bundle.manifest.name,
        "catalogue": bundle.manifest.items,
        "data_fingerprint": fingerprint,
        "split": "leave_last_out",
        **_leave_last_out(under_test, fingerprint, watch),
        "time_split": _time_split(under_test, watch),
    }


class _WatchedEngine(Engine):
    """The engine as a system, watched at work."""

    def __init__(self, under_test: ReleaseUnderTest, lists: int) -> None:
        """It will be asked for about `lists` lists."""
        release, index, settings = under_test.live, under_test.live.index, under_test.settings.recommendations
        self._in_use, self._index = InterestsInUse(release.contract.interests), None
        if not isinstance(index, ExactIndex):
            depth = min(len(index), settings.candidates_per_interest)
            exact = ExactIndex(release.vectors)
            self._index = MeasuredIndex(index, exact, release.contract.interests, lists, depth)
            release = replace(release, index=self._index)
        super().__init__(release, under_test)

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


def _leave_last_out(under_test: ReleaseUnderTest, fingerprint: str, watch: Watch) -> dict[str, Any]:
    if not under_test.bundle.manifest.holdout.last_event:
        return _no_figures("the release was trained on the users' last events; train with --holdout last or both")
    trained = training_report(under_test.bundle)
    private = "privacy" in trained  # it does not say which data it was trained on: whoever asks has to know
    if not private and fingerprint != trained.get("data_fingerprint"):
        return _no_figures("the release was trained on other data, where other events may have been the last ones")
    asked = under_test.fair(queries.last_event(under_test))
    if not len(asked.targets):
        return _no_figures(f"no user has an event before the last one to make a list from{_fairly(under_test)}")
    return _ask(under_test, asked, "leave-last-out", watch)


def _time_split(under_test: ReleaseUnderTest, watch: Watch) -> dict[str, Any]:
    from_ms = under_test.bundle.manifest.holdout.from_ms
    if from_ms is None:
        return _no_figures("the release was trained on all of time; train with --holdout time or both")
    asked = under_test.fair(queries.since(under_test, from_ms))
    if not len(asked.targets):
        return _no_figures(
            f"the data has no events after the time that the release was trained on{_fairly(under_test)}"
        )
    return {"from_ms": from_ms, **_ask(under_test, asked, "time split", watch)}


def _ask(under_test: ReleaseUnderTest, asked: EvalQueries, split: str, watch: Watch) -> dict[str, Any]:
    engine = _WatchedEngine(under_test, len(asked.targets))
    contest = BaselineComparison(under_test, {RELEASE: engine, **under_test.baselines(asked)})
    for windows, targets in asked.ask():
        contest.ask(windows, targets)
        watch(split, contest.asked, len(asked.targets))
    data, targets, places = under_test.interactions, contest.targets, contest.places
    return {
        **contest.figures(),
        "by_history": breakdowns.by_history(data, targets, places),
        "by_item_age": breakdowns.by_item_age(data, targets, places),
        **engine.report(),
    }


def _fairly(under_test: ReleaseUnderTest) -> str:
    least = under_test.min_item_events
    return f", about items with {least} events to learn from; ask with a smaller --min-item-events" if least else ""


def training_report(bundle: Bundle) -> dict[str, Any]:
    """How the release was trained, as its trainer wrote it down; nothing in it is certain to be there."""
    return msgspec.json.decode((bundle.folder / contract.REPORT_FILE).read_bytes(), type=dict[str, Any])


def _no_figures(reason: str) -> dict[str, Any]:
    return {**dict.fromkeys(FIGURES), "reason": reason, "baselines": {}}
