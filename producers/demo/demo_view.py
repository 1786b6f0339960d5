"""Takes the pictures of the demo: what the scoreboard and the simulation say at one moment, as a `Frame`."""

from collections import deque
from operator import itemgetter
from typing import Final

from producers.demo.scoreboard import Scoreboard
from producers.demo.screen import Frame, Spotlight
from producers.simulation.shoppers import Simulation, shopper_number
from producers.simulation.simulated_catalogue import CATEGORIES, TOPICS_PER_CATEGORY

SPOTLIGHT_S: Final = 12.0
"""A shopper is on show for this long."""
SPOTLIGHT_CLICKS: Final = 4
"""A shopper with fewer clicks is not shown: there is little to see yet."""
_RATE_SPAN_S: Final = 5.0


class DemoView:
    """Remembers what it takes to tell rates, and which shopper is on show since when."""

    def __init__(self, simulation: Simulation, board: Scoreboard, where: str) -> None:
        self._simulation = simulation
        self._board = board
        self._where = where
        self._categories = dict(zip(simulation.catalogue.ids, simulation.catalogue.categories, strict=True))
        self._past: deque[tuple[float, int, int]] = deque([(0.0, 0, 0)])  # elapsed seconds, clicks, lists
        self._user: str | None = None
        self._shown_since_s = 0.0

    def frame(self, elapsed_s: float) -> Frame:
        """The picture `elapsed_s` after the beginning."""
        board = self._board
        clicks_per_s, lists_per_s = self._rates(elapsed_s)
        return Frame(
            elapsed_s=elapsed_s,
            clicks=board.clicks,
            clicks_per_s=clicks_per_s,
            lists_per_s=lists_per_s,
            freshness_p50_ms=board.freshness_ms(0.5),
            freshness_p99_ms=board.freshness_ms(0.99),
            hit_rate=board.hit_rate,
            popularity_hit_rate=board.popularity_hit_rate,
            dead_letters=board.dead_letters,
            release=board.release,
            where=self._where,
            spotlight=self._spotlight(elapsed_s),
        )

    def _rates(self, elapsed_s: float) -> tuple[float, float]:
        """Clicks and lists per second, over the last seconds."""
        self._past.append((elapsed_s, self._board.clicks, self._board.lists))
        while self._past[0][0] < elapsed_s - _RATE_SPAN_S:
            self._past.popleft()
        since_s, clicks, lists = self._past[0]
        span_s = max(elapsed_s - since_s, 1e-3)
        return (self._board.clicks - clicks) / span_s, (self._board.lists - lists) / span_s

    def _spotlight(self, elapsed_s: float) -> Spotlight | None:
        """The shopper on show; when its time is over, whoever clicked last and has clicked enough."""
        newest = self._board.newest_user
        if newest and (self._user is None or elapsed_s - self._shown_since_s >= SPOTLIGHT_S):
            candidate = self._board.shoppers[newest]
            if candidate.recommendation is not None and len(candidate.window) >= SPOTLIGHT_CLICKS:
                self._user, self._shown_since_s = newest, elapsed_s
        return self._of(self._user) if self._user else None

    def _of(self, user: str) -> Spotlight | None:
        shopper, number = self._board.shoppers[user], shopper_number(user)
        if shopper.recommendation is None:
            return None
        chances = zip(self._simulation.catalogue.ids, self._simulation.relevance(number).tolist(), strict=True)
        return Spotlight(
            user=user,
            truth=self._truth(number),
            window=list(shopper.window),
            recommendation=shopper.recommendation,
            chances=dict(chances),
            categories=self._categories,
        )

    def _truth(self, shopper: int) -> list[tuple[str, float]]:
        """The categories that the shopper is interested in, and how much, the foremost first."""
        weights: dict[str, float] = {}
        topics, shares = self._simulation.interests(shopper)
        for topic, share in zip(topics.tolist(), shares.tolist(), strict=True):
            name = CATEGORIES[topic // TOPICS_PER_CATEGORY]
            weights[name] = weights.get(name, 0.0) + share
        return sorted(weights.items(), key=itemgetter(1), reverse=True)
