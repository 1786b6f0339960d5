"""How good a release is, asked through the engine's own path: window store, ONNX, index, ranking.

    leave-last-out   the newest event of every user, from the window of all before it
    time split       every event after the split, from the window of all the user's events before it: was the clicked
                     item in the list that was already published?

Every list is a full ranking of the release's catalogue without what the user's window holds. An item that the release
does not know is a miss; so is one that the window holds already. A split whose events the release was trained on gets
no figures but a reason. The whole in words: `docs/evaluation.md`.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Final

import msgspec
import numpy as np

from engine import contract, live
from engine.catalogue import Catalogue
from engine.columns import NO_ITEM, Bool, Int32, Int64, UInt8, Windows
from engine.index import ExactIndex
from engine.messages import Actions
from engine.pipeline import Recommender
from engine.popular import Popularity as EnginePopularity
from engine.release import Bundle
from engine.settings import Settings
from engine.window_store import Events, WindowStore
from models import breakdowns, protocol
from models.baselines import Baseline, Neighbours, Popularity
from models.breakdowns import InterestsInUse, MeasuredIndex
from models.dataset import Interactions
from models.protocol import FIGURES, Tally

LISTED: Final = 20
OURS: Final = "release"
_BATCH_USERS: Final = 256
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


class _Trial:
    """One release, warm, and the interactions it is asked about, in the engine's numbers."""

    def __init__(self, bundle: Bundle, interactions: Interactions, settings: Settings) -> None:
        self.bundle, self.interactions = bundle, interactions
        self.settings = settings.model_copy(
            update={
                "recommendations": settings.recommendations.model_copy(update={"count": LISTED}),
                "windows": settings.windows.model_copy(update={"max_users": len(interactions.user_ids)}),
            }
        )
        catalogue, actions = Catalogue(), Actions(settings.clicks)
        self.fingerprint = interactions.fingerprint()
        self.live = live.warm(bundle, catalogue, settings.index, settings.worker.threads)
        codes = np.array([actions.code(name) for name in interactions.action_names], np.uint8)
        self.items: Int32 = catalogue.numbers(interactions.item_ids)[interactions.items]  # [n]
        self.actions: UInt8 = codes[interactions.actions]  # [n]
        self.wanted: Bool = actions.weights[self.actions] > 0.0  # [n] events that a list should have held
        self.learned = self.wanted & ~protocol.held_out(interactions, bundle.manifest.holdout)  # [n]
        self.popularity: Int64 = np.bincount(self.items[self.learned], minlength=len(catalogue))  # by item number
        self.weights = actions.weights

    def store(self, until: Int64) -> WindowStore:
        """Windows of all users, slot by user number, as they are after the events at `until` (places, ascending)."""
        store = WindowStore(self.settings.windows)
        store.slots(self.interactions.user_ids, np.zeros(len(self.interactions.user_ids), np.int32))
        store.append(self.events(until[_newest_of_each(self.interactions.users[until], store.length)]))
        return store

    def events(self, places: Int64) -> Events:
        """The events at these places, for a store of `store`."""
        return Events(
            slots=self.interactions.users[places],
            items=self.items[places],
            times_ms=self.interactions.times_ms[places],
            actions=self.actions[places],
            event_hashes=np.zeros(len(places), np.uint32),
        )


class _Contest:
    """The release and the baselines, asked for the same targets."""

    def __init__(self, trial: _Trial, targets: Int64, counted: Bool) -> None:
        """`targets`: places of the events to ask for; `counted` [n]: events that popularity may count in their time."""
        data, depth = trial.interactions, LISTED + trial.settings.windows.length
        popularity = Popularity(trial.items[counted], data.times_ms[counted], data.times_ms[targets], depth)
        learned = data.by_user()
        learned = learned[trial.learned[learned]]
        self._trial = trial
        self._engine = _Engine(trial, len(targets))
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


