"""Recorded interactions, read into columns in order of time.

Events are sorted by time with a stable sort: the file's order decides ties. Ratings entered in one go share a second,
and a sort that shuffles them would change a quarter of all next-item targets of MovieLens.

All of it is in memory here, which evaluation needs. Training has a way past that (`models.data.histories`).
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import numpy as np

from engine.arrays import FIRST_SEARCH, Bool, Int32, Int64
from models.data import archive, histories
from models.data.archive import Source
from models.data.histories import Timelines


@dataclass(frozen=True, slots=True)
class Interactions:
    """n events of U users with V items and Q searches, in order of time."""

    users: Int32
    """[n] user numbers, 0 to U - 1."""
    items: Int32
    """[n] item numbers, 0 to V - 1, and of searches FIRST_SEARCH to FIRST_SEARCH + Q - 1."""
    times_ms: Int64
    """[n] event times, Unix milliseconds, ascending."""
    actions: Int32
    """[n] action numbers."""
    user_ids: list[str]
    """U ids, by user number."""
    item_ids: list[str]
    """V ids, by item number."""
    action_names: list[str]
    """Names, by action number; the empty name where the data has none."""
    search_ids: list[str] = field(default_factory=list)
    """Q ids (`engine.catalogue.searches`), by number less FIRST_SEARCH."""

    def __len__(self) -> int:
        return len(self.users)

    def select(self, mask: Bool) -> Self:
        """The events under `mask` [n]; numbers and ids stay as they are."""
        return replace(
            self,
            users=self.users[mask],
            items=self.items[mask],
            times_ms=self.times_ms[mask],
            actions=self.actions[mask],
        )

    def clicks(self) -> Bool:
        """[n] marks the events that are no searches."""
        return self.items < FIRST_SEARCH

    def without_searches(self) -> Self:
        """The clicks alone."""
        return replace(self.select(self.clicks()), search_ids=[]) if self.search_ids else self

    def by_user(self) -> Int64:
        """[n] order that puts the events of each user together, oldest first."""
        return np.argsort(self.users, kind="stable")

    def timelines(self) -> Timelines:
        """The same events, user by user."""
        order = self.by_user()
        return Timelines(
            items=self.items[order],
            times_ms=self.times_ms[order],
            actions=self.actions[order].astype(np.uint8),
            starts=np.searchsorted(self.users[order], np.arange(len(self.user_ids) + 1)),
            item_ids=self.item_ids,
            action_names=self.action_names,
            users_digest=histories.digest(self.user_ids),
            search_ids=self.search_ids,
        )

    def fingerprint(self) -> str:
        """SHA-256 over all columns and ids: two datasets with the same one (and the same items file) train alike."""
        return self.timelines().fingerprint()


def read(source: Source | Path) -> Interactions:
    """Read the interactions of a source, or of a path with the usual layout.

    Raises:
        DataError: there is no such file, it cannot be parsed, lacks a column, has empty fields, or too little in it.
    """
    opened = archive.open_source(source)
    chunks = list(opened.chunks())
    times_ms = np.concatenate([chunk.times_ms for chunk in chunks])
    order = np.argsort(times_ms, kind="stable")
    return Interactions(
        users=np.concatenate([chunk.users for chunk in chunks])[order],
        items=np.concatenate([chunk.items for chunk in chunks])[order],
        times_ms=times_ms[order],
        actions=np.concatenate([chunk.actions for chunk in chunks])[order].astype(np.int32),
        user_ids=opened.users.ids(range(len(opened.users))),
        item_ids=opened.items.ids(range(len(opened.items))),
        action_names=opened.actions.ids(range(len(opened.actions))),
        search_ids=opened.search_ids(),
    )
