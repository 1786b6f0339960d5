"""Randomly damaged clicks of several field mappings: each is decoded or dead-lettered, and none stalls the decoder.

20,000 messages, or 100,000 with LONG_TESTS=1; GARBAGE_SEED changes them:

    GARBAGE_SEED=7 LONG_TESTS=1 pytest tests/properties/test_garbage.py

Decoded clicks go on into windows, their changelog and a copy of the windows, and dead letters become headers: a text
that can be read but not written would stop the stream too.
"""

import os
import time
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from engine.arrays import Clicks, Int32
from engine.catalogue.actions import Actions
from engine.catalogue.ids import Catalogue
from engine.eventlog.base import Outgoing, Partition, Records
from engine.ingest.dead_letters import DeadLetter
from engine.ingest.decoder import ClickDecoder
from engine.settings.sections import ClickFields, ClickSettings, Settings, WindowSettings
from engine.windows.store import Events
from engine.windows.users import UserWindows

SEED = int(os.environ.get("GARBAGE_SEED", "1"))
MESSAGES = 100_000 if os.environ.get("LONG_TESTS") else 20_000
BATCH = 500
BATCH_LIMIT_S = 5.0
"""CPU time of one batch, which takes some ten milliseconds: far above that of a slow machine, far below a stall."""
NOW_MS = 1_700_000_000_000
USERS, ITEMS, SPREAD_MS, LENGTH = 300, 50, 5_000, 20

MAPPINGS = {
    "flat": ClickSettings(),
    "nested": ClickSettings(
        fields=ClickFields(
            user="who.id", item="what.sku.id", time="at", action="what.kind", event_id="meta.id", consent="who.consent"
        ),
        time_unit="iso8601",
    ),
    "consent required": ClickSettings(
        fields=ClickFields(search="a.b", action="a.c.d", event_id="a.e", consent="f.g"), require_consent=True
    ),
    "log's own time": ClickSettings(fields=ClickFields(user="u", item="i", time="", action="", event_id="")),
    "seconds": ClickSettings(fields=ClickFields(event_id="e.i.d"), time_unit="s", max_id_bytes=20, max_bytes=2_000),
}

ODD_VALUES = [
    *(b"null", b"true", b"false", b"[]", b"{}", b'""', b"NaN", b"-Infinity", b"'a'"),
    *(b"0", b"-0", b"-1", b"0.5", b"1e3", b"1e308", b"1e400", b"-1e-400", b"01", b"4000000000", b"4000000000000"),
    *(b"%d" % (2**bits + less) for bits in (31, 42, 53, 63, 64, 1000) for less in (-1, 0, 1)),
    *(b"9" * 5_000, b"0." + b"9" * 5_000, b'"' + b"9" * 5_000 + b'"'),
    *(b'"\\u0000"', b'"\\ud800"', b'"\\udc00\\ud800"', b'"\\ud83d\\ude00"', '"\u202e\u0301\U0001f600"'.encode()),
    *(b'"\xed\xa0\x80"', b'"\xc0\xaf"', b'"\xff"', b'"\n"', b'"\\x"', ('"' + "é" * 400 + '"').encode()),
    *(b'"2090-01-01T00:00:00Z"', b'"0001-01-01T00:00:00+23:59"', b'"9999-12-31T23:59:59-23:59"'),
    *(b'"2023-02-30T00:00:00Z"', b'"2023-01-01"', b'"2023-01-01T00:00:00.123456789"', b'"-2023-01-01T00:00:00Z"'),
    *(b"[" * deep + b"]" * deep for deep in (10, 1_000, 100_000)),
    *(b'{"a":' * deep + b"1" + b"}" * deep for deep in (10, 1_000, 100_000)),
]
ODD_BYTES = [
    b"\xff",
    b"\xef\xbb\xbf",
    b"\x00",
    b"\\",
    b'"',
    b"{",
    b"}",
    b"[" * 2_000,
    b",",
    b":",
    b"\\ud800",
    b"\xf0\x9f",
]


