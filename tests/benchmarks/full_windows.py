"""Full windows (L = 100) of many users on a changelog, made without a worker; any reader can recompute them."""

from collections.abc import Iterator

import numpy as np

from engine.arrays import Int64
from engine.catalogue.actions import Actions
from engine.catalogue.ids import Catalogue
from engine.eventlog.base import EventLog, Outgoing
from engine.settings.sections import Settings
from engine.windows.codec import WindowCodec
from engine.windows.packed import PackedWindows

LENGTH = 100
ITEMS = 100_000
FIRST_MS = 1_700_000_000_000
USERS_AT_ONCE = 2_500


def fill(log: EventLog, settings: Settings, users: int, partitions: int) -> None:
    """Put the windows of so many users on the changelog, spread over its partitions."""
    catalogue = Catalogue()
    catalogue.numbers([f"i{number}" for number in range(ITEMS)])
    codec = WindowCodec(catalogue, Actions(settings.clicks))
    with log.producer() as producer:
        for turn, packed in enumerate(_windows(users)):
            keys: list[bytes | None] = [user.encode() for user in packed.users]
            values: list[bytes | None] = [*codec.encode(packed)]
            numbers = [turn % partitions] * len(packed)
            producer.send(Outgoing(settings.windows.topic, keys, values, partitions=numbers))
            producer.flush()


def name(user: int) -> str:
    """Id of the user with this number."""
    return f"user-{user:08d}"


def window(user: int) -> tuple[list[str], list[int]]:
    """Items and times in ms of a user's events, oldest first."""
    alone = np.array([user])
    return [f"i{number}" for number in _items(alone)[0].tolist()], _times_ms(alone)[0].tolist()


def _windows(count: int) -> Iterator[PackedWindows]:
    for start in range(0, count, USERS_AT_ONCE):
        users = np.arange(start, min(start + USERS_AT_ONCE, count))
        events = len(users) * LENGTH
        yield PackedWindows(
            users=list(map(name, users.tolist())),
            counts=np.full(len(users), LENGTH),
            items=_items(users).ravel().astype(np.int32),
            times_ms=_times_ms(users).ravel(),
            actions=np.resize(np.array([1, 1, 1, 5, 7], np.uint8), events),
            event_hashes=np.zeros(events, np.uint32),
        )


def _items(users: Int64) -> Int64:
    """[B, L] items spread all over the catalogue; a linear congruence is enough to leave few windows alike."""
    return (users[:, None] * 7919 + np.arange(LENGTH) * 104_729) % ITEMS


def _times_ms(users: Int64) -> Int64:
    """[B, L]"""
    return FIRST_MS + users[:, None] % 1000 + np.arange(LENGTH) * 60_000
