"""What should have happened, one event at a time: the plain model of the windows, fed with the topic of clicks."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tests.properties.test_window_store import Event, Model

GARBAGE = "garbage"
FORGET = "forget"


@dataclass(frozen=True, slots=True)
class Input:
    """A record of the topic of clicks: an event, a wish to be forgotten, or no click at all."""

    kind: str
    user: str
    event: Event | None = None


@dataclass(frozen=True, slots=True)
class BatchEffect:
    """What a batch should leave behind."""

    lists: dict[str, int | None]
    """By user, the offset that names the list; None for a null in its place."""
    windows: dict[str, list[tuple[int, int]]]
    """By user, items and times of the window, oldest first; empty for a null in its place."""
    dead_letters: int


class Reference:
    """The windows of one partition after its first inputs."""

    def __init__(self, inputs: Sequence[Input]) -> None:
        self._inputs = inputs
        self._model = Model()
        self.position = 0

    def window(self, user: str) -> list[tuple[int, int]]:
        """Items and times, oldest first."""
        return [(event.item, event.time_ms) for event in self._model.windows[user]]

    def windows(self) -> dict[str, list[tuple[int, int]]]:
        """All windows that are not empty."""
        return {user: self.window(user) for user, events in self._model.windows.items() if events}

    def advance(self, stop: int) -> BatchEffect:
        """Take the inputs up to offset `stop` as one batch."""
        changed, newest, forgotten, dead_letters = set[str](), dict[str, int](), set[str](), 0
        for offset, record in self._until(stop):
            if record.event is not None:
                before = self.window(record.user)
                self._model.add(record.event)
                newest[record.user] = offset
                if self.window(record.user) != before:
                    changed.add(record.user)
            elif record.kind == FORGET:
                self._model.windows[record.user].clear()
                forgotten.add(record.user)
                changed.discard(record.user)
                newest.pop(record.user, None)
            else:
                dead_letters += 1
        gone = forgotten - newest.keys()
        return BatchEffect(
            lists={user: newest[user] for user in changed} | dict.fromkeys(gone),
            windows={user: self.window(user) for user in changed} | {user: [] for user in gone},
            dead_letters=dead_letters,
        )

    def _until(self, stop: int) -> Iterator[tuple[int, Input]]:
        for offset in range(self.position, stop):
            yield offset, self._inputs[offset]
        self.position = max(self.position, stop)


def last_changes(inputs: Sequence[Input]) -> dict[str, int]:
    """For each user with a window, the offset of the newest input that changed it."""
    reference, last = Reference(inputs), dict[str, int]()
    for stop in range(1, len(inputs) + 1):
        effect = reference.advance(stop)
        last |= {user: offset for user, offset in effect.lists.items() if offset is not None}
        for user, offset in effect.lists.items():
            if offset is None:
                last.pop(user, None)
    return last
