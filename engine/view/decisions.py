"""Decisions: answers that can be continued, the newest of them."""

import threading
from collections import OrderedDict
from dataclasses import dataclass

from engine.view.requests import ComputedList


@dataclass(frozen=True, slots=True)
class Decision:
    """A list, and the items of the pages before it."""

    computed: ComputedList
    page: int
    """From 1."""
    shown: tuple[str, ...]
    """Items of all pages so far."""


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
            self._by_id[decision.computed.recommendation.id] = decision
            if len(self._by_id) > self._most:
                self._by_id.popitem(last=False)

    def forget(self, user: str) -> None:
        """Drop the decisions about a user; may be called by any thread."""
        with self._lock:
            ids = [name for name, decision in self._by_id.items() if decision.computed.query.user == user]
            for name in ids:
                del self._by_id[name]

    def find(self, decision_id: str) -> Decision | None:
        """The decision of an id; None where it was never made, or dropped."""
        return self._by_id.get(decision_id)
