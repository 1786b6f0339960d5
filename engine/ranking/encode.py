"""Encoding of lists: the arrays of many users as messages of the topic of recommendations."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np

from engine.arrays import FIRST_SEARCH, NO_ITEM, Int8
from engine.catalogue import searches
from engine.messages.recommendation import ListedItem, Reason, Recommendation, _encode
from engine.ranking.lists import SOURCES, Lists

_SCORE_DIGITS: Final = 4


@dataclass(frozen=True, slots=True)
class ListHeads:
    """The fields of B lists' messages but for items and interests, as columns (`Recommendation` describes them)."""

    ids: list[str]
    users: list[str]
    event_ms: list[int]
    release: str
    computed_ms: int
    teams: Int8 | None = None
    """[B, N] index into `team_releases` of the release that put the item on each place; None where one made all."""
    team_releases: Sequence[str] = ()
    experiment: str = ""
    arm: str = ""


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
        heads: the other fields of the same B messages.
        item_ids: item numbers to ids (`Catalogue.ids`).
    """
    users, count = lists.items.shape
    names = item_ids(np.maximum(lists.items, 0).ravel().tolist())
    scores = np.round(lists.scores.astype(np.float64), _SCORE_DIGITS).ravel().tolist()
    sources = [SOURCES[code] for code in lists.sources.ravel().tolist()]
    listed = list(map(ListedItem, names, scores, sources, lists.interests.ravel().tolist()))
    _name_origins(listed, lists, item_ids)
    if heads.teams is not None:
        for index, team in enumerate(heads.teams.ravel().tolist()):
            listed[index] = msgspec.structs.replace(listed[index], release=heads.team_releases[team])
    lengths = (lists.items != NO_ITEM).sum(axis=1).tolist()
    reasons = _reasons(lists, item_ids)
    return [
        Recommendation(
            id=heads.ids[user],
            user=heads.users[user],
            release=heads.release,
            event_ms=heads.event_ms[user],
            computed_ms=heads.computed_ms,
            items=listed[user * count : user * count + lengths[user]],
            interests=reasons[user],
            experiment=heads.experiment,
            arm=heads.arm,
        )
        for user in range(users)
    ]


def _name_origins(listed: list[ListedItem], lists: Lists, item_ids: Callable[[Sequence[int]], list[str]]) -> None:
    """Complete the listed items that are neighbours of another."""
    origins = lists.origins.ravel()
    neighbours = np.flatnonzero(origins != NO_ITEM)
    for index, name in zip(neighbours.tolist(), item_ids(origins[neighbours].tolist()), strict=True):
        listed[index] = msgspec.structs.replace(listed[index], neighbour_of=name)


def _reasons(lists: Lists, item_ids: Callable[[Sequence[int]], list[str]]) -> list[list[list[Reason]]]:
    """The reasons of each user's interests; an empty list for a user none of whose interests has any."""
    users, interests, most = lists.reasons.shape
    if not most:
        return [[] for _ in range(users)]
    names = item_ids(np.maximum(lists.reasons, 0).ravel().tolist())
    shares = np.round(lists.shares.astype(np.float64), _SCORE_DIGITS).ravel().tolist()
    clicks = list(map(Reason, names, shares))
    for index in np.flatnonzero(lists.reasons >= FIRST_SEARCH).tolist():
        clicks[index] = Reason(searches.words_of(names[index]), shares[index], "search")
    lengths = (lists.reasons != NO_ITEM).sum(axis=2).tolist()
    reasons = []
    for user, user_lengths in enumerate(lengths):
        start = user * interests * most
        by_interest = [clicks[start + k * most : start + k * most + length] for k, length in enumerate(user_lengths)]
        reasons.append(by_interest if any(user_lengths) else [])
    return reasons
