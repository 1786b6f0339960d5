"""View model of the demo: the state of the scoreboard and the simulation at one moment, as a `Frame`."""

from collections import deque
from operator import itemgetter
from typing import Final

from producers.demo.scoreboard import Scoreboard
from producers.demo.screen import Frame, Spotlight
from producers.simulation.shoppers import Simulation, shopper_number
from producers.simulation.simulated_catalogue import CATEGORIES, TOPICS_PER_CATEGORY

SPOTLIGHT_S: Final = 12.0
"""Seconds for which one shopper is shown."""
SPOTLIGHT_CLICKS: Final = 4
"""A shopper with fewer clicks is not shown: there is little to see yet."""
_RATE_SPAN_S: Final = 5.0
"""Rates are those of the last seconds."""


class DemoView:
    """Frames of a run; holds the counts that rates need, and the shopper shown now."""

    def __init__(self, simulation: Simulation, scoreboard: Scoreboard, transport: str) -> None:
        self._simulation = simulation
        self._scoreboard = scoreboard
        self._transport = transport
        self._categories = dict(zip(simulation.catalogue.ids, simulation.catalogue.categories, strict=True))
        self._counts: deque[tuple[float, int, int]] = deque([(0.0, 0, 0)])  # elapsed seconds, clicks, lists
        self._user: str | None = None
        self._shown_since_s = 0.0

    def frame(self, elapsed_s: float) -> Frame:
        """The frame at `elapsed_s` seconds after the start."""
        scoreboard = self._scoreboard
        clicks_per_s, lists_per_s = self._rates(elapsed_s)
        return Frame(
            elapsed_s=elapsed_s,
            clicks=scoreboard.clicks,
            clicks_per_s=clicks_per_s,
            lists_per_s=lists_per_s,
            freshness_p50_ms=scoreboard.freshness_ms(0.5),
            freshness_p99_ms=scoreboard.freshness_ms(0.99),
            hit_rate=scoreboard.hit_rate,
            popularity_hit_rate=scoreboard.popularity_hit_rate,
            dead_letters=scoreboard.dead_letters,
            release=scoreboard.release,
            transport=self._transport,
            spotlight=self._spotlight(elapsed_s),
        )

    def _rates(self, elapsed_s: float) -> tuple[float, float]:
        """Clicks and lists per second, over the last seconds."""
        scoreboard = self._scoreboard
        self._counts.append((elapsed_s, scoreboard.clicks, scoreboard.lists))
        while self._counts[0][0] < elapsed_s - _RATE_SPAN_S:
            self._counts.popleft()
        since_s, clicks, lists = self._counts[0]
        span_s = max(elapsed_s - since_s, 1e-3)
        return (scoreboard.clicks - clicks) / span_s, (scoreboard.lists - lists) / span_s

    def _spotlight(self, elapsed_s: float) -> Spotlight | None:
        """The shopper shown now; after SPOTLIGHT_S the one who clicked last, given a list and enough clicks."""
        newest = self._scoreboard.newest_user
        if newest and (self._user is None or elapsed_s - self._shown_since_s >= SPOTLIGHT_S):
            candidate = self._scoreboard.shoppers[newest]
            if candidate.recommendation is not None and len(candidate.window) >= SPOTLIGHT_CLICKS:
                self._user, self._shown_since_s = newest, elapsed_s
        return self._spotlight_on(self._user) if self._user else None

    def _spotlight_on(self, user: str) -> Spotlight | None:
        shopper, number = self._scoreboard.shoppers[user], shopper_number(user)
        if shopper.recommendation is None:
            return None
        chances = zip(self._simulation.catalogue.ids, self._simulation.relevance(number).tolist(), strict=True)
        return Spotlight(
            user=user,
            interests=self._interests(number),
            window=list(shopper.window),
            recommendation=shopper.recommendation,
            chances=dict(chances),
            categories=self._categories,
        )

    def _interests(self, shopper: int) -> list[tuple[str, float]]:
        """Categories that the shopper is interested in, each with its weight, the heaviest first."""
        weights: dict[str, float] = {}
        topics, shares = self._simulation.interests(shopper)
        for topic, share in zip(topics.tolist(), shares.tolist(), strict=True):
            name = CATEGORIES[topic // TOPICS_PER_CATEGORY]
            weights[name] = weights.get(name, 0.0) + share
        return sorted(weights.items(), key=itemgetter(1), reverse=True)
