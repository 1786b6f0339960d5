"""Ranked lists of many users, as arrays: the result of the pipeline."""

from dataclasses import dataclass
from typing import Final

from engine.arrays import Float32, Int32, UInt8

SOURCES: Final = ("interest", "popular")
"""Sources of listed items by code: near an interest of the user, or popular with all users."""
FROM_INTEREST: Final = 0
FROM_POPULAR: Final = 1


@dataclass(slots=True)
class Lists:
    """Recommendations for B users, best first."""

    items: Int32
    """[B, N] item numbers; NO_ITEM after the last one of a list that is not full."""
    scores: Float32
    """[B, N] interest · item, after pushing away; 0 for items that are there because they are popular."""
    sources: UInt8
    """[B, N] index into SOURCES."""
    interests: Int32
    """[B, N] the interest nearest to the item; -1 for items that are there because they are popular."""
    reasons: Int32
    """[B, K, M] numbers of the items and searches with most of each interest's attention; NO_ITEM after the last."""
    shares: Float32
    """[B, K, M] their shares of the interest's attention."""
    removed: dict[str, int]
    """Number of candidates removed, by reason."""
