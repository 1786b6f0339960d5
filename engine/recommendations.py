"""Recommendations out: lists of many users to messages, and a message back to what it says."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import msgspec
import numpy as np

from engine import searches
from engine.columns import FIRST_SEARCH, NO_ITEM
from engine.pipeline import SOURCES, Lists

RECOMMENDATION_SCHEMA: Final = 1
_SCORE_DIGITS: Final = 4


class ListedItem(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One place of a list."""

    item: str
    score: float
    source: str
    """One of `engine.pipeline.SOURCES`."""
    interest: int = -1
    """Index into the list's `interests`; absent when no interest found the item."""


class Because(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
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
    interests: list[list[Because]]
    """For each interest, the clicks and searches that weigh most in it; empty for a user of whom nothing is known."""


_encode: Final = msgspec.json.Encoder().encode
_recommendation: Final = msgspec.json.Decoder(Recommendation)


def decode_recommendation(value: bytes) -> Recommendation:
    """A list from its message.

    Raises:
        msgspec.DecodeError: it is none.
    """
    return _recommendation.decode(value)


@dataclass(frozen=True, slots=True)
class ListHeads:
    """What a list's message says beside its items, as columns of B users."""

    ids: list[str]
    users: list[str]
    event_ms: list[int]
    release: str
    computed_ms: int


def encode_recommendations(
    lists: Lists, heads: ListHeads, item_ids: Callable[[Sequence[int]], list[str]]
) -> list[bytes]:
    """The messages of B lists.

    Args:
        lists: B lists.
        heads: B heads.
        item_ids: item numbers to ids (`Catalogue.ids`).
    """
    users, count = lists.items.shape
    there = lists.items != NO_ITEM
    names = item_ids(np.maximum(lists.items, 0).ravel().tolist())
    scores = np.round(lists.scores.astype(np.float64), _SCORE_DIGITS).ravel().tolist()
    sources = [SOURCES[code] for code in lists.sources.ravel().tolist()]
    places = list(map(ListedItem, names, scores, sources, lists.interests.ravel().tolist()))
    lengths = there.sum(axis=1).tolist()
    reasons = _reasons(lists, item_ids)
    return [
        _encode(
            Recommendation(
                id=heads.ids[user],
                user=heads.users[user],
                release=heads.release,
                event_ms=heads.event_ms[user],
                computed_ms=heads.computed_ms,
                items=places[user * count : user * count + lengths[user]],
                interests=reasons[user],
            )
        )
        for user in range(users)
    ]


def _reasons(lists: Lists, item_ids: Callable[[Sequence[int]], list[str]]) -> list[list[list[Because]]]:
    users, interests, most = lists.because.shape
    if not most:
        return [[] for _ in range(users)]
    names = item_ids(np.maximum(lists.because, 0).ravel().tolist())
    shares = np.round(lists.shares.astype(np.float64), _SCORE_DIGITS).ravel().tolist()
    clicks = list(map(Because, names, shares))
    for place in np.flatnonzero(lists.because >= FIRST_SEARCH).tolist():
        clicks[place] = Because(searches.words_of(names[place]), shares[place], "search")
    lengths = (lists.because != NO_ITEM).sum(axis=2)
    nested = []
    for user, of_user in enumerate(lengths.tolist()):
        start = user * interests * most
        groups = [clicks[start + k * most : start + k * most + n] for k, n in enumerate(of_user)]
        nested.append(groups if any(of_user) else [])
    return nested
