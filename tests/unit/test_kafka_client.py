"""Waiting for the client library has an end, and closing it leaves nothing open."""

import socket
import threading
import time
from collections.abc import Iterator

import pytest
from kafka.errors import KafkaTimeoutError  # noqa: TID251 - what the library is made to raise
from kafka.future import Future  # noqa: TID251 - what it waits for

from engine.eventlog.kafka import client


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Iterator[client._Loop]:
    monkeypatch.setattr(client, "MAX_WAIT_S", 0.2)
    loop = client._Loop()
    loop.start()
    yield loop
    loop.close()


async def never() -> None:
    await Future()


async def soon() -> str:
    return "answer"


def test_what_is_never_answered_is_given_up(loop: client._Loop) -> None:
    for _ in range(2):
        started = time.monotonic()
        with pytest.raises(KafkaTimeoutError, match="no answer within"):
            loop.run(never)
        assert 0.2 <= time.monotonic() - started < 2.0
        assert loop.run(soon) == "answer"


def test_short_waits_go_on_for_long(loop: client._Loop) -> None:
    enough = time.monotonic() + 0.6
    while time.monotonic() < enough:
        assert loop.run(soon) == "answer"


def test_a_socket_that_is_still_written_to_is_closed_with_the_loop(loop: client._Loop) -> None:
    near, far = socket.socketpair()
    waits = threading.Event()

    async def write() -> None:
        waits.set()
        await loop.wait_write(near)

    with far:
        near.setblocking(False)
        while True:
            try:
                near.send(bytes(65_536))
            except BlockingIOError:  # the other end takes no more
                break
        loop.call_soon_threadsafe(write)
        assert waits.wait(2.0)
        loop.close()
        assert near.fileno() == -1
