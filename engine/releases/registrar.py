"""Changes of the registry wherever the settings keep it: on the topic, in a watched folder, or in both."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from engine.errors import ReleaseError
from engine.eventlog.base import EventLog, TopicSpec
from engine.releases import announcements
from engine.releases.announcements import FolderFeed, TopicFeed
from engine.releases.registry import Change, Registry


@dataclass(frozen=True, slots=True)
class Registrar:
    """Reads and writes one model's registry; workers see a change on whichever side they look."""

    model: str
    log: EventLog | None
    """Has the topic; None where there is only the folder."""
    topic: TopicSpec
    folder: Path | None = None

    def read(self) -> Registry:
        """The registry as it is now, of both sides together.

        Raises:
            ReleaseError: the folder cannot be read.
            EventLogError: the topic cannot be read.
        """
        registry = Registry(self.model)
        if self.folder is not None and self.folder.is_dir():
            registry = FolderFeed(self.folder, self.model).registry()
        if self.log is None:
            return registry
        self.log.ensure_topics([self.topic])
        with ExitStack() as stack:
            feed = TopicFeed(self.log.reader([self.topic.name]), self.model)
            stack.callback(feed.close)
            return registry.merged(feed.whole_registry())

    def change(self, rule: Callable[[Registry], list[Change]]) -> list[Change]:
        """Read, find the records by a rule, and write them; returns them.

        Raises:
            ReleaseError: the rule refuses, or one side could not be read or written.
            EventLogError: the topic could not be read.
        """
        registry = self.read()
        changes = rule(registry)
        if changes:
            self._write(registry.with_changes(changes), changes)
        return changes

    def _write(self, registry: Registry, changes: list[Change]) -> None:
        """The folder gets all that is known, so that it is enough where the topic cannot be reached."""
        if self.log is not None:
            with self.log.producer() as producer:
                announcements.send_changes(changes, producer, self.topic.name)
        if self.folder is None:
            return
        pins = [registry.last_pin] if registry.last_pin else []
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            records: list[Change] = [*registry.versions.values(), *pins, *registry.experiments.values()]
            announcements.write_changes(records, self.folder)
        except OSError as error:
            done = f"the topic {self.topic.name!r} has the change and workers follow it; " if self.log else ""
            raise ReleaseError(
                f"setting 'releases.folder': {self.folder} cannot be written ({error.strerror}), expected a folder that"
                f" workers watch; {done}mend the folder and run `headrace releases pin VERSION` for what is live"
            ) from error