class Mutator:
    """Generator of damaged clicks for one field mapping; the same seed gives the same clicks."""

    def __init__(self, settings: ClickSettings, rng: np.random.Generator) -> None:
        self._settings = settings
        self._rng = rng
        self._byte_mutations: list[Callable[[bytearray], None]] = [
            self._flip_bit,
            self._cut,
            self._double,
            self._splice,
            self._insert,
        ]

    def message(self) -> bytes:
        """A click with one to three mutations, of its values or of its bytes."""
        fields = self._click()
        mutations = self._below(3) + 1
        value_mutations = self._below(mutations + 1)
        for _ in range(value_mutations):
            self._mutate_value(fields)
        raw = bytearray(_assembled(fields))
        for _ in range(mutations - value_mutations):
            self._byte_mutations[self._below(len(self._byte_mutations))](raw)
        return bytes(raw)

    def _click(self) -> dict[str, bytes]:
        """Raw values of a valid click, by path."""
        names = self._settings.fields
        values = {
            names.user: b'"u%d"' % self._below(USERS),
            names.item: b"%d" % self._below(ITEMS),
            names.time: self._time(NOW_MS - self._below(SPREAD_MS)),
            names.action: [b'"buy"', b'"view"', b"null"][self._below(3)],
            names.event_id: b"%d" % self._below(10 * USERS),
            names.consent: b"true",
            "unmapped": b'[1,{"two":3}]',
        }
        return {path: value for path, value in values.items() if path}

    def _time(self, time_ms: int) -> bytes:
        by_unit = {
            "ms": str(time_ms),
            "s": str(time_ms / 1000),
            "iso8601": f'"{np.datetime64(time_ms, "ms")}Z"',
        }
        return by_unit[self._settings.time_unit].encode()

    def _mutate_value(self, fields: dict[str, bytes]) -> None:
        """Replace a value by an odd one, or remove it."""
        path = list(fields)[self._below(len(fields))]
        number = self._below(len(ODD_VALUES) + 5)
        if number < len(ODD_VALUES):
            fields[path] = ODD_VALUES[number]
        elif len(fields) > 1:
            del fields[path]

    def _flip_bit(self, raw: bytearray) -> None:
        if raw:
            raw[self._below(len(raw))] ^= 1 << self._below(8)

    def _cut(self, raw: bytearray) -> None:
        del raw[self._piece(raw)]

    def _double(self, raw: bytearray) -> None:
        piece = self._piece(raw)
        raw[piece] = raw[piece] * 2

    def _splice(self, raw: bytearray) -> None:
        """Replace the end of the message by the end of another."""
        other = _assembled(self._click())
        raw[self._below(len(raw) + 1) :] = other[self._below(len(other)) :]

    def _insert(self, raw: bytearray) -> None:
        start = self._below(len(raw) + 1)
        raw[start:start] = ODD_BYTES[self._below(len(ODD_BYTES))]

    def _piece(self, raw: bytearray) -> slice:
        start = self._below(len(raw) + 1)
        return slice(start, start + self._below(12))

    def _below(self, limit: int) -> int:
        return int(self._rng.integers(limit))


class Process:
    """A window store and its changelog, with item numbers of its own."""

    def __init__(self, clicks: ClickSettings) -> None:
        settings = Settings(clicks=clicks, windows=WindowSettings(length=LENGTH, max_users=MESSAGES))
        self.catalogue, self.actions = Catalogue(), Actions(clicks)
        self.user_windows = UserWindows(settings, self.catalogue, self.actions)
        self.store = self.user_windows.store

    def append(self, clicks: Clicks) -> Int32:
        """Add clicks; returns the slots that changed."""
        events = Events(
            slots=self.store.slots(clicks.users, np.zeros(len(clicks), np.int32)),
            items=self.catalogue.numbers(clicks.items),
            times_ms=clicks.times_ms,
            actions=clicks.actions,
            event_hashes=clicks.event_hashes,
        )
        appended = self.store.append(events)
        assert 0 <= appended.repeated + appended.late + appended.expired <= len(clicks)
        return appended.changed

    def windows(self) -> dict[str, list[tuple[str, int, int, int]]]:
        """Every user's item, time, action and hash of the event id, oldest first."""
        packed = self.store.pack(self.store.held(0))
        items = self.catalogue.ids(packed.items.tolist())
        columns = (packed.times_ms.tolist(), packed.actions.tolist(), packed.event_hashes.tolist())
        events = zip(items, *columns, strict=True)
        return {
            user: [next(events) for _ in range(count)]
            for user, count in zip(packed.users, packed.counts.tolist(), strict=True)
        }


