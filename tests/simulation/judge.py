"""The judge: what a finished world must look like, by the plain model of the windows."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from engine.catalogue.actions import Actions
from engine.catalogue.ids import Catalogue
from engine.errors import EventLogError
from engine.eventlog.base import Partition
from engine.eventlog.time_source import TimeSource
from engine.messages.recommendation import Recommendation, decode_recommendation
from engine.metrics import Metrics
from engine.windows.packed import PackedWindows
from engine.windows.restorer import Restorer
from engine.windows.snapshots import Snapshots
from engine.windows.users import UserWindows
from tests.simulation import world as simulated
from tests.simulation.broker import CHANGELOG, Entry, Transaction
from tests.simulation.faulty_log import FaultyLog
from tests.simulation.reference import BatchEffect, Reference, last_changes
from tests.simulation.world import GROUP, Failure, Script, World, settings_of

Windows = dict[str, list[tuple[str, int]]]
"""By user, items and times, oldest first."""
_METRICS = Metrics()


def run(chosen: Script) -> World:
    """Run a script and judge what it left behind.

    Raises:
        Failure: a promise was broken; it carries the trace.
    """
    return simulated.run(chosen, judge)


def judge(world: World) -> None:
    """Compare with the plain model.

    Raises:
        Failure: naming what differs.
    """
    restored = _restored(world)
    for number, inputs in world.inputs.items():
        reference = Reference(inputs)
        reference.advance(len(inputs))
        expected = {user: _named(world, window) for user, window in reference.windows().items()}
        _same_windows(world, expected, restored.get(number, {}), f"restored from windows/{number}")
        for process in world.processes:
            if process.worker is not None and number in process.worker._restorer.restored():
                held = _held(process.worker._processor.windows, process.worker._processor._catalogue, number)
                _same_windows(world, expected, held, f"held by {process.name}")
    if world.script.delivery == "exactly_once":
        _judge_transactions(world)
    else:
        _judge_newest_lists(world)


def _restored(world: World) -> dict[int, Windows]:
    """What a successor would restore, by partition."""
    settings = settings_of(world.script.delivery, None, small_store=False, standby=False)
    actions, catalogue = Actions(settings.clicks), Catalogue()
    windows = UserWindows(settings, catalogue, actions)
    log = FaultyLog(world, "judge", world.script.delivery)
    time = TimeSource(lambda: world.broker.now_s, lambda: world.broker.wall_ms)
    restorer = Restorer(settings, log, windows, Snapshots(settings.snapshots, catalogue, actions), _METRICS, time)
    restorer.begin(list(world.inputs))
    for _ in range(1_000):
        if not restorer.waits():
            return {number: _held(windows, catalogue, number) for number in world.inputs}
        try:
            restorer.step(0.0)
        except EventLogError as error:
            raise Failure(f"the changelog cannot be restored: {error}") from error
    raise Failure("the changelog cannot be read to its end")


def _held(windows: UserWindows, catalogue: Catalogue, number: int) -> Windows:
    return _unpacked(windows.pack(number), catalogue)


def _unpacked(packed: PackedWindows, catalogue: Catalogue) -> Windows:
    events = list(zip(catalogue.ids(packed.items.tolist()), packed.times_ms.tolist(), strict=True))
    ends = np.append(0, np.cumsum(packed.counts)).tolist()
    return {user: events[start:end] for user, (start, end) in zip(packed.users, pairwise(ends), strict=True)}


def _named(world: World, window: Sequence[tuple[int, int]]) -> list[tuple[str, int]]:
    return [(world.item(item), time_ms) for item, time_ms in window]


def _same_windows(world: World, expected: Windows, actual: Windows, where: str) -> None:
    for user in sorted(expected.keys() | actual.keys()):
        window, reference = actual.get(user, []), expected.get(user, [])
        if user in world.tainted:
            window, reference = (window[-1:], reference[-1:]) if user in world.healed else ([], [])
        if window != reference:
            raise Failure(f"window of {user} {where}: {_short(window)}, expected {_short(reference)}")


def _short(window: Sequence[tuple[str, int]]) -> str:
    return " ".join(f"{item}@{time_ms % 1_000_000}" for item, time_ms in window) or "empty"


def _judge_transactions(world: World) -> None:
    """Each batch left exactly its lists, its windows, its dead letters and its positions, and nothing else did."""
    references = {Partition("clicks", number): Reference(inputs) for number, inputs in world.inputs.items()}
    seen = set[int]()
    for transaction, positions in world.broker.group(GROUP).history:
        if transaction is None:
            raise Failure("positions were recorded outside a transaction")
        seen.add(id(transaction))
        effects = []
        for partition, stop in positions.items():
            if stop < references[partition].position:
                raise Failure(
                    f"{partition} went back from {references[partition].position} to {stop}: clicks came twice"
                )
            effects.append((partition.number, references[partition].advance(stop)))
        _judge_transaction(world, transaction, effects, positions)
    for transaction in world.broker.committed:
        # A window that is written once more changes nothing: what is restored is compared, too.
        if id(transaction) not in seen and any(partition.topic != CHANGELOG for partition, _ in transaction.records):
            raise Failure("records became visible without positions")


def _judge_transaction(
    world: World,
    transaction: Transaction,
    effects: Sequence[tuple[int, BatchEffect]],
    positions: dict[Partition, int],
) -> None:
    batch = ", ".join(f"clicks/{partition.number} up to {stop}" for partition, stop in positions.items())
    lists: dict[str, int | None] = {}
    windows = set[str]()
    dead_letters = 0
    for _, effect in effects:
        lists |= effect.lists
        windows |= effect.windows.keys()
        dead_letters += effect.dead_letters
    actual = {partition.topic: [] for partition, _ in transaction.records}  # type: dict[str, list[Entry]]
    for partition, entry in transaction.records:
        actual[partition.topic].append(entry)
    _compare(world, lists, _lists(actual.get("recommendations", ())), f"lists of {batch}")
    _compare(world, dict.fromkeys(windows), dict.fromkeys(_keys(actual.get("windows", ()))), f"windows of {batch}")
    if len(actual.get("clicks.dead", ())) != dead_letters:
        raise Failure(f"dead letters of {batch}: {len(actual.get('clicks.dead', ()))}, expected {dead_letters}")
    contents = {user: window for _, effect in effects for user, window in effect.windows.items()}
    for entry in actual.get("recommendations", ()):
        if entry.value is not None:
            _judge_content(world, decode_recommendation(entry.value), contents)


def _compare(world: World, expected: dict[str, int | None], actual: dict[str, int | None], what: str) -> None:
    for user in sorted((expected.keys() | actual.keys()) - world.tainted):
        if expected.get(user, "none") != actual.get(user, "none"):
            raise Failure(f"{what}: {user} has {actual.get(user, 'none')}, expected {expected.get(user, 'none')}")


def _lists(entries: Sequence[Entry]) -> dict[str, int | None]:
    """By user, the offset that names the list; None for a null."""
    found: dict[str, int | None] = {}
    for entry in entries:
        user = (entry.key or b"").decode()
        if user in found:
            raise Failure(f"{user} has two lists in one transaction")
        found[user] = None if entry.value is None else place(decode_recommendation(entry.value))[1]
    return found


def _keys(entries: Sequence[Entry]) -> list[str]:
    return [(entry.key or b"").decode() for entry in entries]


def _judge_content(world: World, message: Recommendation, windows: dict[str, list[tuple[int, int]]]) -> None:
    """A mirror lists the window; a real list names no item of it, and has the newest event's time."""
    if message.user in world.tainted:
        return
    window = windows[message.user]
    items = [listed.item for listed in message.items]
    newest_first = [world.item(item) for item, _ in reversed(window)]
    if message.event_ms != window[-1][1]:
        raise Failure(f"list {message.id} of {message.user} knows {message.event_ms}, expected {window[-1][1]}")
    if world.script.lists == "mirror" and items != newest_first:
        raise Failure(f"list {message.id} of {message.user} was made of {items}, expected {newest_first}")
    if world.script.lists == "real" and (len(items) != len(set(items) - set(newest_first))):
        raise Failure(f"list {message.id} of {message.user} has an item twice, or one of the window: {items}")


def place(message: Recommendation) -> tuple[int, int]:
    """Partition and offset of the newest click that a list knows."""
    partition, offset, _ = message.id.split("-", 2)
    return int(partition), int(offset)


def _judge_newest_lists(world: World) -> None:
    """Every user with a window has a list that knows the last change of it."""
    newest: dict[str, tuple[int, Recommendation]] = {}
    for partition in world.broker.partitions("recommendations"):
        for entry in world.broker.log(partition).entries:
            if entry.value is not None and entry.is_readable():
                listed = decode_recommendation(entry.value)
                if listed.user not in newest or place(listed)[1] >= newest[listed.user][0]:
                    newest[listed.user] = place(listed)[1], listed
    for number, inputs in world.inputs.items():
        reference = Reference(inputs)
        reference.advance(len(inputs))
        for user, offset in last_changes(inputs).items():
            known = newest[user][0] if user in newest else -1
            if known < offset:
                raise Failure(f"a list of {user} was lost: the newest knows clicks/{number}@{known}, expected {offset}")
            if user not in world.tainted:
                _judge_content(world, newest[user][1], {user: reference.window(user)})