class _Engine:
    """The engine as a contestant, watched at work."""

    def __init__(self, trial: _Trial, lists: int) -> None:
        """It will be asked for about `lists` lists."""
        popularity, settings = EnginePopularity(), trial.settings.recommendations
        popularity.seed(trial.live.numbers, trial.live.popularity)
        self._recommender = Recommender(settings, trial.weights, popularity)
        self._live, self._index = trial.live, None
        interests, index = trial.live.contract.interests, trial.live.index
        if not isinstance(index, ExactIndex):
            depth = min(len(index), settings.candidates_per_interest)
            self._index = MeasuredIndex(index, ExactIndex(trial.live.vectors), interests, lists, depth)
            self._live = replace(trial.live, index=self._index)
        self._in_use = InterestsInUse(interests)

    def lists(self, windows: Windows, times_ms: Int64, count: int) -> Int32:
        """See `Baseline.lists`; the engine knows no clock."""
        del times_ms, count
        lists = self._recommender.recommend(windows, self._live)
        self._in_use.add(lists.interests)
        return lists.items

    def report(self) -> dict[str, Any]:
        """What was seen of its interests and its index."""
        return {
            "interests_in_use": self._in_use.report(),
            "index": self._index.report() if self._index else {"kind": "exact"},
        }


def _leave_last_out(trial: _Trial, watch: Watch) -> dict[str, Any]:
    data, manifest = trial.interactions, trial.bundle.manifest
    if not manifest.holdout.last_event:
        return _no_figures("the release was trained on the users' last events; train with --holdout last or both")
    if trial.fingerprint != training_report(trial.bundle).get("data_fingerprint"):
        return _no_figures("the release was trained on other data, where other events may have been the last ones")
    last = protocol.newest(data.users)
    history = np.bincount(data.users)[data.users] > 1
    targets = np.flatnonzero(last & history & trial.wanted)
    if not len(targets):
        return _no_figures("no user has an event before the last one to make a list from")
    contest, store = _Contest(trial, targets, ~last), trial.store(np.flatnonzero(~last))
    for part in _parts(targets):
        contest.ask(store.read(data.users[part]), part)
        watch("leave-last-out", contest.asked, len(targets))
    return contest.figures()


def _time_split(trial: _Trial, watch: Watch) -> dict[str, Any]:
    """The k-th held-out event of every user at once, for k = 1, 2, ...: users do not know of one another."""
    data, from_ms = trial.interactions, trial.bundle.manifest.holdout.from_ms
    if from_ms is None:
        return _no_figures("the release was trained on all of time; train with --holdout time or both")
    before = data.times_ms < from_ms
    targets = np.flatnonzero(~before & trial.wanted)
    if not len(targets):
        return _no_figures("the data has no events after the time that the release was trained on")
    contest, store = _Contest(trial, targets, trial.wanted), trial.store(np.flatnonzero(before))
    for places in _steps(data.users, np.flatnonzero(~before)):
        for part in _parts(places[trial.wanted[places]]):
            contest.ask(store.read(data.users[part]), part)
        store.append(trial.events(places))
        watch("time split", contest.asked, len(targets))
    return {"from_ms": from_ms, **contest.figures()}


def training_report(bundle: Bundle) -> dict[str, Any]:
    """How the release was trained, as its trainer wrote it down; nothing in it is certain to be there."""
    return msgspec.json.decode((bundle.folder / contract.REPORT_FILE).read_bytes(), type=dict[str, Any])


def _no_figures(reason: str) -> dict[str, Any]:
    return {**dict.fromkeys(FIGURES), "reason": reason, "baselines": {}}


def _parts(places: Int64) -> list[Int64]:
    return np.split(places, range(_BATCH_USERS, len(places), _BATCH_USERS)) if len(places) else []


def _steps(users: Int32, places: Int64) -> Iterator[Int64]:
    """The places by turn: every user's first, then every user's second, and so on."""
    turns = protocol.earlier(users[places])
    by_turn = np.argsort(turns, kind="stable")
    yield from np.split(places[by_turn], np.flatnonzero(np.diff(turns[by_turn])) + 1)


def _newest_of_each(users: Int32, count: int) -> Int64:
    """Places of the newest `count` events of each user, of events in order of time."""
    return np.flatnonzero(protocol.earlier(users[::-1])[::-1] < count)
