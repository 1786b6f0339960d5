"""Ranked lists of many users, as arrays: the result of the pipeline, built once at its end."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from engine.arrays import NO_ITEM, POPULAR, Float32, Int32, Int64, UInt8

SOURCES: Final = ("interest", "popular", "neighbour")
"""Sources of a listed item, by source code: near an interest of the user, popular with everybody, or clicked by others
near an item of the window."""
FROM_INTEREST: Final = 0
FROM_POPULAR: Final = 1
FROM_NEIGHBOUR: Final = 2
NO_INTEREST: Final = -1

Removed = dict[str, int]
"""Candidates that a stage removed, by reason."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """Items near the interests and clicks of B users, best first, before empty places are filled."""

    items: Int32
    """[B, N] item numbers; NO_ITEM after the last one."""
    scores: Float32
    """[B, N] interest · item with the parts of neighbours and popularity, after pushing away; 0 after the last item."""
    interests: Int32
    """[B, N] the interest nearest to the item; NO_INTEREST after the last item."""
    origins: Int32
    """[B, N] where no interest found the item, number of the window's item that it is a neighbour of, or POPULAR; else
    NO_ITEM."""
    interest_norms: Float32
    """[B] mean length of the user's interests; 0 for users without any."""

    def put(self, users: Int64, ranking: "Ranking") -> None:
        """Replace the rows of these users [B']."""
        self.items[users], self.scores[users] = ranking.items, ranking.scores
        self.interests[users], self.origins[users] = ranking.interests, ranking.origins


@dataclass(frozen=True, slots=True)
class Reasons:
    """Events that weigh most in each interest of B users."""

    items: Int32
    """[B, K, M] numbers of items and searches; NO_ITEM after the last."""
    shares: Float32
    """[B, K, M] their shares of the interest's attention; 0 after the last."""


@dataclass(frozen=True, slots=True)
class Lists:
    """Recommendations for B users, best first."""

    items: Int32
    """[B, N] item numbers; NO_ITEM after the last one, where there were not enough."""
    scores: Float32
    """[B, N] interest · item with the parts of neighbours and popularity, after pushing away; 0 for popular items in
    places that nothing else filled."""
    sources: UInt8
    """[B, N] index into SOURCES."""
    interests: Int32
    """[B, N] the interest nearest to the item; NO_INTEREST for popular items."""
    origins: Int32
    """[B, N] number of the window's item that a neighbour belongs to; NO_ITEM for other sources."""
    reasons: Int32
    """[B, K, M] numbers of the items and searches with most of each interest's attention; NO_ITEM after the last."""
    shares: Float32
    """[B, K, M] their shares of the interest's attention."""
    interest_norms: Float32
    """[B] mean length of the user's interests; 0 for users without any."""
    removed: Removed
    """Candidates removed on the way, by reason."""


def no_ranking(users: int, count: int) -> Ranking:
    """The ranking of users about whom nothing is known: every place is empty."""
    shape = (users, count)
    return Ranking(
        items=np.full(shape, NO_ITEM, np.int32),
        scores=np.zeros(shape, np.float32),
        interests=np.full(shape, NO_INTEREST, np.int32),
        origins=np.full(shape, NO_ITEM, np.int32),
        interest_norms=np.zeros(users, np.float32),
    )


def no_reasons(users: int, interests: int, most: int) -> Reasons:
    """The reasons of users without interests."""
    shape = (users, interests, most)
    return Reasons(items=np.full(shape, NO_ITEM, np.int32), shares=np.zeros(shape, np.float32))


def spread_ranking(ranking: Ranking, users: Int64, count: int) -> Ranking:
    """A ranking of some users [B'] among `count` in all, the others' places empty."""
    if len(users) == count:
        return ranking
    everyone = no_ranking(count, ranking.items.shape[1])
    _copy_rows(
        (everyone.items, everyone.scores, everyone.interests, everyone.origins, everyone.interest_norms),
        users,
        *(ranking.items, ranking.scores, ranking.interests, ranking.origins, ranking.interest_norms),
    )
    return everyone


def spread_reasons(reasons: Reasons, users: Int64, count: int) -> Reasons:
    """Reasons of some users [B'] among `count` in all."""
    if len(users) == count:
        return reasons
    everyone = no_reasons(count, *reasons.items.shape[1:])
    _copy_rows((everyone.items, everyone.shares), users, reasons.items, reasons.shares)
    return everyone


def assemble(ranking: Ranking, popular: Int32, reasons: Reasons, removed: Removed) -> Lists:
    """Lists of B users.

    Args:
        ranking: of all B users.
        popular: [B, N] popular items for the empty places of the ranking; NO_ITEM elsewhere.
        reasons: of all B users.
        removed: candidates removed on the way, by reason.
    """
    ranked, is_popular = ranking.items != NO_ITEM, ranking.origins == POPULAR
    found_by = np.where(ranking.origins == NO_ITEM, np.uint8(FROM_INTEREST), np.uint8(FROM_NEIGHBOUR))
    return Lists(
        items=np.where(ranked, ranking.items, popular),
        scores=ranking.scores,
        sources=np.where(ranked & ~is_popular, found_by, np.uint8(FROM_POPULAR)),
        interests=np.where(is_popular, np.int32(NO_INTEREST), ranking.interests),
        origins=np.where(is_popular, np.int32(NO_ITEM), ranking.origins),
        reasons=reasons.items,
        shares=reasons.shares,
        interest_norms=ranking.interest_norms,
        removed=removed,
    )


def _copy_rows(into: tuple[npt.NDArray[np.generic], ...], users: Int64, *rows: npt.NDArray[np.generic]) -> None:
    for column, values in zip(into, rows, strict=True):
        column[users] = values
