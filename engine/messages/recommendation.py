"""The message on the topic `recommendations`: one list of one user, and its decoding."""

from typing import Final, Literal

import msgspec

from engine.errors import MessageError

RECOMMENDATION_SCHEMA: Final = 1
_SHOWN_BYTES: Final = 40


class ListedItem(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One place of a list."""

    item: str
    score: float
    source: str
    """One of `engine.ranking.lists.SOURCES`."""
    interest: int = -1
    """Index into the list's `interests`; absent when no interest found the item."""


class Reason(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A click or search that weighed in an interest."""

    item: str
    """Id of the item clicked; of a search, its words."""
    share: float
    """Share of the interest's attention, 0 to 1."""
    kind: Literal["item", "search"] = "item"
    """Absent for a click on an item."""


class Recommendation(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A list of recommendations, as it stands on the topic `recommendations`."""

    schema: int = RECOMMENDATION_SCHEMA
    id: str
    """Input partition, offset of the newest click in the batch, and release: a repeat has the same id."""
    user: str
    release: str
    event_ms: int
    """Event time of the newest click that the list knows."""
    computed_ms: int
    items: list[ListedItem]
    """Best first."""
    interests: list[list[Reason]]
    """For each interest, the clicks and searches that weigh most in it; empty for a user of whom nothing is known."""


_encode: Final = msgspec.json.Encoder().encode
_recommendation: Final = msgspec.json.Decoder(Recommendation)


def decode_recommendation(value: bytes) -> Recommendation:
    """A list from its message.

    Raises:
        MessageError: it is none.
    """
    try:
        return _recommendation.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MessageError(
            f"found a message that begins with {value[:_SHOWN_BYTES]!r}, expected a list as on the topic of"
            f" recommendations: {error}; check which topic it came from"
        ) from error
