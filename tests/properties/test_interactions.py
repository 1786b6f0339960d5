"""Whatever an id is made of, it is read back letter by letter, from CSV and from Parquet; histories are the events."""

import csv
import io
import re
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from engine.arrays import NO_ITEM, Bool
from engine.catalogue import searches
from engine.interactions.interaction_reader import InteractionReader
from engine.interactions.layout import Layout, Source
from engine.settings.sections import ClickSettings
from models.data.histories import Histories

CHARACTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
IDS = st.text(CHARACTERS, min_size=1, max_size=8).filter(
    lambda text: (
        not text.startswith((searches.MARK, "\N{ZERO WIDTH NO-BREAK SPACE}")) and not re.match(r"-?\d+\.0$", text)
    )
)
ROWS = st.lists(st.tuples(IDS, IDS, st.integers(0, 4_000_000_000)), min_size=1, max_size=20)


def read_back(path: Path, layout: Layout = Layout()) -> list[tuple[str, str, int]]:  # noqa: B008 - frozen
    return [
        event
        for batch in InteractionReader(Source(str(path), layout), ClickSettings()).batches()
        for event in zip(batch.users.spelled(), batch.items.spelled(), batch.times_ms.tolist(), strict=True)
    ]


@given(ROWS, st.sampled_from(",;\t|"))
def test_ids_of_any_text_are_read_back(rows: list[tuple[str, str, int]], separator: str) -> None:
    expected = [(user, item, 1000 * time_s) for user, item, time_s in rows]
    users, items, times = zip(*rows, strict=True)
    with tempfile.TemporaryDirectory() as name:
        text = io.StringIO()
        writer = csv.writer(text, delimiter=separator, quoting=csv.QUOTE_ALL, lineterminator="\n")
        writer.writerows([("user", "item", "ts"), *rows])
        (Path(name) / "a.csv").write_bytes(text.getvalue().encode())
        parquet.write_table(pa.table({"user": users, "item": items, "ts": times}), Path(name) / "a.parquet")
        layout = Layout(separator=separator if separator == "|" else None)
        assert read_back(Path(name) / "a.csv", layout) == expected
        assert read_back(Path(name) / "a.parquet") == expected


HISTORIES = st.lists(st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=6), min_size=1, max_size=6)


@given(HISTORIES, st.integers(1, 5))
def test_a_window_is_the_last_events_before_an_event_and_nothing_of_others(
    users: list[list[tuple[int, bool]]], length: int
) -> None:
    """Of all events, and of those under a mask: users keep their numbers, and those without events have none."""
    events = [event for user in users for event in user]
    histories = Histories(
        items=np.array([item for item, _ in events], np.int32),
        times_ms=np.arange(len(events), dtype=np.int64),
        actions=np.ones(len(events), np.uint8),
        starts=np.cumsum([0, *map(len, users)]),
    )
    mask: Bool = np.array([kept for _, kept in events], np.bool_)
    kept_users = [[event for event in user if event[1]] for user in users]
    for chosen, expected in ((histories, users), (histories.select(mask), kept_users)):
        assert chosen.users.tolist() == [number for number, user in enumerate(expected) for _ in user]
        assert chosen.lengths().tolist() == list(map(len, expected))
        windows = chosen.windows(np.arange(len(chosen)), length).items.tolist()
        assert windows == [
            [NO_ITEM] * (length - min(place, length)) + [item for item, _ in user[max(0, place - length) : place]]
            for user in expected
            for place in range(len(user))
        ]
