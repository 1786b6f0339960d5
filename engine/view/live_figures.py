"""Figures of the last minute for the live page, from lists and windows as they arrive.

clicks, next clicks   events that are new in windows: a server reads no clicks
freshness             from the event time of a list's newest click to the list's append
hit                   the item of a next click is among the first ten of the newest list from before the click

A click may be judged by an older list where the topic of lists is read later than that of windows.
"""

import math
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec
import numpy as np

from engine.view.stored_lists import head_decoder

_SPAN_S: Final = 60.0
_RATE_SPAN_S: Final = 5.0
_MAX_TIMES: Final = 4_000
_MAX_USERS: Final = 20_000
"""Users whose last lists are remembered for judging."""
_LISTS_PER_USER: Final = 3
"""A list may arrive a moment before the window that tells of the click before it."""
_RECENT_USERS: Final = 12
EDGES_MS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000)
"""Upper edges of the freshness bins; the last bin has no end."""
_Z: Final = 1.96
"""Of an interval that holds in 95 of 100 cases."""


class NextClicks(msgspec.Struct, frozen=True):
    """Next clicks judged by the lists of one release."""

    release: str
    clicks: int
    hits: int
    rate: float
    low: float
    """Ends of the 95 % interval of the rate (Wilson 1927)."""
    high: float


class ServerState(msgspec.Struct, frozen=True, kw_only=True):
    """State of the server at one moment."""

    time_ms: int
    status: str
    """`ok`, or why the server is not ready."""
    release: str | None
    """In use."""
    users: int
    """Users whose list is held."""
    releases: list[dict[str, str]]
    """Version and state of the announced releases, newest first."""
    can_click: bool
    """Visitors of the live page may click."""


class Figures(ServerState, frozen=True, kw_only=True):
    """State of the server, and of the stream since its start."""

    clicks: int
    lists: int
    clicks_per_s: float
    lists_per_s: float
    freshness_edges_ms: Sequence[int] = EDGES_MS
    freshness_counts: list[int]
    """Lists of the last minute by the time from click to list, up to each edge, and above the last."""
    freshness_p50_ms: float | None
    freshness_p99_ms: float | None
    next_clicks: list[NextClicks]
    dead_letters: dict[str, int]
    recent_users: list[str]
    """Users who clicked last, newest first."""


class LiveFigures:
    """Counts of what arrives; filled by two threads, read by a third."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._clicks = self._lists = 0
        self._click_times_s: deque[tuple[float, int]] = deque(maxlen=_MAX_TIMES)
        self._list_times_s: deque[tuple[float, int]] = deque(maxlen=_MAX_TIMES)
        self._freshness_ms: deque[tuple[float, int]] = deque(maxlen=_MAX_TIMES)
        self._heads: dict[str, deque[tuple[int, str, tuple[str, ...]]]] = {}
        self._judged: dict[str, list[int]] = {}
        self._dead_letters = Counter[str]()
        self._recent: dict[str, None] = {}

    def add_list(self, message: bytes, append_ms: int) -> None:
        """Count a list that arrived."""
        try:
            head = head_decoder.decode(message)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return
        now_s = time.monotonic()
        with self._lock:
            self._lists += 1
            self._list_times_s.append((now_s, 1))
            self._freshness_ms.append((now_s, max(0, append_ms - head.event_ms)))
            heads = self._heads.pop(head.user, None) or deque(maxlen=_LISTS_PER_USER)
            heads.append((head.event_ms, head.release, head.first_items))
            self._heads[head.user] = heads
            if len(self._heads) > _MAX_USERS:
                del self._heads[next(iter(self._heads))]

    def add_clicks(self, users: Sequence[str], items: Sequence[str], times_ms: Sequence[int]) -> None:
        """Count clicks on items, and judge them by the lists from before."""
        now_s = time.monotonic()
        with self._lock:
            self._clicks += len(users)
            self._click_times_s.append((now_s, len(users)))
            for user, item, time_ms in zip(users, items, times_ms, strict=True):
                self._judge(user, item, time_ms)
                self._recent.pop(user, None)
                self._recent[user] = None
            while len(self._recent) > _RECENT_USERS:
                del self._recent[next(iter(self._recent))]

    def forget(self, user: str) -> None:
        """Drop what is remembered of a user."""
        with self._lock:
            self._heads.pop(user, None)
            self._recent.pop(user, None)

    def add_dead_letter(self, reason: str) -> None:
        """Count a dead letter."""
        with self._lock:
            self._dead_letters[reason] += 1

    def at(self, server: ServerState) -> Figures:
        """The figures now."""
        now_s = time.monotonic()
        with self._lock:
            recent = [ms for arrived_s, ms in self._freshness_ms if arrived_s > now_s - _SPAN_S]
            return Figures(
                **msgspec.structs.asdict(server),
                clicks=self._clicks,
                lists=self._lists,
                clicks_per_s=_rate(self._click_times_s, now_s),
                lists_per_s=_rate(self._list_times_s, now_s),
                freshness_counts=_histogram(recent),
                freshness_p50_ms=_quantile(recent, 0.5),
                freshness_p99_ms=_quantile(recent, 0.99),
                next_clicks=[_next_clicks(name, *counts) for name, counts in self._judged.items()],
                dead_letters=dict(self._dead_letters.most_common()),
                recent_users=[*reversed(self._recent)],
            )

    def _judge(self, user: str, item: str, time_ms: int) -> None:
        heads = [head for head in self._heads.get(user, ()) if head[0] < time_ms]
        if heads:
            _, release, first_items = max(heads)
            counts = self._judged.setdefault(release, [0, 0])
            counts[0] += 1
            counts[1] += item in first_items


def wilson(hits: int, count: int) -> tuple[float, float]:
    """Ends of the 95 % interval of a share (Wilson 1927); 0 and 1 where nothing was counted."""
    if not count:
        return 0.0, 1.0
    share, z_squared = hits / count, _Z * _Z
    centre = (share + z_squared / (2 * count)) / (1 + z_squared / count)
    half = _Z * math.sqrt(share * (1 - share) / count + z_squared / (4 * count * count)) / (1 + z_squared / count)
    return max(0.0, centre - half), min(1.0, centre + half)


def _next_clicks(release: str, clicks: int, hits: int) -> NextClicks:
    low, high = wilson(hits, clicks)
    return NextClicks(release, clicks, hits, round(hits / max(clicks, 1), 4), round(low, 4), round(high, 4))


def _rate(times_s: Iterable[tuple[float, int]], now_s: float) -> float:
    return round(sum(count for at_s, count in times_s if at_s > now_s - _RATE_SPAN_S) / _RATE_SPAN_S, 1)


def _histogram(values_ms: Sequence[int]) -> list[int]:
    """[bins] counts of values up to each edge, and above the last."""
    bins = np.searchsorted(EDGES_MS, np.array(values_ms, np.int64))
    counts: list[int] = np.bincount(bins, minlength=len(EDGES_MS) + 1).tolist()
    return counts


def _quantile(values_ms: Sequence[int], share: float) -> float | None:
    return float(np.quantile(values_ms, share)) if values_ms else None
