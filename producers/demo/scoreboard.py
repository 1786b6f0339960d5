"""Keeps the score of lists against clicks: how fresh the lists are, and whether they held the next click.

Pure: clicks and lists come in with the time at which they were seen, in that order. A click is judged by the list that
its shopper had been sent before, and beside it by as many popular items that the shopper had not clicked either.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from engine.messages.recommendation import Recommendation
from engine.ranking.popularity import Popularity

JUDGED: Final = 10
"""Places of a list that count."""
WINDOW: Final = 100
_LONGEST_MS: Final = 60_000


@dataclass(frozen=True, slots=True)
class Click:
    """One click as it was sent."""

    user: str
    item: str
    time_ms: int
    """Event time."""
    action: str
    sent_ms: int


@dataclass(frozen=True, slots=True)
class Judged:
    """A click in its shopper's window."""

    click: Click
    place: int | None
    """Where the item stood in the shopper's list, from 1; None when it did not, or there was no list."""


@dataclass(slots=True)
class Shopper:
    """What is known about one shopper."""

    window: deque[Judged] = field(default_factory=lambda: deque(maxlen=WINDOW))
    recommendation: Recommendation | None = None
    unanswered: deque[Click] = field(default_factory=deque)
    """Clicks that no list knows yet, oldest first."""


class Scoreboard:
    """Counts over all shoppers, and each shopper's window and list."""

    def __init__(self, items: Mapping[str, int], popularity: Popularity, weights: Mapping[str, float]) -> None:
        """Start at nothing.

        Args:
            items: item numbers by id, as `popularity` knows them.
            popularity: what is popular so far; clicks are added to it.
            weights: action weights; clicks whose action does not weigh above 0 are no wish and are not judged.
        """
        self._items = items
        self._names = list(items)
        self._popularity = popularity
        self._weights = weights
        self._freshness_ms = np.zeros(_LONGEST_MS + 1, np.int64)
        self.shoppers: dict[str, Shopper] = {}
        self.clicks = 0
        self.lists = 0
        self.dead_letters = 0
        self.release = ""
        self.newest_user: str | None = None
        self._judged = 0
        self._hits = 0
        self._popular_hits = 0

    def clicked(self, click: Click) -> None:
        """A click was sent."""
        shopper = self.shoppers.setdefault(click.user, Shopper())
        self.clicks += 1
        wish = self._weights[click.action] > 0.0
        place = _place(shopper.recommendation, click.item)
        if wish and shopper.recommendation is not None:
            self._judged += 1
            self._hits += place is not None and place <= JUDGED
            count = min(JUDGED, len(shopper.recommendation.items))
            self._popular_hits += self._items[click.item] in self._popular(shopper, count)
        if wish:
            self._popularity.add(np.array([self._items[click.item]], np.int32), np.array([click.time_ms]))
        self.newest_user = click.user
        shopper.window.append(Judged(click, place if wish else None))
        shopper.unanswered.append(click)

    def listed(self, recommendation: Recommendation, received_ms: int) -> None:
        """A list arrived; it answers every click of its shopper up to the newest that it knows."""
        self.lists += 1
        self.release = recommendation.release
        shopper = self.shoppers.setdefault(recommendation.user, Shopper())
        shopper.recommendation = recommendation
        while shopper.unanswered and shopper.unanswered[0].time_ms <= recommendation.event_ms:
            waited_ms = received_ms - shopper.unanswered.popleft().sent_ms
            self._freshness_ms[min(max(waited_ms, 0), _LONGEST_MS)] += 1

    @property
    def all_answered(self) -> bool:
        """No click waits for its list."""
        return not any(shopper.unanswered for shopper in self.shoppers.values())

    @property
    def hit_rate(self) -> float:
        """Share of the judged clicks whose item was among the first places of the list."""
        return self._hits / max(self._judged, 1)

    @property
    def popularity_hit_rate(self) -> float:
        """The same, had the lists been what is popular."""
        return self._popular_hits / max(self._judged, 1)

    def freshness_ms(self, share: float) -> float:
        """The time within which this share of the clicks had its list, in milliseconds; 0 before the first."""
        counted = np.cumsum(self._freshness_ms)
        return float(np.searchsorted(counted, share * counted[-1])) if counted[-1] else 0.0

    def summary(self) -> dict[str, float]:
        """The figures by name."""
        return {
            "clicks": self.clicks,
            "lists": self.lists,
            "freshness_p50_ms": self.freshness_ms(0.5),
            "freshness_p99_ms": self.freshness_ms(0.99),
            "next_click_hit_rate": round(self.hit_rate, 4),
            "popularity_hit_rate": round(self.popularity_hit_rate, 4),
            "dead_letters": self.dead_letters,
        }

    def _popular(self, shopper: Shopper, count: int) -> set[int]:
        """The `count` most popular items among those that the shopper has not clicked lately."""
        clicked = {self._items[judged.click.item] for judged in shopper.window}
        popular = self._popularity.top(count + len(clicked)).tolist()
        return set([item for item in popular if item not in clicked][:count])


def _place(recommendation: Recommendation | None, item: str) -> int | None:
    listed = [] if recommendation is None else [place.item for place in recommendation.items]
    return listed.index(item) + 1 if item in listed else None
