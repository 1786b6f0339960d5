"""Recorded interactions in numbers: every user's, item's, search's and action's id by order of appearance.

What has to fit in memory is each id once (some 150 bytes), and one batch (`engine.interactions.interaction_reader`).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from engine.arrays import FIRST_SEARCH, Bool, Int32, Int64, UInt8
from engine.catalogue.ids import Catalogue
from engine.errors import DataError
from engine.interactions.columns import Names
from engine.interactions.interaction_reader import InteractionBatch, InteractionReader
from engine.interactions.layout import Meaning, Source
from engine.settings.sections import ClickSettings

MAX_ACTIONS: Final = 255
_SEARCH: Final = "search"
"""Name of the action of searches, where actions have names: what one counts as is not for the file to say
(`clicks.search_action`)."""


@dataclass(frozen=True, slots=True)
class NumberedBatch:
    """n events in the order of the file."""

    users: Int32
    items: Int32
    times_ms: Int64
    actions: UInt8

    def __len__(self) -> int:
        return len(self.users)


class IdNumbers(dict[str, int]):
    """Numbers of ids, by order of appearance; an id that is not there gets the next number."""

    def __missing__(self, name: str) -> int:
        number = self[name] = len(self)
        return number

    def of(self, names: Names) -> Int32:
        """[n] number of each entry."""
        return np.fromiter(map(self.__getitem__, names.names), np.int32, len(names.names))[names.codes]


class NumberedInteractions:
    """One source, opened, and the numbers of the ids read so far."""

    def __init__(self, source: Source | Path, clicks: ClickSettings = ClickSettings()) -> None:  # noqa: B008 - frozen
        """Find the files of a source.

        Raises:
            DataError: there are none, they cannot be read, or lack a column.
            MissingExtraError: the address has a scheme, and what its file system needs is not installed.
        """
        self._reader = InteractionReader(source, clicks)
        self.address = self._reader.address
        self.users, self.actions = IdNumbers(), IdNumbers()
        self.items = Catalogue()
        """Searches among them, with numbers of their own."""

    @property
    def has_one_time(self) -> bool:
        """Whether all events read so far happened at once."""
        return self._reader.times.earliest_ms == self._reader.times.latest_ms

    def item_ids(self) -> list[str]:
        """Ids of the items read so far, by number."""
        return self.items.ids(range(len(self.items)))

    def search_ids(self) -> list[str]:
        """Ids of the searches read so far, by number less FIRST_SEARCH."""
        return self.items.ids(range(FIRST_SEARCH, FIRST_SEARCH + self.items.searches))

    def stamp(self) -> list[Any]:
        """What is read, and how: what has the same stamp holds the same events."""
        return self._reader.stamp()

    def batches(self) -> Iterator[NumberedBatch]:
        """All events, once.

        Raises:
            DataError: a row cannot be read, or there is too little in all.
        """
        events = 0
        for batch in self._reader.batches():
            events += len(batch)
            items = self.items.numbers(batch.items.names)[batch.items.codes]
            yield NumberedBatch(
                users=self.users.of(batch.users),
                items=items,
                times_ms=batch.times_ms,
                actions=self._action_numbers(batch, items >= FIRST_SEARCH),
            )
        self._refuse_trivial(events)

    def _action_numbers(self, batch: InteractionBatch, searched: Bool) -> UInt8:
        """[n] numbers of actions; the empty name is that of events without one."""
        names = Names.empty(len(batch)) if batch.actions is None else batch.actions
        if batch.actions is not None and searched.any():
            codes = np.where(searched, np.int32(len(names.names)), names.codes)
            names = Names(codes, [*names.names, _SEARCH]).in_order()
        numbers = self.actions.of(names)
        if len(self.actions) > MAX_ACTIONS:
            raise DataError(
                f"{self.address}, row {batch.rows[0]} and after: column {self._column('action')} holds more than"
                f" {MAX_ACTIONS} different names; an action is one of a few: name another column (--action-column)"
            )
        return numbers.astype(np.uint8)

    def _column(self, meaning: Meaning) -> str:
        return self._reader.columns.names.get(meaning, meaning)

    def _refuse_trivial(self, events: int) -> None:
        """Refuse what leaves nothing to tell apart."""
        known: dict[Meaning, list[str]] = {"user": list(self.users), "item": self.item_ids()}
        for meaning, ids in known.items():
            if len(ids) < 2:  # noqa: PLR2004 - one of a kind
                counted = f"1 {meaning}, {ids[0]!r}," if ids else f"no {meaning}"
                raise DataError(
                    f"{self.address} has {counted} in all of its {events} events; at least 2 are needed to learn"
                    f" anything: is column {self._column(meaning)} the right one?"
                )
