"""Partitions that were added to the topic of clicks, for which there are no windows yet."""

import logging
from collections.abc import Collection
from typing import Final

from engine.errors import EventLogError
from engine.settings.sections import Settings

logger = logging.getLogger(__name__)

_LOOK_EVERY_S: Final = 5.0


class Growth:
    """The partitions that a worker serves, and those assigned to it beyond them, whose clicks wait.

    With more partitions a user's clicks go to another one than the window is in. Until `headrace repartition` has moved
    the windows, the new partitions wait, and the others go on: what they still have of users whose clicks go
    elsewhere now must be in their windows before these are moved.
    """

    def __init__(self, settings: Settings, served: int) -> None:
        self._topic = settings.clicks.topic
        self._changelog = settings.windows.topic
        self._served = served
        self._waiting: set[int] = set()
        self._logged: set[int] = set()
        self._due_s = 0.0

    def assigned(self, numbers: Collection[int]) -> list[int]:
        """Those of these partitions that are served."""
        self._waiting.update(number for number in numbers if number >= self._served)
        return [number for number in numbers if number < self._served]

    def given_up(self, numbers: Collection[int]) -> list[int]:
        """Those of these partitions that were served."""
        self._waiting.difference_update(numbers)
        return [number for number in numbers if number < self._served]

    def is_due(self, now_s: float) -> bool:
        """Whether partitions wait, and it is time to look whether there are windows for them."""
        return bool(self._waiting) and now_s >= self._due_s

    def look(self, now_s: float, partitions: int) -> None:
        """Compare the number of partitions of the changelog with that at the start; say once what waits.

        Raises:
            EventLogError: there are more now, so that a new session can serve them.
        """
        self._due_s = now_s + _LOOK_EVERY_S
        if partitions > self._served:
            raise EventLogError(
                f"windows.topic {self._changelog!r} has {partitions} partitions now, and had {self._served} when this"
                " worker joined; joining again"
            )
        if self._waiting - self._logged:
            self._logged |= self._waiting
            logger.error("%s", self.message)

    @property
    def message(self) -> str | None:
        """Which partitions wait and what to do; None where none does."""
        if not self._waiting:
            return None
        return (
            f"clicks.topic {self._topic!r} was given more partitions: those of {sorted(self._waiting)} wait, because"
            f" windows.topic {self._changelog!r} has windows for {self._served}. When the other partitions are read to"
            " their ends, stop all workers, run `headrace repartition`, and start them again"
        )
