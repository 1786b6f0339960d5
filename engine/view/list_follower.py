"""The thread that follows the topics which a server repeats: lists, announcements of releases, dead letters."""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from engine.errors import EventLogError, ReleaseError
from engine.eventlog.base import EventLog, Partition, Reader, Records
from engine.ingest.dead_letters import HEADER_PREFIX
from engine.messages.announcement import Announcement
from engine.releases.announcements import FolderFeed
from engine.settings.sections import Settings
from engine.view.stored_lists import StoredLists

logger = logging.getLogger(__name__)

_POLL_S: Final = 0.1
_MAX_RECORDS: Final = 5_000
_PAUSE_S: Final = 2.0
"""After a failure of the log, and between two looks for topics that do not exist yet."""
_REASON_HEADER: Final = f"{HEADER_PREFIX}reason"
_announcement: Final = msgspec.json.Decoder(Announcement)

OnList = Callable[[str, bytes | None, int], None]
"""Takes user, message and append time (Unix milliseconds) of a list that arrived after the start."""


class ListFollower:
    """Fills the stored lists and the announcements; reading goes on after a failure where it ended."""

    def __init__(
        self,
        settings: Settings,
        log: EventLog,
        stored: StoredLists,
        on_list: OnList = lambda _user, _message, _append_ms: None,
        on_dead_letter: Callable[[str], None] | None = None,
    ) -> None:
        """Prepare; nothing is read yet.

        Args:
            settings: names of the topics.
            log: has them.
            stored: takes the lists.
            on_list: called for each list after those from before the start, on this thread.
            on_dead_letter: called with the reason of each dead letter after the start; None leaves the topic unread.
        """
        self._log = log
        self._stored = stored
        self._on_list = on_list
        self._on_dead_letter = on_dead_letter
        self._lists, self._releases = settings.recommendations.topic, settings.releases.topic
        self._dead_letters = settings.clicks.dead_letter_topic
        self._announcements: dict[bytes, Announcement] = {}
        releases = settings.releases
        self._folder = None if releases.folder is None else FolderFeed(releases.folder, releases.model)
        self._in_folder: Mapping[str, Announcement] = {}
        self._folder_due_s = 0.0
        self._positions: dict[Partition, int] = {}
        self._stop = threading.Event()
        self._failure = ""
        self._thread = threading.Thread(target=self._run, name="headrace-lists", daemon=True)

    @property
    def not_ready(self) -> str | None:
        """Why stored lists are not complete; None when they are."""
        if self._stored.is_complete:
            return None
        return self._failure or f"lists are being read ({len(self._stored)} so far)"

    def announced(self) -> list[Announcement]:
        """Announcements on the topic and in the watched folder, the last one of each release, newest first."""
        every = [*self._announcements.copy().values(), *self._in_folder.values()]
        last: dict[bytes, Announcement] = {}
        for announcement in sorted(every, key=lambda release: release.announced_ms):
            last.pop(announcement.key, None)
            last[announcement.key] = announcement
        return [*reversed(last.values())]

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """Stop."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._follow()
            except EventLogError as error:
                if str(error) != self._failure:
                    logger.error("lists cannot be followed, trying again: %s", error)
                self._failure = str(error)
            self._stop.wait(_PAUSE_S if self._failure else 0.0)

    def _follow(self) -> None:
        """Read until the server stops, or until one of the topics comes into being that did not exist."""
        self._look_into_folder()
        topics = self._existing()
        if self._lists not in topics:
            self._failure = f"topic {self._lists!r} (recommendations.topic) does not exist yet"
            return
        with self._log.reader(topics) as reader:
            for partition, bounds in reader.bounds.items():
                start = bounds.stop if partition.topic == self._dead_letters else bounds.start
                reader.seek(partition, min(self._positions.get(partition, start), bounds.stop))
            self._failure = ""
            while not self._stop.is_set():
                self._read(reader)
                self._look_into_folder()

    def _look_into_folder(self) -> None:
        """Read the announcements of the watched folder again; what cannot be read leaves them as they are."""
        now_s = time.monotonic()
        if self._folder is None or now_s < self._folder_due_s:
            return
        self._folder_due_s = now_s + _PAUSE_S
        try:
            self._in_folder = self._folder.registry().versions
        except ReleaseError as error:  # the loader follows it as well, and warns
            logger.debug("the folder of releases: %s", error)

    def _existing(self) -> list[str]:
        topics = [self._lists, self._releases, *([self._dead_letters] if self._on_dead_letter else [])]
        return [topic for topic in topics if self._log.partitions(topic)]

    def _read(self, reader: Reader) -> None:
        for records in reader.poll(_POLL_S, _MAX_RECORDS):
            if records.partition.topic == self._lists:
                self._take_lists(records)
            elif records.partition.topic == self._releases:
                self._take_announcements(records)
            elif self._on_dead_letter is not None:
                for headers in records.headers:
                    self._on_dead_letter(dict(headers).get(_REASON_HEADER, b"unknown").decode(errors="replace"))
            self._positions[records.partition] = records.offsets[-1] + 1
        if not self._stored.is_complete and reader.at_end():
            self._stored.is_complete = True
            logger.info("lists of %d users are here", len(self._stored))

    def _take_lists(self, records: Records) -> None:
        is_new = self._stored.is_complete
        for key, value, append_ms in zip(records.keys, records.values, records.timestamps_ms, strict=True):
            if key is None:
                continue
            user = key.decode(errors="replace")
            self._stored.put(user, value or None)
            if is_new:
                self._on_list(user, value or None, append_ms)

    def _take_announcements(self, records: Records) -> None:
        for key, value in zip(records.keys, records.values, strict=True):
            try:
                announcement = _announcement.decode(value) if value else None
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                continue
            if announcement is None:
                self._announcements.pop(key or b"", None)
            else:
                self._announcements[key or b""] = announcement
