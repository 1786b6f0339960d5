"""An archive is read for training and replay as live clicks were understood, whatever fields the messages have."""

import datetime as dt
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from pyarrow import parquet

from engine.errors import DataError, SettingsError
from engine.eventlog.base import Outgoing, TopicSpec
from engine.eventlog.memory.log import MemoryLog
from engine.eventlog.time_source import TimeSource
from engine.ingest import forget_requests
from engine.interactions.archive_folder import ArchiveFolder
from engine.interactions.interaction_reader import InteractionReader
from engine.interactions.layout import Source
from engine.metrics import Metrics
from engine.settings.sections import ArchiveSettings, ClickFields, ClickSettings, ItemSettings, Settings
from engine.worker.archiver import archive_once
from models.data import dataset, item_content
from producers.replay import recorded_events

NOW_MS = 1_764_072_000_000
CLICKS = ClickSettings(
    fields=ClickFields(
        user="visitor.id", item="product", lines="lines", line_item="sku", time="at", action="what", consent="ok"
    ),
    time_unit="iso8601",
    require_consent=True,
)


def message(user: object, minute: int, **fields: Any) -> dict[str, Any]:
    return {"visitor": {"id": user}, "at": f"2025-11-25T11:{minute:02d}:00Z", "ok": True, **fields}


MESSAGES: list[object] = [
    message("ann", 1, product="7.0", what="cart"),
    message("ann", 2, query="Red  Shoes!"),
    message(42, 3, product="x", what="stare"),
    message("ann", 4, lines=[{"sku": "a"}, {"sku": "b"}], what="buy"),
    message("eve", 5, product="x") | {"ok": False},
    "no click",
    message("eve", 6, product="y"),
]
EXPECTED = [
    ("ann", "7.0", 1, "cart"),
    ("ann", "\x1fred shoes", 2, "search"),
    ("42", "x", 3, "view"),
    ("ann", "a", 4, "buy"),
    ("ann", "b", 4, "buy"),
    ("eve", "y", 6, "view"),
]


def archived(folder: str, messages: list[object], clicks: ClickSettings = CLICKS) -> tuple[MemoryLog, Settings]:
    log = MemoryLog(now_ms=lambda: NOW_MS)
    log.ensure_topics([TopicSpec("clicks", 1)])
    send(log, *(json.dumps(message).encode() for message in messages))
    settings = Settings(clicks=clicks, archive=ArchiveSettings(folder=folder))
    archive(log, settings)
    return log, settings


def send(log: MemoryLog, *values: bytes) -> None:
    with log.producer() as producer:
        producer.send(Outgoing("clicks", [None] * len(values), [*values]))


def archive(log: MemoryLog, settings: Settings, now_ms: int = NOW_MS) -> int:
    return archive_once(settings, log, Metrics(), TimeSource(now_ms=lambda: now_ms))


def spelled(source: Source, clicks: ClickSettings = CLICKS) -> list[tuple[str, str, int, str]]:
    read = dataset.read(source, clicks)
    names = [*read.item_ids]
    return [
        (
            read.user_ids[user],
            read.search_ids[item - (1 << 30)] if item >= 1 << 30 else names[item],
            (time_ms - NOW_MS) // 60_000 + 60,
            read.action_names[action],
        )
        for user, item, time_ms, action in zip(
            read.users.tolist(), read.items.tolist(), read.times_ms.tolist(), read.actions.tolist(), strict=True
        )
    ]


@pytest.mark.parametrize("kind", ["local", "memory"])
def test_history_is_what_live_was(kind: str, tmp_path: Path) -> None:
    MemoryFileSystem.store.clear()
    folder = str(tmp_path / "clicks") if kind == "local" else "memory://shop/clicks"
    log, settings = archived(folder, MESSAGES)
    assert spelled(Source(folder)) == EXPECTED
    assert archive(log, settings) == 0
    send(log, json.dumps(message("bob", 7, product="z")).encode())
    assert archive(log, settings) == 1
    assert spelled(Source(folder)) == [*EXPECTED, ("bob", "z", 7, "view")]
    assert len(ArchiveFolder(folder).parts()[0]) == 1  # compacted
    assert spelled(Source(folder, since_ms=NOW_MS - 56 * 60_000)) == [*EXPECTED[3:], ("bob", "z", 7, "view")]
    assert InteractionReader(Source(folder), CLICKS).newest_ms() == NOW_MS - 53 * 60_000


def test_replay_sends_what_was_archived(tmp_path: Path) -> None:
    archived(str(tmp_path), MESSAGES)
    recording = recorded_events.read(Source(str(tmp_path)), CLICKS)
    assert recording.users.spelled() == [user for user, *_ in EXPECTED]
    assert recording.words is not None
    assert recording.words.spelled()[1] == "red shoes"


def test_an_archive_is_a_dataset_for_other_tools(tmp_path: Path) -> None:
    archived(str(tmp_path), MESSAGES)
    table = parquet.read_table(tmp_path)
    assert table["user"].to_pylist() == [user for user, *_ in EXPECTED]
    assert table["day"].to_pylist() == ["2025-11-25"] * 6
    assert table["ts"].type == pa.timestamp("ms", tz="UTC")


