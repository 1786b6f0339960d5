"""Recorded interactions in memory, as columns in order of time.

Events are sorted by time with a stable sort: the file's order decides ties. Ratings entered in one go share a second,
and a sort that shuffles them would change a quarter of all next-item targets of MovieLens.

Evaluation needs all of it in memory. Training does not (`models.data.histories`).
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import numpy as np

from engine.arrays import FIRST_SEARCH, Bool, Int32, Int64
from engine.interactions.layout import Source
from engine.settings.sections import ClickSettings
from models.data import histories
from models.data.histories import RecordedHistories
from models.data.numbering import NumberedInteractions


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
    """[n] numbers of the actions by name (`models.data.action_names` turns them into codes)."""
    user_ids: list[str]
    """U ids, by user number."""
    item_ids: list[str]
    """V ids, by item number."""
    action_names: list[str]
    """Names, by action number; the empty name is that of events without an action."""
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
        return histories.by_user(self.users, len(self.user_ids))[0]

    def histories(self) -> RecordedHistories:
        """The same events, user by user."""
        order, starts = histories.by_user(self.users, len(self.user_ids))
        return RecordedHistories(
            items=self.items[order],
            times_ms=self.times_ms[order],
            actions=self.actions[order].astype(np.uint8),
            starts=starts,
            item_ids=self.item_ids,
            action_names=self.action_names,
            users_digest=histories.digest(self.user_ids),
            search_ids=self.search_ids,
        )

    def fingerprint(self) -> str:
        """SHA-256 over all columns and ids: two datasets with the same one (and the same items file) train alike."""
        return self.histories().fingerprint()


def read(source: Source | Path, clicks: ClickSettings = ClickSettings()) -> Interactions:  # noqa: B008 - frozen
    """Read the interactions of a source.

    Raises:
        DataError: there is no such file, it cannot be parsed, lacks a column, has empty fields, or too little in it.
        MissingExtraError: the address has a scheme, and what its file system needs is not installed.
    """
    archive = NumberedInteractions(source, clicks)
    batches = list(archive.batches())
    times_ms = np.concatenate([batch.times_ms for batch in batches])
    order = np.argsort(times_ms, kind="stable")
    return Interactions(
        users=np.concatenate([batch.users for batch in batches])[order],
        items=np.concatenate([batch.items for batch in batches])[order],
        times_ms=times_ms[order],
        actions=np.concatenate([batch.actions for batch in batches])[order].astype(np.int32),
        user_ids=list(archive.users),
        item_ids=archive.item_ids(),
        action_names=list(archive.actions),
        search_ids=archive.search_ids(),
    )
