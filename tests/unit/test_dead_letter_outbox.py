"""Dead letters in the sizes that their topic takes."""

import logging
from hashlib import sha256

import pytest

from engine.errors import RecordRefusedError
from engine.eventlog.base import Partition
from engine.ingest.dead_letters import HEAD_BYTES, DeadLetter
from engine.metrics import Metrics
from engine.worker.dead_letter_outbox import LIMITS, DeadLetterOutbox

REFUSED = RecordRefusedError("topic 'clicks.dead': MESSAGE_TOO_LARGE", "clicks.dead")


def letter(size: int, key: bytes | None = b"ann") -> DeadLetter:
    return DeadLetter(key, b"v" * size, [("trace", b"1")], 0, Partition("clicks", 3), 41, "too_large", f"{size} bytes")


def sizes(outbox: DeadLetterOutbox, letters: list[DeadLetter], now_s: float = 0.0) -> list[int]:
    return [len(value or b"") for value in outbox.outgoing(letters, now_s).values]


def test_a_letter_that_fits_is_sent_whole() -> None:
    outgoing = DeadLetterOutbox("clicks.dead", Metrics()).outgoing([letter(1_000_000)], 0.0)
    assert (outgoing.topic, outgoing.keys, outgoing.values) == ("clicks.dead", [b"ann"], [b"v" * 1_000_000])


def test_a_letter_larger_than_any_record_keeps_head_size_and_checksum() -> None:
    outgoing = DeadLetterOutbox("clicks.dead", Metrics()).outgoing([letter(20_000_000), letter(7)], 0.0)
    assert outgoing.values == [b"v" * HEAD_BYTES, b"v" * 7]
    cut, complete = (dict(headers) for headers in outgoing.headers or [])
    assert cut["headrace.value_bytes"] == b"20000000"
    assert cut["headrace.value_sha256"] == sha256(b"v" * 20_000_000).hexdigest().encode()
    assert (cut["headrace.topic"], cut["headrace.partition"], cut["headrace.offset"]) == (b"clicks", b"3", b"41")
    assert cut["trace"] == b"1"
    assert "headrace.value_bytes" not in complete


def test_key_and_headers_that_are_too_large_are_left_out() -> None:
    big = DeadLetter(b"k" * 20_000_000, b"v", [("h", b"x" * 3_000_000)], 0, Partition("clicks", 0), 1, "empty_id", "")
    cut = big.cut_to(LIMITS[1])
    assert (cut.key, cut.value, list(cut.headers)) == (None, b"v", [])
    assert cut.size < LIMITS[1]


def test_each_refusal_makes_letters_smaller_than_the_one_refused() -> None:
    outbox = DeadLetterOutbox("clicks.dead", Metrics())
    letters = [letter(5_000_000), letter(50)]
    sent = [sizes(outbox, letters)]
    while outbox.limit:
        outbox.refused(REFUSED, 0.0)
        sent.append(sizes(outbox, letters))
    assert sent == [[5_000_000, 50], [HEAD_BYTES, 50], [8192, 50], [1024, 50], []]


def test_small_letters_that_are_refused_are_given_up_at_once_and_tried_again_later(
    caplog: pytest.LogCaptureFixture,
) -> None:
    metrics = Metrics()
    outbox = DeadLetterOutbox("clicks.dead", metrics)
    dead = [letter(50)]
    assert sizes(outbox, dead) == [50]
    outbox.refused(REFUSED, 100.0)
    assert sizes(outbox, dead, 101.0) == []
    with caplog.at_level(logging.ERROR):
        outbox.count(dead)
    assert "no click, and no dead letter of it: clicks/3/41: too_large, 50 bytes" in caplog.text
    assert metrics.registry.get_sample_value("headrace_unsent_dead_letters_total") == 1
    assert metrics.registry.get_sample_value("headrace_dead_letters_total", {"reason": "too_large"}) == 1
    assert sizes(outbox, dead, 701.0) == [50]
