"""Files of an archive of clicks: their names, their footers and their columns.

    FOLDER/day=2026-11-25/clicks-00003-00000000000000001200-00000000000000001850-g0-5f3a9c01.parquet
                                 │     │                    │                    │  └ drawn at random: no file is ever
                                 │     │                    │                    │    written twice
                                 │     │                    │                    └ 0 from the topic, 1 and up compacted
                                 │     first offset         the offset after the last one
                                 partition

A file holds the clicks of every record with an offset in that range, in the order of the log, and never changes. The
footer repeats the range (`headrace.archive`, JSON), so that a renamed, foreign or truncated file is known for one. A
name with `-forget` after the token has requests to forget users in its footer. The folder is the UTC day on which the
file's first record was appended.

Ranges may overlap: two archivers that both believe they have a partition write the same clicks twice, in different
files. A reader takes each offset from one file alone (`next_part`), so nothing is read twice.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Final
from uuid import uuid4

import msgspec
import pyarrow as pa
from pyarrow import parquet

from engine.arrays import Clicks, Int64
from engine.catalogue import searches
from engine.catalogue.actions import Actions

FOOTER_KEY: Final = b"headrace.archive"
FOOTER_VERSION: Final = 1
_NAME: Final = re.compile(r"clicks-(\d{5,})-(\d{20})-(\d{20})-g(\d+)-([0-9a-f]{8})(-forget)?\.parquet")
_DAY: Final = re.compile(r"day=(\d{4}-\d\d-\d\d)")
_DAY_MS: Final = 86_400_000
_TEXT: Final = pa.dictionary(pa.int32(), pa.string())
_TIME: Final = pa.timestamp("ms", tz="UTC")
SCHEMA: Final = pa.schema(
    [
        pa.field("user", _TEXT, nullable=False),
        pa.field("item", _TEXT),
        pa.field("query", _TEXT),
        pa.field("ts", _TIME, nullable=False),
        pa.field("action", _TEXT, nullable=False),
        pa.field("event_hash", pa.uint32(), nullable=False),
        pa.field("partition", pa.int32(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("append_ts", _TIME, nullable=False),
    ]
)
"""A row for each click. `item` is null for a search, whose words are in `query`; `event_hash` is 0 for a click without
an event id; `append_ts` is the time of the record in the log."""


@dataclass(frozen=True, slots=True)
class ArchivePart:
    """One file, as its name describes it."""

    day: str
    """As 2026-11-25, UTC."""
    partition: int
    first: int
    """First offset."""
    end: int
    """The offset after the last one."""
    generation: int
    token: str
    has_wishes: bool
    size: int = 0
    """Bytes; 0 where it was not listed."""

    @property
    def path(self) -> str:
        """Inside the archive's folder."""
        mark = "-forget" if self.has_wishes else ""
        name = f"clicks-{self.partition:05d}-{self.first:020d}-{self.end:020d}-g{self.generation}-{self.token}{mark}"
        return f"day={self.day}/{name}.parquet"

    @property
    def reach(self) -> tuple[int, int, str]:
        """Of two files that have an offset, the one with the greater reach is read."""
        return self.end, self.generation, self.token


class Wish(msgspec.Struct, frozen=True):
    """A request to forget a user, as a footer holds it: without the user's id."""

    user: str
    """`digest_of` the id."""
    partition: int
    offset: int
    """Of the request: clicks before it in its partition are gone."""
    append_ms: int
    """Unix milliseconds: clicks of other partitions appended before it are gone, too, unless `is_everywhere`."""
    is_everywhere: bool
    """There is one in every partition, and each concerns its own alone."""


class Footer(msgspec.Struct, frozen=True):
    """The account that a file gives of itself."""

    topic: str
    topic_identity: str
    """Changes when the topic is deleted and created again."""
    partition: int
    first: int
    end: int
    rows: int
    oldest_ms: int = 0
    """Earliest event time of the rows, Unix milliseconds."""
    newest_ms: int = 0
    oldest_append_ms: int = 0
    wishes: list[Wish] = []
    forgotten_through: dict[int, int] = {}
    """By partition, the offset before which every request to forget users is carried out in this file."""
    version: int = FOOTER_VERSION


def new_part(footer: Footer, day: str, generation: int) -> ArchivePart:
    """The name of a new file."""
    return ArchivePart(
        day, footer.partition, footer.first, footer.end, generation, uuid4().hex[:8], bool(footer.wishes)
    )


def parse(path: str, size: int = 0) -> ArchivePart | None:
    """The file at a path inside an archive; None where the name is no archive's."""
    folder, _, name = path.rpartition("/")
    day, match = _DAY.fullmatch(folder), _NAME.fullmatch(name)
    if day is None or match is None:
        return None
    partition, first, end, generation, token, wishes = match.groups()
    return ArchivePart(day[1], int(partition), int(first), int(end), int(generation), token, bool(wishes), size)


