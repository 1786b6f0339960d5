"""A release opened in this process, and its lists for histories of item ids."""

import threading
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Final

import numpy as np
from pydantic import ValidationError

from engine.arrays import NO_ITEM, Int32, Windows
from engine.catalogue.actions import Actions
from engine.catalogue.ids import Catalogue
from engine.errors import RequestError
from engine.messages.recommendation import Recommendation
from engine.pipeline import Recommender
from engine.ranking.encode import ListHeads, recommendations
from engine.releases import bundles, serving
from engine.releases.bundles import Bundle
from engine.retrieval import features
from engine.settings.sections import RecommendationSettings, Settings
from engine.windows.store import Events, WindowStore

from . import _histories
from ._histories import History

_USERS_AT_ONCE: Final = 256
_DIGITS: Final = 4
_TINY: Final = np.float32(1e-12)


def open_release(folder: str | PathLike[str], settings: Settings | None = None) -> "Release":
    """Read, verify and warm a release; takes a moment for thousands of items, seconds for a million.

    Args:
        folder: the release's own folder, MODEL-VERSION.
        settings: how clicks count, windows are kept, items are found and lists are made, as for a worker. None: the
            defaults, but for `windows.length`, which is the length that the release was trained with.

    Raises:
        DamagedReleaseError: the folder is no release, or a file of it is missing, cut short or changed.
        UnfitReleaseError: its files do not fit each other, the contract or this engine.
        SettingsError: the settings do not fit each other.
    """
    bundle = bundles.read(Path(folder))
    if settings is None:
        windows = Settings().windows.model_copy(update={"length": bundle.manifest.contract.window_length})
        settings = Settings(windows=windows)
    return Release(bundle, settings)


