"""How soon a batch may follow the last commit.

A commit costs the same whatever it carries (a transaction: five requests, one after the other), so what makes it cheap
is the number of records in it. After a commit that carried more than a few the next batch waits and gathers, so long
that commits take `kafka.commit_share` of one core. After one that carried a few there is next to no load, and the next
record is read at once.
"""

from typing import Final

_FEW: Final = 4
"""Records in a batch up to which freshness is worth more than the CPU time of a commit."""
_LONGEST_S: Final = 0.1
"""A busy machine makes any cost look large; nobody waits longer than this for it."""
_WEIGHT: Final = 0.1
"""Of the newest measurement in the running mean."""


class CommitThrottle:
    """The wait between two batches of one session; knows no clock."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._due_s = 0.0
        self._cost_s: float | None = None
        self._records = 0

    def delay_s(self, now_s: float) -> float:
        """How much longer the next batch should gather."""
        return max(self._due_s - now_s, 0.0)

    def read(self, records: int) -> None:
        """So many records were read for the next commit."""
        self._records += records

    def committed(self, cost_s: float, now_s: float) -> None:
        """What was read is committed, at so much CPU time beside that for the records themselves."""
        self._cost_s = cost_s if self._cost_s is None else self._cost_s + _WEIGHT * (cost_s - self._cost_s)
        if self._records > _FEW:
            self._due_s = now_s + min(self._cost_s / self._share, _LONGEST_S)
        self._records = 0
