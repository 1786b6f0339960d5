"""Requests about items: similar ones, given ones in order, popular ones, one explained, all on a map."""

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from engine.arrays import FIRST_SEARCH, NO_ACTION, NO_ITEM, Float32, Float64, Int32, Int64, Windows
from engine.catalogue import searches
from engine.errors import RequestError
from engine.messages.recommendation import Reason
from engine.ranking.trending import trending
from engine.releases.serving import LiveRelease
from engine.retrieval import features
from engine.view.http_messages import (
    Explanation,
    InterestScore,
    ItemMap,
    ItemsAnswer,
    MapPoint,
    ScoredItem,
    UserMap,
    WindowAnswer,
    WindowEvent,
)
from engine.view.item_map import Projection
from engine.view.requests import ListQuery, Responder, new_decision

_DIGITS: Final = 4
_TINY: Final = np.float32(1e-12)
_EXACT_UP_TO: Final = 50_000
"""Items that are all compared with one; of more, those that the index finds near it."""
_FOUND_PER_ITEM: Final = 10
_MAP_ITEMS: Final = 4_000
"""Most items on the map, the most popular ones: a picture, not a catalogue."""


class ItemQueries:
    """Answers about items; belongs to the standby's thread."""

    def __init__(self, responder: Responder) -> None:
        self._responder = responder
        self._standby = responder.standby
        self._projection: tuple[str, int, Projection] | None = None
        """The map of the release of this name and number of items."""

    def similar(self, item: str, count: int, user: str | None, dial: float) -> ItemsAnswer:
        """The items most like this one.

        Args:
            item: the item.
            count: of items in the answer.
            user: whose interests count too; nobody's where None.
            dial: 0 for the likeness alone, 1 for the user's interests alone, among the items that are alike.

        Raises:
            RequestError: the release does not have the item.
        """
        live, _ = self._responder.serving()
        row = self._row(live, item)
        rows, cosines = _alike(live, row, count if user is None else count * _FOUND_PER_ITEM)
        if user is not None and dial > 0.0:
            interests = self._interests(live, self._responder.windows([ListQuery(user)]))
            if interests is not None:
                fit = (interests @ live.vectors[rows].T).max(axis=0)  # [n]
                cosines = (1 - dial) * _scaled(cosines) + dial * _scaled(fit)
                order = np.argsort(-cosines, kind="stable")
                rows, cosines = rows[order], cosines[order]
        return self._answer(live, live.numbers[rows[:count]], cosines[:count])

    def rank(self, items: Sequence[str], query: ListQuery) -> ItemsAnswer:
        """Items in the order of their score, those without one last; in that of the request for somebody unknown."""
        live, _ = self._responder.serving()
        items = list(dict.fromkeys(items))
        rows = live.rows(self._standby.catalogue.known(items))
        interests = self._interests(live, self._responder.windows([query]))
        is_scored = live.is_item(rows)
        scores = np.full(len(items), -np.inf, np.float32)
        if interests is not None:
            scores[is_scored] = (interests @ live.vectors[rows[is_scored]].T).max(axis=0)
        order = np.argsort(-scores, kind="stable").tolist()
        listed = [ScoredItem(items[index], _rounded(scores[index])) for index in order]
        return ItemsAnswer(id=new_decision(), release=live.name, items=listed)

    def popular(self, count: int) -> ItemsAnswer:
        """The most popular items of seven days; their scores are 0, as in lists."""
        live, _ = self._responder.serving()
        numbers = self._standby.popularity.top(count)
        return self._answer(live, numbers, np.zeros(len(numbers), np.float32))

    def trending(self, count: int) -> ItemsAnswer:
        """The items whose share of all events has risen most in the last hour; scores are factors, at the least."""
        live, _ = self._responder.serving()
        numbers, rises = trending(self._standby.recent.counts(), self._standby.popularity.counts(), count)
        return self._answer(live, numbers, rises)

    def explain(self, user: str, item: str) -> Explanation:
        """The parts of an item's score for a user."""
        live, _ = self._responder.serving()
        computed = self._responder.lists([ListQuery(user)])[0]
        listed = [entry.item for entry in computed.recommendation.items]
        number = self._standby.catalogue.known([item])
        row = live.rows(number)
        known = bool(live.is_item(row)[0])
        interests = self._interests(live, computed.source.window) if known else None
        scores = [] if interests is None else (interests @ live.vectors[row[0]]).tolist()
        reasons: list[list[Reason]] = computed.recommendation.interests or [[] for _ in scores]
        return Explanation(
            id=computed.recommendation.id,
            user=user,
            item=item,
            release=live.name,
            known=known,
            seen=bool(number[0] != NO_ITEM and (computed.source.window.items[0] == number[0]).any()),
            rank=listed.index(item) + 1 if item in listed else None,
            interests=[InterestScore(round(score, _DIGITS), why) for score, why in zip(scores, reasons, strict=False)],
        )

    def window(self, user: str) -> WindowAnswer:
        """A user's window; empty where nothing is held."""
        return WindowAnswer(user=user, events=self._events(self._responder.windows([ListQuery(user)])))

    def map_of_items(self, label: Callable[[str], str] = lambda _item: "") -> ItemMap:
        """The items of the release in use, the most popular ones where there are many, each with its label."""
        live, _ = self._responder.serving()
        projection = self._project(live)
        rows = np.argsort(-live.popularity, kind="stable")[:_MAP_ITEMS]
        points = projection.of(live.vectors[rows])
        items = self._standby.catalogue.ids(live.numbers[rows].tolist())
        return ItemMap(
            release=live.name,
            explained=round(projection.explained, _DIGITS),
            items=items,
            labels=[label(item) for item in items],
            x=np.round(points[:, 0].astype(np.float64), _DIGITS).tolist(),
            y=np.round(points[:, 1].astype(np.float64), _DIGITS).tolist(),
        )

    def map_of_user(self, user: str) -> UserMap:
        """A user's window and interests; an interest has the direction of the items it would find."""
        live, _ = self._responder.serving()
        windows = self._responder.windows([ListQuery(user)])
        interests, points = self._interests(live, windows), []
        if interests is not None:
            points = (
                self._project(live).of(_nearest_centres(live, interests)).astype(np.float64).round(_DIGITS).tolist()
            )
        return UserMap(
            user=user,
            release=live.name,
            event_ms=int(windows.times_ms.max()),
            window=self._events(windows),
            interests=[MapPoint(x, y) for x, y in points],
        )

    def _project(self, live: LiveRelease) -> Projection:
        if self._projection is None or self._projection[:2] != (live.name, len(live.numbers)):
            self._projection = (live.name, len(live.numbers), Projection(live.vectors))
        return self._projection[2]

    def _row(self, live: LiveRelease, item: str) -> int:
        row = int(live.rows(self._standby.catalogue.known([item]))[0])
        if not 0 <= row < len(live.numbers):
            raise RequestError(
                f"item: found {item!r}, expected one of the {len(live.numbers)} items of release {live.name}; was the"
                " release trained before the item came?"
            )
        return row

    def _interests(self, live: LiveRelease, windows: Windows) -> Float32 | None:
        """[K, D] interests of the first window; None of a cold one."""
        _, recommender = self._responder.serving()
        rows = live.rows(windows.items)
        inputs = features.make(windows, rows, recommender.action_weights, live.contract.window_length)
        if not inputs.warm[0]:
            return None
        interests, _ = live.encode(inputs.take(np.array([0])))
        first: Float32 = interests[0]
        return first

    def _answer(self, live: LiveRelease, numbers: Int32, scores: Float32 | Float64) -> ItemsAnswer:
        ids = self._standby.catalogue.ids(numbers.tolist())
        listed = [ScoredItem(item, _rounded(score)) for item, score in zip(ids, scores, strict=True)]
        return ItemsAnswer(id=new_decision(), release=live.name, items=listed)

    def _events(self, windows: Windows) -> list[WindowEvent]:
        filled = windows.actions[0] != NO_ACTION
        numbers = windows.items[0, filled].tolist()
        names = self._standby.catalogue.ids(numbers)
        columns = zip(
            numbers, names, windows.actions[0, filled].tolist(), windows.times_ms[0, filled].tolist(), strict=True
        )
        return [
            WindowEvent(
                item=name if number < FIRST_SEARCH else searches.words_of(name),
                kind="item" if number < FIRST_SEARCH else "search",
                action=self._standby.actions.names[action],
                time_ms=time_ms,
            )
            for number, name, action, time_ms in columns
        ]


