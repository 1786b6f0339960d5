"""Lines of the log: text for people, or one JSON object a line for programs."""

import datetime as dt
import json
import logging
from typing import Final

from engine.settings.sections import Settings

_TEXT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class JsonLines(logging.Formatter):
    """One JSON object a line; a line break in a message is escaped, so that no message can forge a second line.

    Fields: `time` (ISO 8601, UTC), `level`, `logger`, `message`, `error` (a traceback, where there is one), and those
    that are the same on every line.
    """

    def __init__(self, same: dict[str, str]) -> None:
        super().__init__()
        self._same = same

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        time = dt.datetime.fromtimestamp(record.created, dt.UTC)
        fields = {
            "time": time.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["error"] = self.formatException(record.exc_info)
        return json.dumps(fields | self._same, ensure_ascii=False)


def formatter(settings: Settings) -> logging.Formatter:
    """The formatter that `telemetry.log_format` names."""
    if settings.telemetry.log_format == "text":
        return logging.Formatter(_TEXT)
    same = {"deployment": settings.deployment}
    if settings.kafka.static_member:
        same["worker"] = settings.kafka.static_member
    return JsonLines(same)
