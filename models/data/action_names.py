"""The actions of recorded events, by the names that the settings give weights to (`clicks.actions`)."""

import logging
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from engine.arrays import UInt8
from engine.catalogue.actions import Actions
from engine.settings.sections import ClickSettings

logger = logging.getLogger(__name__)
_NAMED_AT_MOST: Final = 8


def numbers(names: Sequence[str], clicks: ClickSettings) -> UInt8:
    """[A] number of each action among those in the settings; one that they do not name counts as the default."""
    actions = Actions(clicks)
    return np.array([actions.code(name) - 1 for name in names], np.uint8)  # codes count from 1


def warn_of_unnamed(names: Sequence[str], events: Iterable[npt.NDArray[np.integer]], clicks: ClickSettings) -> None:
    """Say which actions the settings do not name, so that a weight is left to chance by nobody.

    Args:
        names: [A] of the actions by number.
        events: numbers of the actions of all events, some at a time.
        clicks: the settings.
    """
    strangers = [number for number, name in enumerate(names) if name and name not in clicks.actions]
    if not strangers:
        return
    counts = np.zeros(len(names), np.int64)
    for part in events:
        counts += np.bincount(part, minlength=len(names))
    strangers.sort(key=lambda number: -counts[number])
    told = [_told(names[number], int(counts[number]), clicks) for number in strangers[:_NAMED_AT_MOST]]
    if len(strangers) > _NAMED_AT_MOST:
        told.append(f"and {len(strangers) - _NAMED_AT_MOST} more")
    default = clicks.default_action
    logger.warning(
        "clicks.actions does not name %s: they count like %r (%g); give each a weight there, in a file for --config",
        ", ".join(told),
        default,
        clicks.actions[default],
    )


def _told(name: str, events: int, clicks: ClickSettings) -> str:
    alike = next((known for known in clicks.actions if known.casefold() == name.casefold()), None)
    return f"{name!r} ({events} events{f', not the same as {alike!r}' if alike else ''})"
