"""The lists last shown to each user: what next clicks are judged by where exposure is by impressions. Pure.

A click is judged by the list that was shown last before it. Of each user the last few lists are kept, as reports and
clicks come on different ways: when a click is judged, the list that it led to may have been shown already.
"""

import sys
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Final

from engine.quality.next_click import PLACES

_LISTS: Final = 4
"""Lists kept of a user: a click waits for some seconds, in which nobody is shown more of them."""


@dataclass(slots=True)
class ShownList:
    """One list that was shown to one user, in one report or in several."""

    decision: int
    """Hash of the list's id."""
    group: int
    """Arm and cluster of the user, as of `engine.releases.arms.Arms`."""
    teams: tuple[int, ...]
    """Release of each of the first places of the list, where two made it; empty where one did."""
    first_ms: int
    """Time at which anything of it was shown first."""
    last_ms: int
    """Time at which anything of it was shown last."""
    items: list[str | None] = field(default_factory=lambda: [None] * PLACES)
    """The item on each of the first places; None where none is known."""

    def rank(self, item: str) -> int:
        """The place at which an item was shown; 0 where it was not, or further down."""
        return self.items.index(item) + 1 if item in self.items else 0

    def seen_ms(self, time_ms: int) -> int:
        """The last time, up to this one, at which it is known to have been shown."""
        return self.last_ms if self.last_ms <= time_ms else self.first_ms


class ShownLists:
    """The last lists of the users who were shown one most recently. The same report twice changes nothing."""

    def __init__(self, users: int) -> None:
        """Begin empty; `users` is the capacity."""
        self._users = users
        self._lists: OrderedDict[str, list[ShownList]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._lists)

    def show(self, user: str, shown: ShownList, items: Iterable[tuple[str, int]]) -> None:
        """Add a report: items with their places, and the list that they come from, shown at one time."""
        lists = self._lists.setdefault(user, [])
        self._lists.move_to_end(user)
        known = next((known for known in lists if known.decision == shown.decision), None)
        if known is None:
            known = shown
            lists.append(shown)
        known.first_ms = min(known.first_ms, shown.first_ms)
        known.last_ms = max(known.last_ms, shown.last_ms)
        for item, place in items:
            if place <= PLACES:
                known.items[place - 1] = sys.intern(item)
        if len(lists) > _LISTS:
            lists.remove(min(lists, key=attrgetter("last_ms")))
        if len(self._lists) > self._users:
            self._lists.popitem(last=False)

    def before(self, user: str, time_ms: int) -> ShownList | None:
        """The list that a user had been shown last at this time, if one is known."""
        earlier = [shown for shown in self._lists.get(user, ()) if shown.first_ms <= time_ms]
        return max(earlier, key=lambda shown: shown.seen_ms(time_ms), default=None)

    def forget(self, user: str) -> None:
        """Forget what was shown to a user."""
        self._lists.pop(user, None)

    def clear(self) -> None:
        """Forget everything."""
        self._lists.clear()
