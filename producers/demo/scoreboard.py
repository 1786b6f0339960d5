"""Scoreboard of the demo: freshness of lists, and the share of clicks that the last list of their shopper held.

Pure: clicks and lists are added in the order of the times that come with them. A click is judged by the rule of
`engine.quality.next_click`, as a worker judges it, but by the list that had arrived before the click was sent.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from engine.arrays import NO_ITEM, Int32
from engine.messages.recommendation import Recommendation
from engine.quality.next_click import PLACES, popular_hits, target_ranks
from engine.ranking.popularity import Popularity

WINDOW: Final = 100
"""Clicks of a shopper that are kept for the screen."""
_MAX_FRESHNESS_MS: Final = 60_000
"""Longer times are counted as this one."""


@dataclass(frozen=True, slots=True)
class Click:
    """One click as it was sent."""

    user: str
    item: str
    time_ms: int
    """Event time, Unix milliseconds."""
    action: str
    sent_ms: int
    """Time of sending, Unix milliseconds."""


@dataclass(frozen=True, slots=True)
class RankedClick:
    """A click with the rank of its item in the shopper's list before it."""

    click: Click
    rank: int | None
    """From 1; None where the list did not hold the item, there was no list, or the action is not positive."""


@dataclass(slots=True)
class Shopper:
    """The latest clicks of one shopper, and the latest list."""

    window: deque[RankedClick] = field(default_factory=lambda: deque(maxlen=WINDOW))
    recommendation: Recommendation | None = None
    listed: Int32 = field(default_factory=lambda: np.empty((1, 0), np.int32))
    """[1, N] item numbers of that list."""
    unanswered: deque[Click] = field(default_factory=deque)
    """Clicks newer than every list, oldest first."""


class Scoreboard:
    """Counts over all shoppers, and each shopper's latest clicks and list."""

    def __init__(self, items: Mapping[str, int], popularity: Popularity, weights: Mapping[str, float]) -> None:
        """Start with counts of zero.

        Args:
            items: item numbers by id, as in `popularity`.
            popularity: events per item so far; clicks are added to it.
            weights: action weights by name; clicks whose action has a weight of 0 or below are not compared with lists.
        """
        self._items = items
        self._popularity = popularity
        self._weights = weights
        self._freshness_ms = np.zeros(_MAX_FRESHNESS_MS + 1, np.int64)
        self.shoppers: dict[str, Shopper] = {}
        self.clicks = 0
        self.lists = 0
        self.dead_letters = 0
        self.release = ""
        self.newest_user: str | None = None
        self._ranked = 0
        self._hits = 0
        self._popular_hits = 0

    def add_click(self, click: Click) -> None:
        """Count a click that was sent, and compare it with its shopper's list."""
        shopper = self.shoppers.setdefault(click.user, Shopper())
        self.clicks += 1
        is_positive = self._weights[click.action] > 0.0
        item = self._numbers([click.item])  # [1]
        rank = int(target_ranks(shopper.listed, item)[0]) if shopper.listed.size else 0
        if is_positive and shopper.recommendation is not None:
            self._ranked += 1
            self._hits += 0 < rank <= PLACES
            window = self._numbers([ranked.click.item for ranked in shopper.window])[None]  # [1, L]
            count = np.array([min(PLACES, shopper.listed.shape[1])])
            self._popular_hits += int(popular_hits(self._popularity, item, window, count)[0])
        if is_positive:
            self._popularity.add(item, np.array([click.time_ms]))
        self.newest_user = click.user
        shopper.window.append(RankedClick(click, rank if is_positive and rank else None))
        shopper.unanswered.append(click)

    def add_list(self, recommendation: Recommendation, received_ms: int) -> None:
        """Count a list that arrived; it answers every click of its shopper up to its `event_ms`."""
        self.lists += 1
        self.release = recommendation.release
        shopper = self.shoppers.setdefault(recommendation.user, Shopper())
        shopper.recommendation = recommendation
        shopper.listed = self._numbers([listed.item for listed in recommendation.items])[None]
        while shopper.unanswered and shopper.unanswered[0].time_ms <= recommendation.event_ms:
            freshness_ms = received_ms - shopper.unanswered.popleft().sent_ms
            self._freshness_ms[min(max(freshness_ms, 0), _MAX_FRESHNESS_MS)] += 1

    @property
    def all_answered(self) -> bool:
        """True when every click has been answered by a list."""
        return not any(shopper.unanswered for shopper in self.shoppers.values())

    @property
    def hit_rate(self) -> float:
        """Share of the positive clicks after a list whose item was among its first PLACES."""
        return self._hits / max(self._ranked, 1)

    @property
    def popularity_hit_rate(self) -> float:
        """Share of the same clicks whose item was among as many popular items."""
        return self._popular_hits / max(self._ranked, 1)

    def freshness_ms(self, share: float) -> float:
        """Quantile of the time from a click to the list that answers it, in milliseconds; 0 before the first list."""
        cumulative = np.cumsum(self._freshness_ms)
        return float(np.searchsorted(cumulative, share * cumulative[-1])) if cumulative[-1] else 0.0

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

    def _numbers(self, items: Sequence[str]) -> Int32:
        """[n] numbers of these items; NO_ITEM for those that are not in the catalogue."""
        return np.array([self._items.get(item, NO_ITEM) for item in items], np.int32)