def test_a_user_who_is_forgotten_is_read_no_more_and_in_no_file_after_the_compaction(tmp_path: Path) -> None:
    log, settings = archived(str(tmp_path), MESSAGES)
    with log.producer() as producer:
        producer.send(forget_requests.in_every_partition("clicks", 1, "ann"))
    send(log, json.dumps(message("ann", 9, product="later")).encode())
    stopped = settings.model_copy(update={"archive": settings.archive.model_copy(update={"file_mib": 1e-9})})
    archive(log, stopped)
    assert [row[0] for row in spelled(Source(str(tmp_path)))] == ["42", "eve", "ann"]
    assert not any(b"ann" in path.read_bytes() for path in tmp_path.rglob("*.parquet") if "g1" in path.name)
    archive(log, settings)
    assert [row[0] for row in spelled(Source(str(tmp_path)))] == ["42", "eve", "ann"]
    assert parquet.read_table(tmp_path)["item"].to_pylist() == ["x", "y", "later"]


def test_days_have_folders_of_their_own(tmp_path: Path) -> None:
    day_ms = 86_400_000
    now = [NOW_MS]
    log = MemoryLog(now_ms=lambda: now[0])
    log.ensure_topics([TopicSpec("clicks", 1)])
    for day in (0, 0, 1, 3, 2):  # a producer's clock may be behind
        now[0] = NOW_MS + day * day_ms
        send(log, json.dumps({"user": f"u{day}", "item": "x", "ts": NOW_MS}).encode())
    archive(log, Settings(archive=ArchiveSettings(folder=str(tmp_path))))
    start = dt.date(2025, 11, 25)
    folders = [f"day={start + dt.timedelta(days=day)}" for day in (0, 1, 3)]
    assert sorted(path.name for path in tmp_path.iterdir()) == folders
    assert len(InteractionReader(Source(str(tmp_path)), ClickSettings()).stamp()[0]) == 3


def test_an_items_file_may_be_beside_the_clicks(tmp_path: Path) -> None:
    archived(str(tmp_path), MESSAGES)
    (tmp_path / "items.csv").write_text("item,title\nx,red shoes\n")
    assert spelled(Source(str(tmp_path))) == EXPECTED
    assert [item.title for item in item_content.read(str(tmp_path), ItemSettings()).values()] == ["red shoes"]


def test_half_a_file_of_a_killed_writer_is_no_file(tmp_path: Path) -> None:
    log, settings = archived(str(tmp_path), MESSAGES)
    partial = tmp_path / "day=2025-11-25" / ".clicks.partial-7"
    partial.write_bytes(b"PAR1")
    assert spelled(Source(str(tmp_path))) == EXPECTED
    archive(log, settings)
    assert partial.exists()  # somebody may be writing it
    os.utime(partial, (0.0, 0.0))
    archive(log, settings)
    assert not partial.exists()


@pytest.mark.parametrize("damage", ["half", "nothing", "text"])
def test_a_file_that_is_cut_short_or_none_of_parquet_is_named_with_its_clicks(damage: str, tmp_path: Path) -> None:
    archived(str(tmp_path), MESSAGES)
    [path] = tmp_path.rglob("*.parquet")
    content = path.read_bytes()
    path.write_bytes({"half": content[: len(content) // 2], "nothing": b"", "text": b"hello"}[damage])
    said = (
        rf"{path.name} cannot be read: .*put it back as it was, .*do without its clicks \(partition 0, offsets 0 to 6\)"
    )
    with pytest.raises(DataError, match=said):
        dataset.read(tmp_path, CLICKS)


@pytest.mark.parametrize("name", ["export.parquet", "README.txt"])
def test_a_foreign_file_in_an_archive_is_named(name: str, tmp_path: Path) -> None:
    archived(str(tmp_path), MESSAGES)
    [path] = tmp_path.rglob("*.parquet")
    path.with_name(name).write_bytes(path.read_bytes())
    with pytest.raises(DataError, match=rf"{name} is no file of the archive .*expected only files that .*move it else"):
        dataset.read(tmp_path, CLICKS)


def test_mistakes_are_named(tmp_path: Path) -> None:
    log, settings = archived(str(tmp_path), MESSAGES)
    with pytest.raises(SettingsError, match=r"archive\.folder: found none"):
        archive(log, Settings(clicks=CLICKS))
    ArchiveFolder(str(tmp_path)).parts()
    [path] = tmp_path.rglob("*.parquet")
    parquet.write_table(pa.table({"user": ["a"]}), path)
    with pytest.raises(DataError, match=r"has no footer of an archive.*put it back as it was, or move it elsewhere"):
        dataset.read(tmp_path, CLICKS)
    (tmp_path / "blocked").write_text("")
    blocked = settings.model_copy(update={"archive": ArchiveSettings(folder=str(tmp_path / "blocked" / "clicks"))})
    with pytest.raises(DataError, match=r"archive\.folder: .* cannot be written: NotADirectoryError.*write to"):
        archive(log, blocked)
