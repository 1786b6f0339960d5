"""Recorded actions, numbered by name, as codes of the settings (`clicks.actions`)."""

import logging
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from engine.arrays import FIRST_SEARCH, Int32, UInt8
from engine.catalogue.actions import Actions
from engine.settings.sections import ClickSettings

logger = logging.getLogger(__name__)
_NAMED_AT_MOST: Final = 8


class ActionCodes:
    """Codes of recorded actions; one that the settings do not name counts as the default."""

    def __init__(self, names: Sequence[str], actions: Actions) -> None:
        """Args: names by action number; the codes of the settings."""
        self._by_number: UInt8 = np.array([actions.code(name) for name in names], np.uint8)
        self._search = np.uint8(actions.search)

    def of(self, numbers: npt.NDArray[np.integer], items: Int32) -> UInt8:
        """[n] codes of events with these actions [n] and items [n]; a search counts as one, whatever its action."""
        return np.where(items < FIRST_SEARCH, self._by_number[numbers], self._search)


def warn_of_unnamed(names: Sequence[str], events: Iterable[npt.NDArray[np.integer]], clicks: ClickSettings) -> None:
    """Warn of actions that the settings do not name, so that no weight is left to chance.

    Args:
        names: [A] of the actions by number.
        events: numbers of the actions of all events, some at a time.
        clicks: the settings.
    """
    unnamed = [number for number, name in enumerate(names) if name and name not in clicks.actions]
    if not unnamed:
        return
    counts = np.zeros(len(names), np.int64)
    for numbers in events:
        counts += np.bincount(numbers, minlength=len(names))
    unnamed.sort(key=lambda number: -counts[number])
    shown = [_described(names[number], int(counts[number]), clicks) for number in unnamed[:_NAMED_AT_MOST]]
    if len(unnamed) > _NAMED_AT_MOST:
        shown.append(f"and {len(unnamed) - _NAMED_AT_MOST} more")
    default = clicks.default_action
    logger.warning(
        "clicks.actions does not name %s: they count like %r (%g); give each a weight there, in a file for --config",
        ", ".join(shown),
        default,
        clicks.actions[default],
    )


def _described(name: str, events: int, clicks: ClickSettings) -> str:
    alike = next((known for known in clicks.actions if known.casefold() == name.casefold()), None)
    return f"{name!r} ({events} events{f', not the same as {alike!r}' if alike else ''})"
