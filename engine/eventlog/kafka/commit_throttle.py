"""Throttle of commits: the delay of the next batch after a commit, by which commits keep to a share of one core.

A commit costs the same for any number of records (a transaction: five requests, one after the other), so many records
make it cheap for each. After a commit of more than a few, the next batch waits while records gather, until commits take
no more than `kafka.commit_share` of one core. After a commit of a few there is next to no load, and the next record is
read at once.
"""

from typing import Final

_FEW_RECORDS: Final = 4
"""Largest batch for which freshness is worth more than the CPU time of a commit."""
_MAX_DELAY_S: Final = 0.1
"""Longest delay, as on a busy machine any commit looks costly."""
_NEWEST_WEIGHT: Final = 0.1
"""Weight of the newest measurement in the running mean of the cost."""


class CommitThrottle:
    """Delays between the batches of one session; times are arguments.

    Args:
        share: of one core, for commits.
    """

    def __init__(self, share: float) -> None:
        self._share = share
        self._due_s = 0.0
        self._cost_s: float | None = None
        self._records = 0

    def delay_s(self, now_s: float) -> float:
        """Remaining delay of the next batch."""
        return max(self._due_s - now_s, 0.0)

    def read(self, records: int) -> None:
        """Count records that were read for the next commit."""
        self._records += records

    def committed(self, cost_s: float, now_s: float) -> None:
        """Take the CPU time of a commit, without that of its records, and set the delay after it."""
        self._cost_s = cost_s if self._cost_s is None else self._cost_s + _NEWEST_WEIGHT * (cost_s - self._cost_s)
        if self._records > _FEW_RECORDS:
            self._due_s = now_s + min(self._cost_s / self._share, _MAX_DELAY_S)
        self._records = 0
