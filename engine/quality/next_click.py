"""The next-click judge: was the item that a user clicked next in the list already sent to that user?

One rule for the worker's metrics, the demo and the comparison of releases:

    judged        clicks of positive weight on an item, no searches, by users whose last list is known
    hit           the item is in the first `PLACES` of that list
    popular hit   the item is among as many most popular items of seven days, those in the user's window left out
                  where lists leave them out; the popularity baseline on the very same clicks

Several clicks of one user in one batch are all judged by the list sent before the batch.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from engine.arrays import NO_ITEM, Bool, Int32, Int64
from engine.quality.sent_lists import SentLists
from engine.ranking.popularity import Popularity

PLACES: Final = 10
"""Places of a list that count, as in HR@10."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Judgement of n clicks, by the lists of one release."""

    release: str
    clicks: int
    hits: int
    popular_hits: int


class NextClickJudge:
    """Judges clicks by the last list sent to each user."""

    def __init__(self, sent: SentLists, popularity: Popularity, *, exclude_seen: bool) -> None:
        self._sent = sent
        self._popularity = popularity
        self._exclude_seen = exclude_seen

    def judge(self, slots: Int32, items: Int32, windows: Int32) -> list[Verdict]:
        """Verdicts by release, for the judged ones of n clicks.

        Args:
            slots: [n] users.
            items: [n] items clicked, all with an action of positive weight.
            windows: [n, L] items in the users' windows before the clicks.
        """
        judged, lists = self._sent.lists(slots)
        if not judged.any():
            return []
        lists, items, windows = lists[judged, :PLACES], items[judged], windows[judged]
        hits = target_ranks(lists, items) > 0
        lengths = (lists != NO_ITEM).sum(axis=1)
        popular = popular_hits(self._popularity, items, windows if self._exclude_seen else windows[:, :0], lengths)
        return list(_by_release(self._sent.releases(slots[judged]), hits, popular))


def target_ranks(lists: Int32, items: Int32) -> Int64:
    """[n] rank, from 1, of each item [n] in its list [n, N]; 0 where it is not in it."""
    matches = lists == items[:, None]
    return np.where(matches.any(axis=1), matches.argmax(axis=1) + 1, 0)


def popular_hits(popularity: Popularity, items: Int32, windows: Int32, counts: Int64) -> Bool:
    """[n] whether each item is among the `counts` [n] most popular items that are not in its window [n, L]."""
    depth = int(counts.max(initial=0)) + windows.shape[1]
    ranks = popularity.ranks(items, depth)  # [n]
    above = np.sort(np.where(windows == NO_ITEM, depth, popularity.ranks(windows, depth)), axis=1)  # [n, L]
    above[:, 1:][above[:, 1:] == above[:, :-1]] = depth  # an item that is in the window twice counts once
    seen = (windows == items[:, None]).any(axis=1)
    hits: Bool = (ranks < depth) & (ranks - (above < ranks[:, None]).sum(axis=1) < counts) & ~seen
    return hits


def _by_release(releases: list[str], hits: Bool, popular: Bool) -> Iterator[Verdict]:
    names = np.array(releases)
    for release in dict.fromkeys(releases):
        mask = names == release
        yield Verdict(release, int(mask.sum()), int(hits[mask].sum()), int(popular[mask].sum()))
