"""A changelog that is gone must not be made again without a word: every window would be empty."""

import logging

from engine.errors import ChangelogError
from engine.eventlog.base import EventLog
from engine.settings.sections import Settings

logger = logging.getLogger(__name__)


class ChangelogGuard:
    """Remembers which topic the windows came from, and knows a group that had one before this worker started."""

    def __init__(self, settings: Settings) -> None:
        self._topic = settings.windows.topic
        self._clicks = settings.clicks.topic
        self._group = settings.kafka.group
        self._identity: str | None = None

    def before(self, log: EventLog) -> None:
        """Look before missing topics are created.

        Raises:
            ChangelogError: the topic that this worker or its group used is not there any more.
        """
        if log.partitions(self._topic):
            return
        if self._identity is not None:
            raise ChangelogError(
                f"windows.topic {self._topic!r} was deleted while this worker used it, and every window with it;"
                " expected it to stay. No worker goes on until it is there: create it again, compacted and with the"
                " partitions it had. Windows then begin empty; for those that the clicks still give, stop the workers"
                " and set their group back to the earliest offset first"
            )
        if positions := log.group_positions(self._group, self._clicks):
            raise ChangelogError(
                f"windows.topic {self._topic!r} does not exist, although group {self._group!r} (kafka.group) has read"
                f" {len(positions)} partitions of {self._clicks!r}: the topic was deleted, and every window with it, or"
                " has another name. Correct windows.topic; or, for windows that begin empty, create it with `headrace"
                " topics create`, and before that, for those that the clicks still give, set the group back to the"
                " earliest offset"
            )

    def after(self, log: EventLog) -> None:
        """Note the topic that is there now; one that was made anew is told."""
        identity = log.identity(self._topic)
        if self._identity not in (None, identity):
            logger.error(
                "windows.topic %r was deleted and made again: windows of before are gone, and begin empty", self._topic
            )
        self._identity = identity
