"""A recording in memory: recorded interactions as columns in order of time.

It takes 28 bytes an event, and each id of a user or an item once; more while it is read.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.arrays import Int64
from engine.interactions.columns import Names
from engine.interactions.interaction_reader import InteractionBatch, InteractionReader
from engine.interactions.layout import Source
from engine.settings.sections import ClickSettings


@dataclass(frozen=True, slots=True)
class Recording:
    """n recorded events in order of time; those of one moment in the order of the file."""

    users: Names
    items: Names
    """Ids of items, and of searches (`engine.catalogue.searches`)."""
    times_ms: Int64
    """[n] Unix milliseconds, ascending."""
    actions: Names | None
    """None where no event has one."""
    rows: Int64
    """[n] row of the file that each event came from, from 1 and without the header."""
    words: Names | None = None
    """Of searches, as they were typed; None where there are none."""
    event_ids: Names | None = None
    """None where they are not read, or no event has one."""

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, rows: Int64 | slice) -> "Recording":
        """Some rows of every column."""
        return Recording(
            users=self.users.select(rows),
            items=self.items.select(rows),
            times_ms=self.times_ms[rows],
            actions=self.actions and self.actions.select(rows),
            rows=self.rows[rows],
            words=self.words and self.words.select(rows),
            event_ids=self.event_ids and self.event_ids.select(rows),
        )


def read(
    source: Source | Path,
    clicks: ClickSettings = ClickSettings(),  # noqa: B008 - frozen
    *,
    event_ids: bool = False,
) -> Recording:
    """Read all of a source.

    Args:
        source: its place, and the choices of the command line.
        clicks: the settings.
        event_ids: whether ids of events are read, too.

    Raises:
        DataError: there is no such file, it cannot be read, lacks a column, is empty, or has an empty id or an
            unreadable time.
        MissingExtraError: the address has a scheme, and what its file system needs is not installed.
    """
    batches = list(InteractionReader(source, clicks, event_ids=event_ids).batches())
    times_ms = np.concatenate([batch.times_ms for batch in batches])
    recording = Recording(
        users=Names.together(batch.users for batch in batches),
        items=Names.together(batch.items for batch in batches),
        times_ms=times_ms,
        actions=_optional(batches, "actions"),
        rows=np.concatenate([batch.rows for batch in batches]),
        words=_optional(batches, "words"),
        event_ids=_optional(batches, "event_ids"),
    )
    return recording.select(np.argsort(times_ms, kind="stable"))


def _optional(batches: list[InteractionBatch], name: str) -> Names | None:
    """A column that may be missing from all batches, or from some."""
    columns: list[Names | None] = [getattr(batch, name) for batch in batches]
    if all(column is None for column in columns):
        return None
    given = zip(batches, columns, strict=True)
    return Names.together(Names.empty(len(batch)) if column is None else column for batch, column in given)
