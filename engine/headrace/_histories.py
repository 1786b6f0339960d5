"""Histories of item ids, checked and completed with times and action codes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from engine.arrays import MAX_TIME_MS, Int64, UInt8
from engine.catalogue.actions import Actions
from engine.errors import RequestError

_STEP_MS: Final = 60_000
"""Between clicks without times."""


@dataclass(frozen=True, slots=True)
class History:
    """One user's n clicks, in the order given."""

    items: Sequence[str]
    times_ms: Int64
    """[n]"""
    actions: UInt8
    """[n] action codes."""


def complete(
    histories: Mapping[str, Sequence[str]],
    times_ms: Mapping[str, Sequence[int]] | None,
    action_names: Mapping[str, Sequence[str]] | None,
    actions: Actions,
    now_ms: int,
) -> list[History]:
    """Histories of many users with times and action codes, in the order of `histories`.

    Args:
        histories: item ids by user, oldest first.
        times_ms: as long as the histories; None: a minute apart, the last at `now_ms`.
        action_names: as long as the histories; None: the default action.
        actions: the actions of the settings.
        now_ms: Unix milliseconds.

    Raises:
        RequestError: naming the user, what was found and what was expected.
    """
    check_ids("users", histories)
    _check_users("times_ms", times_ms, histories)
    _check_users("actions", action_names, histories)
    clicks = []
    for user, items in histories.items():
        title = f"history of user {user!r}" if user else "history"
        check_ids(title, items)
        times = _times(title, len(items), None if times_ms is None else times_ms[user], now_ms)
        codes = _codes(title, len(items), None if action_names is None else action_names[user], actions)
        clicks.append(History(items, times, codes))
    return clicks


def check_ids(title: str, ids: Iterable[object]) -> None:
    """Refuse ids that are no text, and a text in the place of a list of ids.

    Raises:
        RequestError: naming `title` and the id.
    """
    if isinstance(ids, str):
        raise RequestError(f"{title}: found the text {ids!r}, expected a list of ids; write [{ids!r}]")
    for index, value in enumerate(ids):
        if not isinstance(value, str):
            raise RequestError(
                f"{title}: found {value!r} at index {index}, expected an id as text; write {str(value)!r}"
            )


def _check_users(title: str, columns: Mapping[str, Sequence[Any]] | None, histories: Mapping[str, Any]) -> None:
    if columns is None or columns.keys() == histories.keys():
        return
    user = min(columns.keys() ^ histories.keys(), key=str)
    side = title if user in columns else "histories"
    raise RequestError(
        f"{title}: found user {user!r} in {side} alone, expected the same users in both; add or remove this one, or"
        f" leave {title} out"
    )


def _times(title: str, count: int, times_ms: Sequence[int] | None, now_ms: int) -> Int64:
    if times_ms is None:
        return now_ms - _STEP_MS * np.arange(count - 1, -1, -1, dtype=np.int64)
    _check_length(title, count, "times_ms", times_ms)
    for index, time_ms in enumerate(times_ms):
        if not isinstance(time_ms, int | np.integer) or not 0 <= time_ms <= MAX_TIME_MS:
            raise RequestError(
                f"{title}: found time {time_ms!r} at index {index}, expected Unix milliseconds as a whole number from 0"
                f" to {MAX_TIME_MS}; multiply seconds by 1000"
            )
    return np.array(times_ms, np.int64)


def _codes(title: str, count: int, names: Sequence[str] | None, actions: Actions) -> UInt8:
    if names is None:
        return np.full(count, actions.code(None), np.uint8)
    _check_length(title, count, "actions", names)
    for index, name in enumerate(names):
        if name not in actions.codes:
            raise RequestError(
                f"{title}: found action {name!r} at index {index}, expected one of {', '.join(actions.codes)}; rename"
                " it, or give it a weight in the setting clicks.actions"
            )
    return np.array([actions.codes[name] for name in names], np.uint8)


def _check_length(title: str, count: int, column: str, values: Sequence[object]) -> None:
    if len(values) != count:
        raise RequestError(
            f"{title}: found {len(values)} {column} for {count} items, expected one for each, in the same order;"
            f" leave {column} out if they are not known"
        )
