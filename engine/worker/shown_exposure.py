"""Exposure by impressions, in one worker: its users count once they were shown a list, and clicks by what was shown.

A click waits for `canary.impression_wait_s` before it is judged, so that reports of what was shown before it can come.
Both, who was shown something and the judged clicks, go into the record of sums that is sent within the commit of a
batch (`engine.worker.judged_arms`). Clicks that wait are lost with a session, in all arms alike.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import msgspec
import numpy as np

from engine.arrays import Clicks, Int64
from engine.eventlog.base import Partition, Records
from engine.eventlog.time_source import TimeSource
from engine.messages import list_ids
from engine.messages.impression import Impression
from engine.messages.list_ids import ListMark
from engine.metrics import Metrics
from engine.quality.next_click import PLACES
from engine.quality.shown_lists import ShownList, ShownLists
from engine.releases.arms import NO_GROUP
from engine.windows import changelog
from engine.worker.impression_follower import ImpressionFollower
from engine.worker.judged_arms import JudgedArms

_USERS: Final = 1 << 16
"""Users whose lists are remembered: those of this worker who were shown one last, up to two kilobytes each."""
_MOST_WAITING: Final = 1 << 17
"""Clicks that wait to be judged; beyond it the oldest are not judged, as when impressions cannot be read for long."""
_NO_TEAM: Final = -1
_impression: Final = msgspec.json.Decoder(Impression)


class _WaitingClick(NamedTuple):
    """A click that is not judged yet."""

    held_s: float
    """Time at which it was read, by the monotonic clock."""
    user: str
    item: str
    time_ms: int
    """Event time."""


class ShownExposure:
    """The lists that this worker's users were shown in a trial, and the clicks that wait to be judged by them."""

    def __init__(
        self,
        arms: JudgedArms,
        follower: ImpressionFollower,
        is_held: Callable[[str], bool],
        metrics: Metrics,
        time: TimeSource,
    ) -> None:
        """Begin to follow impressions.

        Args:
            arms: the trial's, which count.
            follower: reads impressions.
            is_held: whether a user's window is in this worker.
            metrics: count the reports.
            time: as the worker reads it.
        """
        self._arms, self._follower, self._is_held, self._time = arms, follower, is_held, time
        outcomes = ("arm", "other", "unreadable")
        self._counters = {outcome: metrics.trial_impressions.labels(outcome) for outcome in outcomes}
        self._lists = ShownLists(_USERS)
        self._waiting: deque[_WaitingClick] = deque(maxlen=_MOST_WAITING)
        self._counted: dict[Partition, int] = {}
        """By partition, the offset after the last report that was counted: some are read again."""
        follower.start()

    def step(self) -> bool:
        """Take some reports that have come, judge the clicks that have waited long enough; whether there is more."""
        polled = self._follower.take()
        if polled is not None:
            for records in polled.records:
                self._take(records)
            if polled.until_s is not None and polled.reading == self._follower.reading:
                self._judge(polled.until_s - self._arms.settings.impression_wait_s)
        return len(self._follower) > 0

    def hold(self, clicks: Clicks, rows: Int64) -> None:
        """Let these rows [n] of clicks wait to be judged."""
        now_s = self._time.monotonic_s()
        times_ms = clicks.times_ms[rows].tolist()
        for row, time_ms in zip(rows.tolist(), times_ms, strict=True):
            self._waiting.append(_WaitingClick(now_s, clicks.users[row], clicks.items[row], time_ms))

    def forget(self, user: str) -> None:
        """Forget what a user was shown, and clicked."""
        self._lists.forget(user)
        kept = [click for click in self._waiting if click.user != user]
        if len(kept) < len(self._waiting):
            self._waiting = deque(kept, maxlen=_MOST_WAITING)

    def restored(self) -> None:
        """Windows have come to this worker: read again what their users were shown, as others took it until now."""
        self._lists.clear()
        self._follower.begin_again()

    def begin_session(self) -> None:
        """Drop the clicks that wait: those of a batch that failed come again."""
        self._waiting.clear()

    def close(self) -> None:
        """Stop following."""
        self._follower.stop()

    def _take(self, records: Records) -> None:
        """Count the reports of this worker's users, and remember the lists that they are of."""
        users = [changelog.user_of(key or b"") or "" for key in records.keys]
        own = [row for row, user in enumerate(users) if self._is_held(user)]
        reports = [_decoded(records.values[row]) for row in own]
        marks = [self._mark_of(report) for report in reports]
        groups = self._arms.shown([users[row] for row in own], [mark.arm if mark else "" for mark in marks])
        first_new = self._counted.get(records.partition, 0)
        for row, report, mark, group in zip(own, reports, marks, groups.tolist(), strict=True):
            if report is not None and mark is not None and group != NO_GROUP:
                self._show(users[row], report, mark, group)
            if records.offsets[row] >= first_new:
                self._counters["unreadable" if report is None else "other" if group == NO_GROUP else "arm"].inc()
        self._counted[records.partition] = max(first_new, records.offsets[-1] + 1)

    def _mark_of(self, report: Impression | None) -> ListMark | None:
        """The mark of the list that a report is of, where it is one of this trial."""
        mark = list_ids.mark_of(report.decision) if report else None
        return mark if mark is not None and mark.trial == self._arms.trial else None

    def _show(self, user: str, report: Impression, mark: ListMark, group: int) -> None:
        """Remember what a user of this group was shown."""
        shown = ShownList(hash(report.decision), group, mark.teams, report.shown_ms, report.shown_ms)
        self._lists.show(user, shown, ((item.item, item.place) for item in report.items))

    def _judge(self, until_s: float) -> None:
        """Judge the clicks that were read up to this time, by what their users had been shown."""
        groups, ranks, teams = [], [], []
        while self._waiting and self._waiting[0].held_s <= until_s:
            click = self._waiting.popleft()
            shown = self._lists.before(click.user, click.time_ms)
            if shown is not None:
                groups.append(shown.group)
                ranks.append(shown.rank(click.item))
                teams.append(_padded(shown.teams))
        if groups:
            self._arms.judged(np.array(groups, np.int32), np.array(ranks, np.int64), np.array(teams, np.int8))


def _decoded(value: bytes | None) -> Impression | None:
    """A report from its message; None where it is none."""
    try:
        return None if value is None else _impression.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _padded(teams: Sequence[int]) -> list[int]:
    """Releases of the first places, and none for those after the list's end."""
    return [*teams, *[_NO_TEAM] * (PLACES - len(teams))][:PLACES]
