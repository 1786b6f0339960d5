"""Team draft: two lists of each user in one, with the team of every place. Pure.

In each round a coin says which team is first; each team then puts the best item of its own list that is not taken yet
on the next place. A click on a place is credited to its team. Both releases are compared within one user, which takes
fewer users than two groups of them.

Sources: Radlinski, Kurup, Joachims, "How does clickthrough data reflect retrieval quality?", CIKM 2008. Chapelle,
Joachims, Radlinski, Yue, "Large-scale validation and analysis of interleaved search evaluation", TOIS 2012.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from engine.arrays import NO_ITEM, Bool, Int8, Int32, Int64, UInt64
from engine.ranking.lists import NO_INTEREST, Lists

NO_TEAM: Final = -1
"""Team of a place without an item."""

_MULTIPLIERS: Final = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_SHIFTS: Final = (np.uint64(30), np.uint64(27), np.uint64(31))


@dataclass(frozen=True, slots=True)
class Draft:
    """The outcome of a draft for B users."""

    teams: Int8
    """[B, N] 0 or 1; NO_TEAM where neither team has an item left."""
    columns: Int32
    """[B, N] place of the item in the list of its team."""


def coins(seeds: UInt64, rounds: int) -> Bool:
    """[B, rounds] coins that follow from the number of each user [B] alone: a batch that comes again has the same.

    Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014 (the finaliser of SplitMix64).
    """
    mixed = seeds[:, None] + np.arange(1, rounds + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    for shift, multiplier in zip(_SHIFTS, _MULTIPLIERS, strict=False):
        mixed = (mixed ^ (mixed >> shift)) * multiplier
    flips: Bool = ((mixed ^ (mixed >> _SHIFTS[2])) & np.uint64(1)).astype(np.bool_)
    return flips


def team_draft(first: Int32, second: Int32, second_begins: Bool) -> Draft:
    """The draft of two lists [B, N] of each user.

    Args:
        first: items of team 0, best first; NO_ITEM after the last one.
        second: items of team 1.
        second_begins: [B, ceil(N / 2)] whether team 1 has the first pick of each round.
    """
    lists = np.stack([first, second])  # [2, B, N]
    users, count = np.arange(len(first)), first.shape[1]
    taken = lists == NO_ITEM
    teams = np.full(first.shape, NO_TEAM, np.int8)
    columns = np.zeros(first.shape, np.int32)
    for place in range(count):
        team = (second_begins[:, place // 2] ^ bool(place % 2)).astype(np.int64)
        team = np.where(taken[team, users].all(axis=1), 1 - team, team)  # one with nothing left leaves the pick
        column: Int64 = taken[team, users].argmin(axis=1)
        picked: Bool = ~taken[team, users, column]
        item = np.where(picked, lists[team, users, column], NO_ITEM)
        teams[:, place] = np.where(picked, team, NO_TEAM)
        columns[:, place] = column
        taken |= (lists == item[None, :, None]) & picked[None, :, None]
    return Draft(teams, columns)


def drafted(first: Lists, second: Lists, draft: Draft) -> Lists:
    """The lists of B users by a draft; the interests of the second come after those of the first."""
    users = np.arange(len(draft.teams))[:, None]
    interests = first.reasons.shape[1]

    def both(name: str, empty: int) -> npt.NDArray[Any]:
        values = np.stack([getattr(first, name), getattr(second, name)])[
            np.maximum(draft.teams, 0), users, draft.columns
        ]
        return np.where(draft.teams == NO_TEAM, np.asarray(empty, values.dtype), values)

    numbers = both("interests", NO_INTEREST)
    shifted = np.where((draft.teams == 1) & (numbers != NO_INTEREST), numbers + interests, numbers)
    return Lists(
        items=both("items", NO_ITEM),
        scores=both("scores", 0),
        sources=both("sources", 0),
        interests=shifted.astype(np.int32),
        origins=both("origins", NO_ITEM),
        reasons=np.concatenate([first.reasons, second.reasons], axis=1),
        shares=np.concatenate([first.shares, second.shares], axis=1),
        interest_norms=(first.interest_norms + second.interest_norms) / np.float32(2.0),
        removed={
            reason: first.removed.get(reason, 0) + second.removed.get(reason, 0)
            for reason in {**first.removed, **second.removed}
        },
    )
