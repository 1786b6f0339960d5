"""Rules of the engine, each broken on purpose, and a seed that finds it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from engine.errors import EventLogError
from engine.eventlog import commit_steps
from engine.eventlog.base import Outgoing, Partition
from engine.eventlog.commit_steps import Holder
from engine.eventlog.share_watch import ShareWatch
from engine.windows import changelog
from engine.windows.restorer import Restorer
from engine.windows.users import UserWindows
from engine.worker.batch import Processor
from engine.worker.loop import Worker
from tests.simulation.broker import Broker
from tests.simulation.faulty_log import FaultyLog, FaultySession


@dataclass(frozen=True, slots=True)
class Mutation:
    """A rule, and the code that takes the place of what keeps it."""

    owner: Any
    name: str
    instead: Any
    seed: int
    """Finds it."""


def _nothing(*_args: object, **_options: object) -> None:
    """Do nothing."""


def _positions_last(steps: FaultySession, positions: Mapping[Partition, int], state: Sequence[Outgoing]) -> Any:
    for outgoing in state:
        steps.send(outgoing)
    ends = steps.flush()
    steps.complete()
    if positions:
        steps.check_membership()
        steps.record_positions(positions)
        steps.complete()
    return ends


def _positions_without_records(
    steps: FaultySession, positions: Mapping[Partition, int], state: Sequence[Outgoing]
) -> Any:
    if positions:
        steps.check_membership()
        steps.record_positions(positions)
        steps.complete()
    for outgoing in state:
        steps.send(outgoing)
    ends = steps.flush()
    steps.complete()
    return ends


def _windows_first(steps: FaultySession, positions: Mapping[Partition, int], state: Sequence[Outgoing]) -> Any:
    lists, steps._outbox = steps._outbox, []
    for outgoing in state:
        steps.send(outgoing)
    ends = steps.flush()
    steps._outbox = lists
    steps.flush()
    if positions:
        steps.check_membership()
        steps.record_positions(positions)
    return ends


def _positions_before_windows(
    steps: FaultySession, positions: Mapping[Partition, int], state: Sequence[Outgoing]
) -> Any:
    steps.flush()
    if positions:
        steps.check_membership()
        steps.record_positions(positions)
    for outgoing in state:
        steps.send(outgoing)
    return steps.flush()


def _not_fenced(broker: Broker, producer: str) -> int:
    return broker._epochs.setdefault(producer, 0)


def _ends_nothing(*_args: object) -> bool:
    """Look, and do nothing."""
    return True


def _repeat_the_end(session: FaultySession) -> None:
    """As Kafka's clients do by themselves."""
    session._complete()


def _abort_by_its_own_producer(session: FaultySession) -> None:
    broker = session._broker
    if session._producer in broker.open:
        broker.end(broker.open[session._producer], "aborted")


_end_abandoned = FaultyLog.end_abandoned


def _end_on_the_changelog_only(log: FaultyLog, partitions: Sequence[Partition], _shared: Sequence[str] = ()) -> bool:
    return _end_abandoned(log, partitions)


def _keep_the_session(worker: Worker, _error: EventLogError) -> float:
    del worker
    return 0.5


_begin = Restorer.begin


def _begin_with_old_ends(restorer: Restorer, partitions: Sequence[int]) -> None:
    outdated = restorer._outdated
    _begin(restorer, partitions)
    restorer._outdated = outdated


_changes = UserWindows.changes


def _no_tombstones(windows: UserWindows, slots: Any, _forgotten: Any, positions: Any = None) -> Outgoing:
    return _changes(windows, slots, [], positions)


def _all_or_nothing(windows: UserWindows, changes: Any, place: str, _aside: Any) -> Iterator[Any]:
    if changes:
        yield windows._codec.decode(
            [user for user, _ in changes], [change.value or b"" for _, change in changes], place
        )


def _no_rewrites(windows: UserWindows, _partitions: Sequence[int]) -> Outgoing:
    return Outgoing(windows._topic)


MUTATIONS: Mapping[str, Mutation] = {
    "exactly once: positions after the transaction": Mutation(commit_steps, "exactly_once", _positions_last, 1),
    "exactly once: positions before the records": Mutation(commit_steps, "exactly_once", _positions_without_records, 1),
    "at least once: windows before lists": Mutation(commit_steps, "at_least_once", _windows_first, 16),
    "at least once: positions before windows": Mutation(commit_steps, "at_least_once", _positions_before_windows, 16),
    "the membership is not checked": Mutation(Holder, "check", _nothing, 59),
    "a predecessor is not fenced": Mutation(Broker, "init_producer", _not_fenced, 3),
    "what a dead worker left open is not ended": Mutation(FaultyLog, "end_abandoned", _ends_nothing, 3),
    "a call without an answer is repeated": Mutation(FaultySession, "_unanswered", _repeat_the_end, 287),
    "a producer without an answer aborts": Mutation(FaultySession, "_end_open", _abort_by_its_own_producer, 225),
    "what no coordinator knows is not ended": Mutation(Broker, "end_hanging", _nothing, 3),
    "only the changelog is looked at": Mutation(FaultyLog, "end_abandoned", _end_on_the_changelog_only, 85),
    "partitions are served before anybody looked": Mutation(Restorer, "_may_serve", lambda *_: True, 1533),
    "a session goes on after a failure": Mutation(Worker, "_leave_after", _keep_the_session, 3),
    "windows are kept after a failure": Mutation(Processor, "clear", _nothing, 8),
    "clicks do not wait for their windows": Mutation(FaultySession, "pause", _nothing, 0),
    "a reader's old ends are believed": Mutation(Restorer, "begin", _begin_with_old_ends, 6),
    "an older window replaces a newer one": Mutation(changelog, "is_older", lambda *_: False, 80),
    "an older window that came last stays there": Mutation(UserWindows, "rewrites", _no_rewrites, 80),
    "another writer is not noticed": Mutation(UserWindows, "take_intruded", lambda _windows: [], 80),
    "nobody looks for partitions that nobody reads": Mutation(ShareWatch, "look", _nothing, 165),
    "one record that cannot be read stops its partition": Mutation(UserWindows, "_readable", _all_or_nothing, 2),
    "a forgotten user has no tombstone": Mutation(UserWindows, "changes", _no_tombstones, 4),
}


@contextmanager
def broken(name: str) -> Iterator[None]:
    """The engine with this rule broken."""
    mutation = MUTATIONS[name]
    with ExitStack() as stack:
        stack.enter_context(patch.object(mutation.owner, mutation.name, mutation.instead))
        yield


def first_seed(name: str, fails: Callable[[int], bool], most: int) -> int | None:
    """The first of so many seeds that finds the broken rule."""
    with broken(name):
        return next((seed for seed in range(most) if fails(seed)), None)
