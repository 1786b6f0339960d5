"""The message on the topic `recommendations`: one list of one user, and its decoding."""

from typing import Final

import msgspec

from engine.errors import MessageError

RECOMMENDATION_SCHEMA: Final = 1
_SHOWN_BYTES: Final = 40


class ListedItem(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One item of a list."""

    item: str
    """Id of the item."""
    score: float
    """Inner product of interest and item vector plus the parts of neighbours and popularity, after pushing away; 0 for
    a popular item in a place that nothing else filled."""
    source: str
    """Where the item comes from: `interest`, `neighbour` (of an item in the window) or `popular`."""
    interest: int = -1
    """Index into the list's `interests`, of the nearest one; absent for a popular item and one without a vector."""
    neighbour_of: str = ""
    """Id of the item in the window that others clicked near this one; only where `source` is `neighbour`."""
    release: str = ""
    """Name of the release that put the item on this place; only in a list that two releases made together."""


class Reason(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A click or search that weighed in an interest."""

    item: str
    """Id of the item clicked; for a search, its words."""
    share: float
    """Share of the interest's attention, 0 to 1."""
    kind: str = "item"
    """`item` or `search`; absent for a click on an item."""


class Recommendation(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A list of recommendations for one user; the record's key is the user, and a null deletes the list."""

    schema: int = RECOMMENDATION_SCHEMA
    """Version of this schema."""
    id: str
    """Input partition, offset of the user's newest click in the batch, and release; in a canary or experiment also the
    arm: a repeat has the same id. Reports of what was shown name the list by it."""
    user: str
    """Id of the user."""
    release: str
    """Name of the release that made the list: model and version. Of two that made it together, both."""
    event_ms: int
    """Event time of the newest click in the user's window, Unix milliseconds."""
    computed_ms: int
    """Time at which the list was made, Unix milliseconds."""
    items: list[ListedItem]
    """Recommended items, best first."""
    interests: list[list[Reason]]
    """For each interest, the clicks and searches that weigh most in it; empty for a user of whom nothing is known."""
    experiment: str = ""
    """Name of the experiment that the user is in; empty for none."""
    arm: str = ""
    """Name of the user's arm in it."""


_encode: Final = msgspec.json.Encoder().encode
_recommendation: Final = msgspec.json.Decoder(Recommendation)


def decode_recommendation(value: bytes) -> Recommendation:
    """A list from its message.

    Raises:
        MessageError: the message is no list.
    """
    try:
        return _recommendation.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MessageError(
            f"found a message that begins with {value[:_SHOWN_BYTES]!r}, expected a list as on the topic of"
            f" recommendations: {error}; check which topic it came from"
        ) from error