def _alike(live: LiveRelease, row: int, count: int) -> tuple[Int64 | Int32, Float32]:
    """Rows [n] of the items most like that of a row, and the cosines of the angles between the vectors."""
    vector = live.vectors[row]
    if len(live.numbers) <= _EXACT_UP_TO:
        rows: Int64 | Int32 = np.arange(len(live.numbers))
    else:
        depth = min(len(live.numbers), count * _FOUND_PER_ITEM)
        nearest, _ = live.index.search(vector[None], depth)
        rows = nearest[0][nearest[0] != NO_ITEM]
    vectors = live.vectors[rows]
    norms = np.maximum(np.linalg.norm(vectors, axis=1), _TINY)
    cosines = vectors @ vector / (norms * max(float(np.linalg.norm(vector)), float(_TINY)))
    order = np.argsort(-cosines, kind="stable")
    order = order[rows[order] != row][:count]
    return rows[order], cosines[order]


def _scaled(scores: Float32) -> Float32:
    """Scores [n] moved to the range from 0 to 1."""
    low, high = scores.min(initial=np.inf), scores.max(initial=-np.inf)
    scaled: Float32 = (scores - low) / max(float(high - low), float(_TINY))
    return scaled


def _nearest_centres(live: LiveRelease, interests: Float32) -> Float32:
    """[K, D] the mean vector of the items nearest to each interest: where on the map the interest is at home."""
    rows, _ = live.index.search(interests, min(len(live.index), _FOUND_PER_ITEM))
    centres: Float32 = live.vectors[np.maximum(rows, 0)].mean(axis=1)
    return centres


def _rounded(score: float) -> float | None:
    return round(float(score), _DIGITS) if np.isfinite(score) else None