@pytest.mark.timeout(120)
def test_garbage_is_decoded_or_dead_lettered() -> None:
    rng = np.random.default_rng(SEED)
    reasons = Counter[str]()
    for settings in MAPPINGS.values():
        reasons += _survives(settings, Mutator(settings, rng), MESSAGES // len(MAPPINGS))
    assert set(reasons) == {
        "decoded",
        "too_large",
        "unparsable",
        "missing_field",
        "mistyped_field",
        "empty_id",
        "long_id",
        "time_out_of_range",
        "time_in_future",
    }, reasons
    assert min(reasons["decoded"], MESSAGES - reasons["decoded"]) > MESSAGES // 10, reasons


def _survives(settings: ClickSettings, mutator: Mutator, count: int) -> Counter[str]:
    """Numbers of messages by outcome; fails when a message is lost or a batch takes too long."""
    decoder = ClickDecoder(settings, Actions(settings))
    source, copy = Process(settings), Process(settings)
    reasons = Counter[str]()
    for start in range(0, count, BATCH):
        records = _records([mutator.message() for _ in range(min(BATCH, count - start))])
        started_s = time.thread_time()
        clicks, dead_letters = decoder.decode([records], NOW_MS)
        changes = source.user_windows.changes(source.append(clicks), [])
        copy.user_windows.apply(_as_records(changes))
        assert time.thread_time() - started_s < BATCH_LIMIT_S
        _check_nothing_is_lost(records, clicks, dead_letters)
        reasons["decoded"] += len(clicks) + clicks.without_consent
        reasons += Counter(letter.reason for letter in dead_letters)
    assert reasons.total() == count
    windows = source.windows()
    assert windows == copy.windows()
    for events in windows.values():
        times_ms = [time_ms for _, time_ms, _, _ in events]
        assert times_ms == sorted(times_ms)
        assert len(times_ms) <= LENGTH
    return reasons


def _check_nothing_is_lost(records: Records, clicks: Clicks, dead_letters: list[DeadLetter]) -> None:
    offsets = [*clicks.offsets.tolist(), *(letter.offset for letter in dead_letters)]
    assert len(set(offsets)) == len(offsets) == len(records) - clicks.without_consent
    for letter in dead_letters:
        assert letter.value == (None if letter.withheld else records.values[letter.offset])
    letter_headers = [dict(letter.as_headers()) for letter in dead_letters]
    assert all(headers["headrace.reason"] and headers["headrace.offset"] for headers in letter_headers)


def _records(values: list[bytes]) -> Records:
    count = len(values)
    return Records(
        Partition("clicks", 0), list(range(count)), [NOW_MS] * count, [None] * count, [*values], [()] * count
    )


def _as_records(outgoing: Outgoing) -> Records:
    count = len(outgoing)
    return Records(
        Partition(outgoing.topic, 0), list(range(count)), [0] * count, outgoing.keys, outgoing.values, [()] * count
    )


def _assembled(fields: dict[str, bytes]) -> bytes:
    """A JSON object of raw values by path, where a dot separates the keys of nested objects."""
    members: dict[str, dict[str, bytes]] = {}
    for path, value in fields.items():
        key, _, rest = path.partition(".")
        members.setdefault(key, {})[rest] = value
    encoded = [b'"%s":%s' % (key.encode(), nested.get("") or _assembled(nested)) for key, nested in members.items()]
    return b"{%s}" % b",".join(encoded)
