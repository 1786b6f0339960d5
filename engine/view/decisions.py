"""Decisions: answers that can be continued and whose impressions can be checked, the newest of them."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from engine.view.http_messages import ItemsAnswer
from engine.view.item_queries import ItemQueries
from engine.view.requests import WindowQuery

DeeperItems = Callable[[ItemQueries, int], ItemsAnswer]
"""The first items, of that number, of an answer about items."""


@dataclass(frozen=True, slots=True)
class Decision:
    """An answer, and the items of the pages before it."""

    id: str
    """Of the newest page."""
    release: str
    """Name of the release that made it."""
    user: str
    """As windows name the user; empty for nobody."""
    page: int
    """From 1."""
    count: int
    """Items of a page."""
    shown: tuple[str, ...]
    """Items of all pages so far."""
    source: WindowQuery | DeeperItems | None = None
    """Makes the next page; None for a list that was pushed."""


class Decisions:
    """The last `most` decisions by id; a decision has the id of its newest page, and of every one before."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._by_id: OrderedDict[str, Decision] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._by_id)

    def put(self, decision: Decision) -> None:
        """Remember a decision; the oldest is dropped where there are too many."""
        with self._lock:
            self._by_id[decision.id] = decision
            if len(self._by_id) > self._most:
                self._by_id.popitem(last=False)

    def forget(self, user: str) -> None:
        """Drop the decisions about a user; may be called by any thread."""
        with self._lock:
            ids = [name for name, decision in self._by_id.items() if decision.user == user]
            for name in ids:
                del self._by_id[name]

    def find(self, decision_id: str) -> Decision | None:
        """The decision of an id; None where it was never made, or dropped."""
        return self._by_id.get(decision_id)
