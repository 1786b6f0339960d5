"""A changelog that is deleted under a worker must not be made again without a word: every window would be empty."""

import logging

from engine.errors import ChangelogError
from engine.eventlog.base import EventLog

logger = logging.getLogger(__name__)


class ChangelogGuard:
    """Remembers which topic the windows came from.

    Args:
        topic: `windows.topic`.
    """

    def __init__(self, topic: str) -> None:
        self._topic = topic
        self._identity: str | None = None

    def before(self, log: EventLog) -> None:
        """Look before missing topics are created.

        Raises:
            ChangelogError: the topic that this worker used is not there any more.
        """
        if self._identity is not None and not log.partitions(self._topic):
            raise ChangelogError(
                f"windows.topic {self._topic!r} was deleted while this worker used it, and every window with it;"
                " expected it to stay. No worker goes on until it is there: create it again, compacted and with the"
                " partitions it had. Windows then begin empty; for those that the clicks still give, stop the workers"
                " and set their group back to the earliest offset first"
            )

    def after(self, log: EventLog) -> None:
        """Note the topic that is there now; one that was made anew is told."""
        identity = log.identity(self._topic)
        if self._identity not in (None, identity):
            logger.error(
                "windows.topic %r was deleted and made again: windows of before are gone, and begin empty", self._topic
            )
        self._identity = identity
