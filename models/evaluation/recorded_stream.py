"""Items that came after training at the times of recorded queries, as a worker would have counted them by then."""

from typing import Final

import numpy as np

from engine.arrays import Bool
from engine.releases.serving import LiveRelease
from engine.retrieval.stream_neighbours import STEPS, CountedWindows, StreamNeighbours, item_mask
from models.data.popularity_at import HOUR_MS
from models.evaluation.queries import EvalData

_EVENTS_AT_ONCE: Final = 4_096


class RecordedStream:
    """Clicks and neighbours of items without a vector, counted from recorded events up to a time.

    The hour of the time counts for nothing, as in `models.data.popularity_at`. For a time that goes back all is counted
    again, so queries should come in order of time.
    """

    def __init__(self, release: LiveRelease, eval_data: EvalData, mask: Bool, most_items: int) -> None:
        """Count nothing yet.

        Args:
            release: whose later items are listed.
            eval_data: the n events.
            mask: [n] events that count, clicks of positive weight.
            most_items: `recommendations.stream_neighbours`.
        """
        times_ms = eval_data.interactions.times_ms
        self._events, rows = eval_data.all_by_user()
        self._is_counted = np.empty(len(mask), np.bool_)
        self._is_counted[rows] = mask
        in_time = np.argsort(times_ms, kind="stable")
        self._rows, self._times_ms = rows[in_time], times_ms[in_time]
        self._is_known = item_mask(release.numbers[: release.known_items])
        self._most_items = most_items
        self._end = 0
        self.counts = StreamNeighbours(most_items)

    def move_to(self, time_ms: int) -> None:
        """Count the events up to the hour of this time."""
        end = int(np.searchsorted(self._times_ms, time_ms // HOUR_MS * HOUR_MS))
        if end < self._end:
            self._end, self.counts = 0, StreamNeighbours(self._most_items)
        for begin in range(self._end, end, _EVENTS_AT_ONCE):
            self._count(begin, min(end, begin + _EVENTS_AT_ONCE))
        self._end = end

    def _count(self, begin: int, end: int) -> None:
        """Count events, each with those of its user before it, as far back as pairs are counted."""
        rows = self._rows[begin:end]
        rows = rows[self._is_counted[rows]]
        events, starts = self._events, self._events.starts
        places = rows[:, None] + np.arange(-STEPS, 1)  # [B, S + 1]
        is_event = places >= starts[np.searchsorted(starts, rows, side="right") - 1][:, None]
        places = np.maximum(places, 0)
        is_new = np.zeros(places.shape, np.bool_)
        is_new[:, -1] = True
        is_click = is_event & self._is_counted[places]
        self.counts.add(CountedWindows(events.items[places], events.times_ms[places], is_click, is_new), self._is_known)


def of_later_items(release: LiveRelease, eval_data: EvalData, mask: Bool, most_items: int) -> RecordedStream | None:
    """The stream of a release's later items; None where it lists none, or none is among the events under `mask`."""
    if not (most_items and release.lists_later_items):
        return None
    is_later = release.candidate_rows(np.unique(eval_data.items[mask])) >= len(release.numbers)
    return RecordedStream(release, eval_data, mask, most_items) if is_later.any() else None
