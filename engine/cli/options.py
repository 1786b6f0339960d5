"""Options and set-up of all verbs: the settings file, and logging."""

import logging
import signal
import threading
from pathlib import Path
from typing import Final

import click

from engine.cli import log_lines
from engine.settings import loader
from engine.settings.sections import Settings

_REPEAT_S: Final = 60.0

config_option = click.option(
    "--config",
    "-c",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar=loader.CONFIG_VARIABLE,
    help="Settings file (TOML). Environment variables HEADRACE_SECTION__KEY replace what it says.",
)


def log_to_stderr(settings: Settings) -> None:
    """Log to standard error, one line an event."""
    stderr = logging.StreamHandler()
    stderr.setFormatter(log_lines.formatter(settings))
    logging.basicConfig(level=settings.telemetry.log_level.upper(), handlers=[stderr])
    client = logging.getLogger("kafka")
    client.setLevel(logging.INFO if settings.telemetry.log_level == "debug" else logging.ERROR)
    for handler in logging.getLogger().handlers:
        handler.addFilter(_SeldomRepeats(client.name))


class _SeldomRepeats(logging.Filter):
    """Lets each message of the Kafka client through once a minute: it repeats them several times a second."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._prefix = f"{name}."
        self._due_s: dict[tuple[str, int], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is to be logged; every record that is not the client's is."""
        if not record.name.startswith(self._prefix) or record.levelno < logging.WARNING:
            return True
        place = record.pathname, record.lineno
        if record.created < self._due_s.get(place, 0.0):
            return False
        self._due_s[place] = record.created + _REPEAT_S
        return True


def stop_on_signals() -> threading.Event:
    """An event that SIGTERM and SIGINT set.

    Another thread sets it: the handler runs in the main thread between any two of its steps, also while that waits for
    the event and has its lock, for which the handler would then wait without end.
    """
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: threading.Thread(target=stop.set, daemon=True).start())
    return stop
