"""Recommendations out: lists of many users to messages, and a message back to what it says."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from engine.arrays import FIRST_SEARCH, NO_ITEM
from engine.catalogue import searches
from engine.messages.recommendation import Because, ListedItem, Recommendation, _encode
from engine.ranking.lists import SOURCES, Lists

_SCORE_DIGITS: Final = 4


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
    """The messages of B lists, as bytes; see `recommendations`."""
    return [*map(_encode, recommendations(lists, heads, item_ids))]


def recommendations(
    lists: Lists, heads: ListHeads, item_ids: Callable[[Sequence[int]], list[str]]
) -> list[Recommendation]:
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
        Recommendation(
            id=heads.ids[user],
            user=heads.users[user],
            release=heads.release,
            event_ms=heads.event_ms[user],
            computed_ms=heads.computed_ms,
            items=places[user * count : user * count + lengths[user]],
            interests=reasons[user],
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