def day_of(time_ms: int) -> str:
    """The UTC day of a time."""
    return f"{datetime.fromtimestamp(time_ms // _DAY_MS * _DAY_MS / 1000, UTC):%Y-%m-%d}"


def digest_of(user: str) -> str:
    """128 bits of the SHA-256 of a user's id: an archive that forgot a user does not hold the id either."""
    return sha256(user.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def next_part(parts: Iterable[ArchivePart], offset: int) -> ArchivePart | None:
    """The file of a partition that has the clicks from `offset` on, or the next ones after it; None after the last.

    Of several that have the offset it is the one that reaches furthest, and so a compacted file before the small ones
    it was made of.
    """
    ahead = [part for part in parts if part.end > offset]
    if not ahead:
        return None
    begin = max(min(part.first for part in ahead), offset)
    return max((part for part in ahead if part.first <= begin), key=lambda part: part.reach)


def chain(parts: Sequence[ArchivePart]) -> list[ArchivePart]:
    """The files of a partition that a reader takes, in their order; all others hold nothing more."""
    links, offset = list[ArchivePart](), 0
    while part := next_part(parts, offset):
        links.append(part)
        offset = part.end
    return links


def rows_of(clicks: Clicks, actions: Actions) -> pa.Table:
    """A table of clicks by `SCHEMA`."""
    searched = [searches.is_search(item) for item in clicks.items]
    items = [None if mark else item for item, mark in zip(clicks.items, searched, strict=True)]
    words = [searches.words_of(item) if mark else None for item, mark in zip(clicks.items, searched, strict=True)]
    columns = [
        pa.array(clicks.users, pa.string()).dictionary_encode(),
        pa.array(items, pa.string()).dictionary_encode(),
        pa.array(words, pa.string()).dictionary_encode(),
        _times(clicks.times_ms),
        pa.array([actions.names[code] for code in clicks.actions.tolist()], pa.string()).dictionary_encode(),
        pa.array(clicks.event_hashes, pa.uint32()),
        pa.array(clicks.partitions, pa.int32()),
        pa.array(clicks.offsets, pa.int64()),
        _times(clicks.appends_ms),
    ]
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def wishes_of(clicks: Clicks) -> list[Wish]:
    """The requests to forget users among clicks."""
    return [
        Wish(digest_of(request.user), request.partition, request.offset, request.appended_ms, request.is_everywhere)
        for request in clicks.forgotten
    ]


class PartEncoder:
    """The content of one file, row group by row group; it is kept in memory, compressed."""

    def __init__(self) -> None:
        self._sink = pa.BufferOutputStream()
        self._writer = parquet.ParquetWriter(self._sink, SCHEMA, compression="zstd")
        self._rows = 0
        self._spans: dict[str, int] = {}

    def add(self, table: pa.Table) -> None:
        """Add rows, in the order of their offsets."""
        if len(table):
            self._writer.write_table(table)
            self._rows += len(table)
            self._spans = _wider(self._spans, _spans(table))

    def finish(self, footer: Footer) -> bytes:
        """The whole file; the number of rows and their times are added to the footer."""
        footer = msgspec.structs.replace(footer, rows=self._rows, **self._spans)
        self._writer.add_key_value_metadata({FOOTER_KEY: msgspec.json.encode(footer)})
        self._writer.close()
        content: bytes = self._sink.getvalue().to_pybytes()
        return content


def footer_of(opened: parquet.ParquetFile) -> Footer | None:
    """The footer of a file; None where it has none that this version reads."""
    raw = (opened.metadata.metadata or {}).get(FOOTER_KEY)
    if raw is None or not opened.schema_arrow.equals(SCHEMA):
        return None
    try:
        footer = msgspec.json.decode(raw, type=Footer)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return footer if footer.version == FOOTER_VERSION else None


def _spans(table: pa.Table) -> dict[str, int]:
    """The times of a footer, from rows."""
    times_ms = table["ts"].cast(pa.int64()).to_numpy()
    appends_ms = table["append_ts"].cast(pa.int64()).to_numpy()
    return {
        "oldest_ms": int(times_ms.min()),
        "newest_ms": int(times_ms.max()),
        "oldest_append_ms": int(appends_ms.min()),
    }


def _wider(spans: dict[str, int], more: dict[str, int]) -> dict[str, int]:
    """The times of both."""
    return {name: (max if name == "newest_ms" else min)(spans.get(name, value), value) for name, value in more.items()}


def _times(times_ms: Int64) -> pa.Array:
    return pa.array(times_ms, pa.int64()).cast(_TIME)
