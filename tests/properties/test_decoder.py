"""Any record becomes a click or a dead letter: none is lost and none stops the stream."""

import json

from hypothesis import given
from hypothesis import strategies as st

from engine.catalogue.actions import Actions
from engine.eventlog.base import Partition, Records
from engine.ingest.decoder import ClickDecoder
from engine.settings.sections import ClickFields, ClickSettings

NOW_MS = 1_700_000_000_000
EARLIEST_MS = 631_152_000_000  # 1990, the default of clicks.earliest
ids = st.one_of(
    st.text("ab\u00e9\U0001f600\ud800", max_size=8), st.integers(), st.none(), st.booleans(), st.floats(allow_nan=False)
)
times = st.one_of(
    st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text("0T:-", max_size=5), st.none()
)
objects = st.fixed_dictionaries(
    {}, optional={"user": ids, "item": ids, "ts": times, "action": ids, "event_id": ids, "x": st.lists(st.integers())}
)
values = st.one_of(st.none(), st.binary(max_size=60), objects.map(lambda value: json.dumps(value).encode()))


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A valid click with a few bytes replaced, removed or inserted."""
    raw = bytearray(b'{"user":"ann","item":"x-1","ts":1600000000000,"action":"buy","event_id":"e1"}')
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(raw) - 1))
        raw[start : start + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(raw)


SETTINGS = ClickSettings()
DECODER = ClickDecoder(SETTINGS, Actions(SETTINGS))


@given(st.lists(st.one_of(values, damaged()), max_size=20))
def test_every_record_is_a_click_or_a_dead_letter(stream: list[bytes | None]) -> None:
    count = len(stream)
    records = Records(
        Partition("clicks", 0), list(range(count)), [NOW_MS] * count, [None] * count, stream, [()] * count
    )
    clicks, dead_letters = DECODER.decode([records], NOW_MS)
    assert sorted([*clicks.offsets.tolist(), *(letter.offset for letter in dead_letters)]) == list(range(count))
    assert all(clicks.users) and all(clicks.items)  # noqa: PT018 - one statement about both columns
    assert ((clicks.times_ms >= EARLIEST_MS) & (clicks.times_ms <= NOW_MS + 3_600_000)).all()
    assert [stream[letter.offset] for letter in dead_letters] == [letter.value for letter in dead_letters]


@given(
    user=st.text(min_size=1, max_size=40, alphabet=st.characters(codec="utf-8")),
    item=st.integers(-(2**63), 2**63 - 1),
    time_ms=st.integers(EARLIEST_MS, NOW_MS),
)
def test_a_valid_click_is_decoded(user: str, item: int, time_ms: int) -> None:
    settings = ClickSettings(fields=ClickFields(user="a.b", item="a.c", time="d"))
    value = json.dumps({"a": {"b": user, "c": item}, "d": time_ms}).encode()
    records = Records(Partition("clicks", 0), [0], [0], [None], [value], [()])
    clicks, dead_letters = ClickDecoder(settings, Actions(settings)).decode([records], NOW_MS)
    assert dead_letters == []
    assert (clicks.users, clicks.items, clicks.times_ms.tolist()) == ([user], [str(item)], [time_ms])