class Release:
    """A warm release: lists for histories, by the path that a worker's windows take.

    Calls leave nothing behind. Threads may share a release; they take turns.
    """

    def __init__(self, bundle: Bundle, settings: Settings) -> None:
        self._settings = settings
        self._actions = Actions(settings.clicks)
        self._catalogue = Catalogue()
        self._live = serving.warm(bundle, self._catalogue, settings.index, settings.worker.threads)
        learned = bundle.manifest.action_values
        weights = features.action_weights(self._actions.weights, self._actions.codes, learned)
        self._recommender = Recommender.starting(settings.recommendations, weights, self._live)
        self._rows = {item: row for row, item in enumerate(bundle.ids)}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<headrace.Release {self.name}, {len(self._rows)} items>"

    @property
    def name(self) -> str:
        """Model and version, as lists name the release."""
        return self._live.name

    @property
    def item_ids(self) -> list[str]:
        """Ids of all items that can be recommended."""
        return [*self._rows]

    def unknown(self, items: Iterable[str]) -> list[str]:
        """Those of `items` that the release does not know: in a history they change nothing."""
        return [item for item in items if item not in self._rows]

    def recommend(  # noqa: PLR0913 - options by keyword, all with a default
        self,
        history: Sequence[str],
        *,
        times_ms: Sequence[int] | None = None,
        actions: Sequence[str] | None = None,
        exclude: Collection[str] = (),
        count: int | None = None,
        diversity: float | None = None,
        exclude_seen: bool | None = None,
    ) -> Recommendation:
        """A list for one history; `recommend_many` has the arguments, which here are those of a single user.

        Raises:
            RequestError: an argument is out of range, or does not fit the history.
        """
        lists = self.recommend_many(
            {"": history},
            times_ms=None if times_ms is None else {"": times_ms},
            actions=None if actions is None else {"": actions},
            exclude=exclude,
            count=count,
            diversity=diversity,
            exclude_seen=exclude_seen,
        )
        return lists[""]

    def recommend_many(  # noqa: PLR0913 - options by keyword, all with a default
        self,
        histories: Mapping[str, Sequence[str]],
        *,
        times_ms: Mapping[str, Sequence[int]] | None = None,
        actions: Mapping[str, Sequence[str]] | None = None,
        exclude: Collection[str] = (),
        count: int | None = None,
        diversity: float | None = None,
        exclude_seen: bool | None = None,
    ) -> dict[str, Recommendation]:
        """Lists for many users, by user.

        A list has no message id, as it comes from no topic. Its `event_ms` is the time of the newest click that it
        knows, 0 without any. It is made of popular items alone where the release knows no item of the history.

        Args:
            histories: item ids of each user's clicks, oldest first. Ids that the release does not know are passed over
                (see `unknown`); of the others the newest `windows.length` count.
            times_ms: event time of each click, Unix milliseconds, in any order; two clicks with the same item, action
                and time are one. None: a minute apart, the last one now. Only the times between clicks matter.
            actions: name of each click's action, of those in `clicks.actions`. None: `clicks.default_action`.
            exclude: ids of items that no list may hold.
            count: items per list, 1 to 200; None: `recommendations.count`.
            diversity: 0 for the order of scores, towards 1 for unlike items; None: `recommendations.diversity`.
            exclude_seen: leave out every item of the history; None: `recommendations.exclude_seen`.

        Raises:
            RequestError: an argument is out of range, or does not fit the histories.
        """
        options = {"count": count, "diversity": diversity, "exclude_seen": exclude_seen}
        recommender = replace(self._recommender, settings=self._list_settings(options))
        _histories.check_ids("exclude", exclude)
        excluded = self._catalogue.numbers([item for item in exclude if item in self._rows])
        now_ms = time.time_ns() // 1_000_000
        clicks = _histories.complete(histories, times_ms, actions, self._actions, now_ms)
        users, lists = [*histories], []
        for start in range(0, len(users), _USERS_AT_ONCE):
            part = slice(start, start + _USERS_AT_ONCE)
            lists += self._lists(recommender, users[part], clicks[part], excluded, now_ms)
        return dict(zip(users, lists, strict=True))

    def similar(self, item: str, count: int = 10) -> list[tuple[str, float]]:
        """The items most like this one, each with the cosine of the angle between the two vectors, highest first.

        Raises:
            RequestError: the release does not know the item, or `count` is less than 1.
        """
        if item not in self._rows:
            raise RequestError(
                f"item: found {item!r}, expected one of the {len(self._rows)} items of release {self.name}; they are"
                " Release.item_ids"
            )
        if count < 1:
            raise RequestError(f"count: found {count}, expected 1 or more; leave it out for 10")
        row, vectors = self._rows[item], self._live.vectors
        norms = np.maximum(np.linalg.norm(vectors, axis=1), _TINY)  # [V]
        cosines = vectors @ vectors[row] / (norms * norms[row])  # [V]
        order = np.argsort(-cosines, kind="stable")
        rows = order[order != row][:count]
        ids = self._catalogue.ids(self._live.numbers[rows].tolist())
        return list(zip(ids, np.round(cosines[rows].astype(np.float64), _DIGITS).tolist(), strict=True))

    def _list_settings(self, options: Mapping[str, object]) -> RecommendationSettings:
        """The settings of lists with those of `options` that are not None."""
        present = {name: value for name, value in options.items() if value is not None}
        settings = self._settings.recommendations
        try:
            return RecommendationSettings.model_validate(settings.model_dump() | present) if present else settings
        except ValidationError as error:
            problem = error.errors()[0]
            name = str(problem["loc"][0])
            raise RequestError(
                f"{name}: found {problem['input']!r}, expected {problem['msg'].removeprefix('Input should be ')};"
                f" leave it out for {getattr(settings, name)!r}, as in the settings"
            ) from error

    def _lists(
        self, recommender: Recommender, users: Sequence[str], clicks: Sequence[History], excluded: Int32, now_ms: int
    ) -> list[Recommendation]:
        events = self._events(clicks)
        windows = self._windows(events, users)
        left_out = [excluded] * len(users)
        if recommender.settings.exclude_seen:
            left_out = [
                np.concatenate([excluded, np.setdiff1d(events.items[events.slots == slot], windows.items[slot])])
                for slot in range(len(users))
            ]
        with self._lock:
            lists = recommender.recommend(windows, self._live, excluded=_padded(left_out))
        heads = ListHeads(
            ids=[""] * len(users),
            users=list(users),
            event_ms=windows.times_ms[:, -1].tolist(),
            release=self.name,
            computed_ms=now_ms,
        )
        return recommendations(lists, heads, self._catalogue.ids)

    def _events(self, clicks: Sequence[History]) -> Events:
        """The clicks on known items, each user's slot being the user's index."""
        counts = [len(history.items) for history in clicks]
        rows = [self._rows.get(item, NO_ITEM) for history in clicks for item in history.items]
        events = Events(
            slots=np.repeat(np.arange(len(clicks), dtype=np.int32), counts),
            items=self._live.numbers[rows],
            times_ms=np.concatenate([history.times_ms for history in clicks]),
            actions=np.concatenate([history.actions for history in clicks]),
            event_hashes=np.zeros(sum(counts), np.uint32),
        )
        return events.take(np.array(rows, np.int32) != NO_ITEM)

    def _windows(self, events: Events, users: Sequence[str]) -> Windows:
        """The windows [B, L] of these users, as a worker's after the same clicks."""
        store = WindowStore(self._settings.windows.model_copy(update={"max_users": len(users)}))
        slots = store.slots(users, np.zeros(len(users), np.int32))
        store.append(replace(events, slots=slots[events.slots]))
        return store.read(slots)


def _padded(columns: Sequence[Int32]) -> Int32 | None:
    """[B, E] B arrays side by side, NO_ITEM after the end of the shorter ones; None where all are empty."""
    longest = max(map(len, columns))
    if not longest:
        return None
    return np.array([np.pad(column, (0, longest - len(column)), constant_values=NO_ITEM) for column in columns])
