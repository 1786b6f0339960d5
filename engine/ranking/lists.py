"""Ranked lists of many users, as arrays: the result of the pipeline."""

from dataclasses import dataclass
from typing import Final

from engine.arrays import Float32, Int32, UInt8

SOURCES: Final = ("interest", "popular")
"""Why an item is in a list, by source code: near an interest of the user, or popular with everybody."""
FROM_INTEREST: Final = 0
FROM_POPULAR: Final = 1


@dataclass(slots=True)
class Lists:
    """Recommendations for B users, best first."""

    items: Int32
    """[B, N] item numbers; NO_ITEM behind the last one, when there were not enough."""
    scores: Float32
    """[B, N] interest · item, after pushing away; 0 for items that no interest found."""
    sources: UInt8
    """[B, N] index into SOURCES."""
    interests: Int32
    """[B, N] the interest that found the item; -1 where none did."""
    reasons: Int32
    """[B, K, M] numbers of the items and searches that weigh most in each interest; NO_ITEM where there are fewer."""
    shares: Float32
    """[B, K, M] their shares of the interest's attention."""
    removed: dict[str, int]
    """Candidates removed on the way, by reason."""
