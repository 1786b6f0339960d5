"""The message on the topic `impressions`: the items of one answer or pushed list that somebody was shown."""

from typing import Final

import msgspec

IMPRESSION_SCHEMA: Final = 1


class ShownItem(msgspec.Struct, frozen=True, gc=False):
    """One item that was shown."""

    item: str
    """Id of the item."""
    place: int
    """Place at which it was shown, from 1."""


class Impression(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """Items of a decision that a user was shown; the record's key is the user, and absent for a session.

    A report that is sent again is on the topic again: decision, item and `shown_ms` tell it from a second look.
    """

    schema: int = IMPRESSION_SCHEMA
    """Version of this schema."""
    decision: str
    """The `id` of the answer, or of the pushed list, that the items come from."""
    user: str
    """Id of the user, the pseudonym where there are some; empty for a session."""
    shown_ms: int
    """Time at which the items were shown, Unix milliseconds."""
    received_ms: int
    """Time at which the report was accepted, Unix milliseconds."""
    items: list[ShownItem]
    """Items that were shown, in the order of the report."""
    release: str = ""
    """Name of the release that made the list, model and version; empty where `is_known` is false."""
    is_known: bool = False
    """The server had the decision: its user is this one, and every item is one of its own. False where another server
    made it, or it was dropped since."""
