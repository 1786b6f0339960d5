"""One reader: files of every kind, the same to training and replay, and a sentence for what cannot be read."""

import datetime as dt
import gzip
import logging
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import click
import fsspec
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from engine.arrays import FIRST_SEARCH
from engine.catalogue import searches
from engine.errors import DataError, MissingExtraError, SettingsError
from engine.interactions.columns import Names
from engine.interactions.interaction_reader import InteractionBatch, InteractionReader
from engine.interactions.layout import Layout, Source
from engine.settings.sections import ClickFields, ClickSettings, TimeUnit
from models.cli import cold_start, compare, compress, evaluate, rescore, train, tune
from models.data import dataset
from models.data.numbering import NumberedInteractions
from producers.cli.produce import replay
from producers.replay import recorded_events
from producers.replay.click_encoder import ProducedEvents
from producers.replay.plan import ReplayPlan, ReplayRate, play

DEFAULTS = ClickSettings()
LAYOUT = Layout()
MAY_MS = 1_714_557_600_000  # 2024-05-01 10:00 UTC
CSV = "user,item,ts\nb,x,20.5\na,y,10\nb,z,10\n"
TABLE: dict[str, Any] = {"user": ["b", "a", "b"], "item": ["x", "y", "z"], "ts": [20.5, 10.0, 10.0]}
EVENTS = [("b", "x", 20_500), ("a", "y", 10_000), ("b", "z", 10_000)]
"""Those of CSV and TABLE, in their order."""


def written(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def table(path: Path, columns: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.table(columns), path)
    return path


def in_parts(folder: Path) -> Path:
    for row, name in enumerate(("day=1/a.parquet", "day=1/b.pq", "day=2/a.parquet")):
        table(folder / name, {column: values[row : row + 1] for column, values in TABLE.items()})
    return folder


def batches(
    place: Path | str, layout: Layout = LAYOUT, clicks: ClickSettings = DEFAULTS, *, event_ids: bool = False
) -> list[InteractionBatch]:
    return list(InteractionReader(Source(str(place), layout), clicks, event_ids=event_ids).batches())


def events(place: Path | str, layout: Layout = LAYOUT, clicks: ClickSettings = DEFAULTS) -> list[tuple[str, str, int]]:
    return [
        event
        for batch in batches(place, layout, clicks)
        for event in zip(batch.users.spelled(), batch.items.spelled(), batch.times_ms.tolist(), strict=True)
    ]


def actions(place: Path | str, layout: Layout = LAYOUT, clicks: ClickSettings = DEFAULTS) -> list[str] | None:
    (batch,) = batches(place, layout, clicks)
    return None if batch.actions is None else batch.actions.spelled()


def refusal(place: Path | str, layout: Layout = LAYOUT, clicks: ClickSettings = DEFAULTS) -> str:
    with pytest.raises(DataError) as refused:
        batches(place, layout, clicks)
    return str(refused.value)


FILES: dict[str, Callable[[Path], Path]] = {
    "folder of interactions.csv.gz": lambda folder: written(folder / "interactions.csv.gz", CSV).parent,
    "folder of interactions.csv": lambda folder: written(folder / "interactions.csv", CSV).parent,
    "folder of export.csv": lambda folder: written(folder / "export.csv", CSV).parent,
    "folder of clicks.csv.gz": lambda folder: written(folder / "clicks.csv.gz", CSV).parent,
    "file": lambda folder: written(folder / "shop.csv", CSV),
    "semicolons": lambda folder: written(folder / "shop.csv", CSV.replace(",", ";")),
    "tabs": lambda folder: written(folder / "shop.csv", CSV.replace(",", "\t")),
    "tsv": lambda folder: written(folder / "shop.tsv.gz", CSV.replace(",", "\t")),
    "quoted header": lambda folder: written(folder / "shop.csv", CSV.replace("user,item,ts", '"user","item","ts"')),
    "quoted semicolons": lambda folder: written(
        folder / "shop.csv", CSV.replace("user,item,ts", '"user","item","ts"').replace(",", ";")
    ),
    "byte order mark": lambda folder: written(folder / "shop.csv", f"\N{ZERO WIDTH NO-BREAK SPACE}{CSV}"),
    "blanks around times": lambda folder: written(folder / "shop.csv", CSV.replace(",10", ", 10 ")),
    "carriage returns and empty lines": lambda folder: written(folder / "shop.csv", CSV.replace("\n", "\r\n\r\n")),
    "Parquet file": lambda folder: table(folder / "shop.parquet", TABLE),
    "Parquet folder": lambda folder: in_parts(folder / "parts"),
}


@pytest.mark.parametrize("kind", FILES)
def test_files_of_every_kind_hold_the_same_events(tmp_path: Path, kind: str) -> None:
    assert events(FILES[kind](tmp_path)) == EVENTS


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("u.data", "b\tx\t5\t20\na\ty\t3\t10\n"),
        ("ratings.dat", "b::x::5::20\na::y::3::10\n"),
        ("ratings.csv", "userId,movieId,rating,timestamp\nb,x,5.0,20\na,y,3.5,10\n"),
    ],
)
def test_movielens_own_files_are_known_to_training_and_replay(tmp_path: Path, name: str, text: str) -> None:
    path = written(tmp_path / name, text)
    written(tmp_path / "movies.csv", "movieId,title\nx,An x\n")
    for place in (path, tmp_path):
        assert events(place) == [("b", "x", 20_000), ("a", "y", 10_000)]
        assert dataset.read(place).item_ids == ["x", "y"]
        assert recorded_events.read(place).items.spelled() == ["y", "x"]


@pytest.mark.parametrize("kind", [*FILES, "actions", "searches", "whole floats"])
def test_training_and_replay_read_the_same(tmp_path: Path, kind: str) -> None:
    others = {
        "actions": "user,item,ts,event\nb,x,20,buy\na,y,10,\nb,z,10,view\n",
        "searches": "user,item,ts,query\nb,,20,Red  shoes!\na,y,10,\nb,z,10,red shoes\n",
        "whole floats": "user,item,ts,query\n1.0,,20,shoes\n2.0,3.0,10,\n1.0,4.0,10,\n",
    }
    place = written(tmp_path / "shop.csv", others[kind]) if kind in others else FILES[kind](tmp_path)
    learned, played = dataset.read(place), recorded_events.read(place)
    ids = learned.item_ids
    assert [learned.user_ids[user] for user in learned.users] == played.users.spelled()
    assert [
        ids[item] if item < FIRST_SEARCH else learned.search_ids[item - FIRST_SEARCH] for item in learned.items
    ] == played.items.spelled()
    assert learned.times_ms.tolist() == played.times_ms.tolist()
    if played.actions is not None:
        assert [learned.action_names[action] for action in learned.actions] == played.actions.spelled()


VERBS: list[click.Command] = [
    train.train, evaluate.evaluate, compare.compare, tune.tune, cold_start.cold_start, rescore.rescore,
    compress.write, compress.measure, replay,
]  # fmt: skip


def test_every_verb_has_the_same_options() -> None:
    options = {"--user-column", "--item-column", "--time-column", "--action-column", "--search-column"}
    options |= {"--time-unit", "--separator", "--config"}
    for verb in VERBS:
        known = {option for parameter in verb.params for option in parameter.opts}
        assert options <= known, verb.name
        (unit,) = (parameter for parameter in verb.params if "--time-unit" in parameter.opts)
        assert isinstance(unit.type, click.Choice)
        assert list(unit.type.choices) == ["s", "ms", "us", "iso8601"]


def test_another_file_system_is_read_through_fsspec(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.put(str(in_parts(tmp_path / "parts")), "/reader/parts", recursive=True)
    memory.pipe("/reader/one/export.csv", CSV.encode())
    for address in ("memory://reader/parts", "memory://reader/one", "memory://reader/one/export.csv"):
        assert events(address) == EVENTS
        assert recorded_events.read(Source(address)).items.spelled() == ["y", "z", "x"]
    memory.pipe("/reader/one/export.csv", b"user,item,ts\nb,x,soon\n")
    assert "memory://reader/one/export.csv, row 1: column ts holds 'soon'" in refusal("memory://reader/one")


def test_only_an_address_with_a_scheme_needs_fsspec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec", None)
    assert events(FILES["file"](tmp_path)) == EVENTS
    with pytest.raises(MissingExtraError, match=r"s3://shop/clicks needs fsspec.*: pip install fsspec"):
        batches("s3://shop/clicks")


def test_a_scheme_that_is_unknown_is_named() -> None:
    assert "nosuch://shop cannot be reached" in refusal("nosuch://shop")


class TestFolders:
    """Which files of a folder are read."""

    def test_one_of_several_files_has_to_be_named(self, tmp_path: Path) -> None:
        for name in ("b.csv", "a.csv.gz", "items.csv", ".hidden.csv", "_log.csv"):
            written(tmp_path / name, CSV)
        said = refusal(tmp_path)
        assert "holds a.csv.gz, b.csv; name the one that holds the interactions" in said
        assert f"({tmp_path}/a.csv.gz), or call it interactions.csv" in said
        assert events(tmp_path / "b.csv") == EVENTS

    def test_csv_beside_parquet_is_ambiguous(self, tmp_path: Path) -> None:
        written(in_parts(tmp_path) / "export.csv", CSV)
        assert "holds export.csv, day=1/a.parquet, day=1/b.pq, day=2/a.parquet; name the one" in refusal(tmp_path)
        written(tmp_path / "interactions.csv", CSV)
        assert events(tmp_path) == EVENTS

    def test_what_spark_leaves_beside_its_parts_is_none_of_them(self, tmp_path: Path) -> None:
        in_parts(tmp_path)
        written(tmp_path / "_SUCCESS", "")
        table(tmp_path / "_temporary" / "part.parquet", {"user": ["c"], "item": ["c"], "ts": [1.0]})
        assert events(tmp_path) == EVENTS

    def test_folders_named_after_values_are_columns_of_text(self, tmp_path: Path) -> None:
        for shop, action, user in (("007", "add%20to%20cart", "a"), ("008", "__HIVE_DEFAULT_PARTITION__", "b")):
            table(tmp_path / f"shop={shop}" / f"event={action}" / "0.parquet", {"user": [user], "ts": [1]})
        found = batches(tmp_path, Layout(item="shop"))
        assert [batch.items.spelled() for batch in found] == [["007"], ["008"]]
        assert [batch.actions.spelled() for batch in found if batch.actions] == [["add to cart"], [""]]
        assert [batch.rows.tolist() for batch in found] == [[1], [2]]

    def test_optional_columns_may_be_missing_from_some_files(self, tmp_path: Path) -> None:
        table(tmp_path / "1.parquet", {"user": ["a"], "item": ["x"], "ts": [1]})
        table(tmp_path / "2.parquet", {"user": ["a", "b"], "item": ["y", None], "ts": [2, 3], "event": ["buy", "view"],
                                       "query": [None, "shoes"]})  # fmt: skip
        assert [batch.actions and batch.actions.spelled() for batch in batches(tmp_path)] == [None, ["buy", "view"]]
        played = recorded_events.read(tmp_path)
        assert played.actions is not None
        assert played.actions.spelled() == ["", "buy", "view"]
        assert dataset.read(tmp_path).action_names == ["", "buy", "search"]

    def test_files_with_other_columns_are_named(self, tmp_path: Path) -> None:
        table(tmp_path / "1.parquet", {"user": ["a"], "item": ["x"], "ts": [1]})
        table(tmp_path / "2.parquet", {"userId": ["a"], "movieId": ["x"], "timestamp": [1]})
        assert "2.parquet has no column user, as " in refusal(tmp_path)
        table(tmp_path / "2.parquet", {"user": ["a"], "item": ["x"]})
        assert "2.parquet has no column ts; found user, item" in refusal(tmp_path)

    def test_a_wrong_row_is_named_in_its_own_file(self, tmp_path: Path) -> None:
        table(tmp_path / "1.parquet", {"user": ["a"] * 5, "item": ["x"] * 5, "ts": [1] * 5})
        table(tmp_path / "2.parquet", {"user": ["a", None], "item": ["x", "y"], "ts": [1, 2]})
        assert f"{tmp_path}/2.parquet, row 2: column user holds nothing" in refusal(tmp_path)


class TestIds:
    """Ids are text, whichever file they come from."""

    @pytest.mark.parametrize("name", ["NA", "null", "NULL", "nan", "N/A", "#N/A", "None", " a ", "007", "1e5", "1.50"])
    def test_only_the_empty_text_is_nothing(self, tmp_path: Path, name: str) -> None:
        for path in (
            written(tmp_path / "clicks.csv", f"user,item,ts\n{name},{name},1\n"),
            table(tmp_path / "clicks.parquet", {"user": [name], "item": [name], "ts": [1]}),
        ):
            assert events(path) == [(name, name, 1_000)]
        missing = written(tmp_path / "clicks.csv", f'user,item,ts\n{name},x,1\n{name},"",1\n')
        assert "clicks.csv, row 2: column item holds nothing; mend or remove the row" in refusal(missing)
        missing = table(tmp_path / "clicks.parquet", {"user": [name, None], "item": [name, name], "ts": [1, 1]})
        assert "clicks.parquet, row 2: column user holds nothing; mend or remove the row" in refusal(missing)

    def test_whole_numbers_with_a_decimal_point_are_whole_numbers(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """As tools write a column of integers with gaps: 1.0 in CSV, floats in Parquet. Live clicks say 1."""
        paths = [
            written(tmp_path / "clicks.csv", "user,item,ts,query\nann,1.0,1,\nann,,2,shoes\nann,20.0,3,\n"),
            table(tmp_path / "clicks.parquet", {"user": ["ann"] * 3, "item": [1.0, None, 20.0], "ts": [1, 2, 3],
                                                "query": [None, "shoes", None]}),
            table(tmp_path / "half.parquet", {"user": ["ann"] * 3, "item": pa.array([1, np.nan, 20], pa.float32()),
                                              "ts": [1, 2, 3], "query": ["", "shoes", ""]}),
        ]  # fmt: skip
        for path in paths:
            caplog.clear()
            assert [item for _, item, _ in events(path)] == ["1", searches.id_of("shoes"), "20"]
            (said,) = caplog.messages
            assert f"{path}: column item holds whole numbers as " in said
            assert "they are read without .0, as live clicks spell them" in said

    def test_text_that_only_looks_so_in_part_is_text(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        path = written(tmp_path / "clicks.csv", "user,item,ts\n1.0,1.0,1\n2,1.5,2\nx,2.0,3\n")
        assert [event[:2] for event in events(path)] == [("1.0", "1.0"), ("2", "1.5"), ("x", "2.0")]
        assert not caplog.messages

    def test_a_column_that_changes_its_mind_is_refused(self, tmp_path: Path) -> None:
        """Decided by the first batch: by then others have gone out as whole numbers."""
        table(tmp_path / "1.parquet", {"user": ["1.0", "2.0"], "item": ["x", "y"], "ts": [1, 2]})
        table(tmp_path / "2.parquet", {"user": ["3.0", "ann"], "item": ["x", "y"], "ts": [1, 2]})
        said = refusal(tmp_path)
        assert "2.parquet, row 2: column user holds 'ann'; expected a whole number with .0, as all rows before" in said

    @pytest.mark.parametrize(
        ("column", "names"),
        [
            ([7, 8], ["7", "8"]),
            (pa.array([7, 8], pa.uint8()), ["7", "8"]),
            ([Decimal(7), Decimal(8)], ["7", "8"]),
            (pa.array(["7", "08"]).dictionary_encode(), ["7", "08"]),
            (pa.array(["7", "08"], pa.large_string()), ["7", "08"]),
            (pa.array(["7", "08"], pa.string_view()), ["7", "08"]),
        ],
        ids=["integers", "bytes", "decimals", "dictionary", "large", "view"],
    )
    def test_columns_that_are_ids(self, tmp_path: Path, column: Any, names: list[str]) -> None:
        path = table(tmp_path / "clicks.parquet", {"user": column, "item": column, "ts": [1, 2]})
        assert [event[:2] for event in events(path)] == list(zip(names, names, strict=True))

    @pytest.mark.parametrize("meaning", ["user", "item", "event", "query", "ts"])
    @pytest.mark.parametrize(
        ("column", "kind"),
        [
            ([["a"], ["b"]], "list<"),
            ([{"x": 1}, {"x": 2}], "struct<x: int64>"),
            ([b"a", b"b"], "binary"),
            ([True, False], "bool"),
            ([dt.timedelta(1), dt.timedelta(2)], "duration"),
        ],
    )
    def test_other_types_end_with_a_sentence(self, tmp_path: Path, meaning: str, column: Any, kind: str) -> None:
        columns = {"user": ["a", "b"], "item": ["x", "y"], "ts": [1, 2], meaning: column}
        said = refusal(table(tmp_path / "clicks.parquet", columns))
        assert f"clicks.parquet, row 1: column {meaning} holds values of type {kind}" in said
        assert "; expected " in said

    @pytest.mark.parametrize("meaning", ["user", "item", "ts"])
    def test_a_column_of_nothing_is_named(self, tmp_path: Path, meaning: str) -> None:
        columns = {"user": ["a", "b"], "item": ["x", "y"], "ts": [1, 2], "event": pa.nulls(2), "query": pa.nulls(2)}
        assert actions(table(tmp_path / "clicks.parquet", columns)) == ["", ""]
        path = table(tmp_path / "clicks.parquet", columns | {meaning: pa.nulls(2)})
        assert f"row 1: column {meaning} holds nothing" in refusal(path)

    @pytest.mark.parametrize(("value", "shown"), [(1.5, "1.5"), (2.0**60, "1.15292150460685e+18"), (np.inf, "inf")])
    def test_fractions_are_no_ids(self, tmp_path: Path, value: float, shown: str) -> None:
        path = table(tmp_path / "clicks.parquet", {"user": [1.0, value], "item": ["x", "y"], "ts": [1, 2]})
        assert f"row 2: column user holds {shown}; expected text or whole numbers: cast" in refusal(path)

    def test_what_is_no_utf8_is_shown(self, tmp_path: Path) -> None:
        bytes_of = pa.array([b"caf\xc3\xa9", b"caf\xe9"]).buffers()
        path = table(tmp_path / "a.parquet", {"user": pa.Array.from_buffers(pa.string(), 2, bytes_of),
                                              "item": ["x", "y"], "ts": [1, 2]})  # fmt: skip
        (tmp_path / "b.csv").write_bytes(b"user,item,ts\ncaf\xc3\xa9,x,1\ncaf\xe9,y,2\n")
        for place in (path, tmp_path / "b.csv"):
            assert r"row 2: column user holds b'caf\xe9'; expected text: save the file in UTF-8" in refusal(place)

    def test_users_may_be_called_like_searches_and_items_may_not(self, tmp_path: Path) -> None:
        path = written(tmp_path / "clicks.csv", "user,item,ts\n\x1fann,x,1\nbob,y,2\n")
        assert dataset.read(path).user_ids == ["\x1fann", "bob"]
        path = written(tmp_path / "clicks.csv", "user,item,ts\nann,x,1\nbob,\x1fy,2\n")
        assert r"row 2: column item holds an id that begins with '\x1f', as searches do; mend" in refusal(path)


class TestTimes:
    """Times in every unit and spelling, and units that cannot be meant."""

    @pytest.mark.parametrize(
        ("unit", "text"),
        [
            ("s", "1714557600"), ("s", " 1714557600.0 "), ("s", "1.7145576e9"), ("ms", "1714557600000"),
            ("us", "1714557600000000"), ("us", "1714557600000400"),
            ("iso8601", "2024-05-01T10:00:00Z"), ("iso8601", "2024-05-01 10:00:00 UTC"),
            ("iso8601", "2024-05-01T10:00"), ("iso8601", " 2024-05-01 10:00:00.000000 "),
            ("iso8601", "2024-05-01T12:00:00+02:00"),
            ("iso8601", "2024-05-01T12:00:00+0200"), ("iso8601", "2024-05-01T05:30-04:30"),
            ("iso8601", "2024-05-01T10:00:00.000z"),
        ],
    )  # fmt: skip
    def test_the_same_moment(self, tmp_path: Path, unit: TimeUnit, text: str) -> None:
        for path in (
            written(tmp_path / "clicks.csv", f"user,item,ts\nu,i,{text}\n"),
            table(tmp_path / "clicks.parquet", {"user": ["u"], "item": ["i"], "ts": [text]}),
        ):
            assert events(path, Layout(time_unit=unit)) == [("u", "i", MAY_MS)]

    def test_a_date_is_its_first_moment(self, tmp_path: Path) -> None:
        path = written(tmp_path / "clicks.csv", "user,item,ts\nu,i,2024-05-01\n")
        assert events(path, Layout(time_unit="iso8601")) == [("u", "i", MAY_MS - 10 * 3_600_000)]

    @pytest.mark.parametrize(
        "column",
        [
            pa.array([MAY_MS], pa.timestamp("ms")),
            pa.array([MAY_MS * 1000], pa.timestamp("us", "America/New_York")),
            pa.array([MAY_MS * 1_000_000 + 1], pa.timestamp("ns")),
            pa.array([MAY_MS // 1000], pa.int32()),
            pa.array([MAY_MS / 1000]),
            pa.array([Decimal(MAY_MS) / 1000], pa.decimal128(20, 3)),
        ],
        ids=["milliseconds", "a zone", "nanoseconds", "small integers", "floats", "decimals"],
    )
    def test_parquets_own_types(self, tmp_path: Path, column: pa.Array) -> None:
        path = table(tmp_path / "clicks.parquet", {"user": ["u"], "item": ["i"], "ts": column})
        assert events(path) == [("u", "i", MAY_MS)]

    @pytest.mark.parametrize(
        ("unit", "text", "said"),
        [
            ("s", "2024-05-01", "'2024-05-01'; expected Unix seconds: say --time-unit iso8601"),
            ("s", "2024-05-01 10:00:00 UTC", "expected Unix seconds: say --time-unit iso8601"),
            ("s", "soon", "'soon'; expected Unix seconds: choose another unit (--time-unit), or mend or remove"),
            ("s", "", "nothing; mend or remove the row"),
            ("s", "nan", "'nan'; expected Unix seconds: mend"),
            ("s", "-1", "'-1', which is before 1970; expected Unix seconds: mend"),
            ("s", "1714557600000", "which as Unix seconds is the year 56302; if the column is in Unix milliseconds,"
                                   " say --time-unit ms; if only some rows are, bring all to one unit"),
            ("s", "1714557600000000", "if the column is in Unix microseconds, say --time-unit us"),
            ("ms", "1714557600000000", "is the year 56302; if the column is in Unix microseconds, say --time-unit us"),
            ("us", "1714557600000000000", "is the year 56302; bring the column to seconds, milliseconds or micro"),
            ("iso8601", "1714557600", "'1714557600'; expected ISO 8601: say --time-unit s"),
            ("iso8601", "1714557600000", "expected ISO 8601: say --time-unit ms"),
            ("iso8601", "01.05.2024", "'01.05.2024'; expected ISO 8601: choose another unit"),
            ("iso8601", "2024-02-30", "'2024-02-30'; expected ISO 8601"),
            ("iso8601", "1969-12-31", "'1969-12-31', which is before 1970"),
        ],
    )  # fmt: skip
    def test_what_cannot_be_meant_is_named(self, tmp_path: Path, unit: TimeUnit, text: str, said: str) -> None:
        fine = {"s": "1", "ms": "1714557600000", "us": "1714557600000000", "iso8601": "2024-05-01"}[unit]
        path = written(tmp_path / "clicks.csv", f"user,item,ts\nu,i,{fine}\nu,i,{text}\n")
        found = refusal(path, Layout(time_unit=unit))
        assert f"{path}, row 2: column ts holds " in found
        assert said in found

    def test_numbers_of_parquet_are_no_iso_8601(self, tmp_path: Path) -> None:
        path = table(tmp_path / "clicks.parquet", {"user": ["u"], "item": ["i"], "ts": [MAY_MS]})
        assert f"ts holds {MAY_MS}; expected ISO 8601: say --time-unit ms" in refusal(path, Layout(time_unit="iso8601"))

    @pytest.mark.parametrize(("unit", "finer"), [("ms", 1), ("us", 1000)])
    def test_rows_in_another_unit_are_found_wherever_they_are(self, tmp_path: Path, unit: TimeUnit, finer: int) -> None:
        """Also where the others were in an earlier file."""
        table(tmp_path / "1.parquet", {"user": ["u"] * 2, "item": ["i"] * 2, "ts": [MAY_MS * finer] * 2})
        table(tmp_path / "2.parquet", {"user": ["u"] * 2, "item": ["i"] * 2, "ts": [MAY_MS * finer, MAY_MS // 1000]})
        said = refusal(tmp_path, Layout(time_unit=unit))
        assert f"2.parquet, row 2: column ts holds {MAY_MS // 1000}, a thousand times apart from other times" in said
        assert "some rows are in another unit: bring all to one unit" in said

    def test_times_past_the_first_batch_are_named_by_their_row(self, tmp_path: Path) -> None:
        rows = "".join(f"u{row},i{row},{row}\n" for row in range(400_000))  # more than one block
        path = written(tmp_path / "clicks.csv", f"user,item,ts\n{rows}u,i,soon\n")
        assert "row 400001: column ts holds 'soon'" in refusal(path)


MAPPED = ClickSettings(
    fields=ClickFields(user="visitor.id", item="product.sku", time="at", action="verb"), time_unit="iso8601"
)


class TestSettings:
    """Columns and units that the settings name already."""

    def test_nested_fields_are_columns_inside_structs_or_names_with_dots(self, tmp_path: Path) -> None:
        nested = {"visitor": [{"id": 7, "age": 3}, {"id": 8, "age": 4}], "product": [{"sku": "x"}, {"sku": "y"}],
                  "at": ["2024-05-01T10:00Z", "2024-05-01"], "verb": ["buy", None]}  # fmt: skip
        flat = "visitor.id,product.sku,at,verb\n7,x,2024-05-01T10:00Z,buy\n8,y,2024-05-01,\n"
        dotted = {"visitor.id": [7, 8], "product.sku": ["x", "y"], "at": nested["at"], "verb": nested["verb"]}
        paths = [table(tmp_path / "a.parquet", nested), table(tmp_path / "b.parquet", dotted)]
        for path in (*paths, written(tmp_path / "a.csv", flat)):
            assert events(path, clicks=MAPPED) == [("7", "x", MAY_MS), ("8", "y", MAY_MS - 36_000_000)]
            assert actions(path, clicks=MAPPED) == ["buy", ""]
            assert recorded_events.read(path, MAPPED).items.spelled() == ["y", "x"]
            assert dataset.read(path, MAPPED).user_ids == ["7", "8"]

    def test_a_dot_that_is_a_part_of_a_key_is_one_of_the_name(self, tmp_path: Path) -> None:
        clicks = ClickSettings(fields=ClickFields(user=r"visitor\.id"))
        columns = {"visitor.id": ["a"], "item": ["x"], "ts": [1]}
        for path in (
            table(tmp_path / "a.parquet", columns),
            written(tmp_path / "a.csv", "visitor.id,item,ts\na,x,1\n"),
        ):
            assert events(path, clicks=clicks) == [("a", "x", 1_000)]
        with pytest.raises(
            SettingsError, match=r"clicks\.fields\.user': found 'visitor\.\.id', which has an empty step"
        ):
            batches(tmp_path / "a.csv", clicks=ClickSettings(fields=ClickFields(user="visitor..id")))

    def test_nothing_inside_a_struct_is_nothing(self, tmp_path: Path) -> None:
        columns = {"visitor": [{"id": "a"}, None], "product": [{"sku": "x"}] * 2, "at": ["2024-05-01"] * 2}
        path = table(tmp_path / "a.parquet", columns)
        assert "row 2: column visitor.id holds nothing" in refusal(path, clicks=MAPPED)

    def test_a_file_without_these_columns_is_read_by_its_own_names_in_seconds(self, tmp_path: Path) -> None:
        assert events(FILES["file"](tmp_path), clicks=MAPPED) == EVENTS
        path = written(tmp_path / "ratings.csv", "userId,movieId,rating,timestamp\nb,x,5,20\n")
        assert events(path, clicks=MAPPED) == [("b", "x", 20_000)]

    def test_each_column_is_looked_for_by_itself(self, tmp_path: Path) -> None:
        path = written(tmp_path / "a.csv", "visitor.id,item,ts,event\na,x,20,buy\n")
        assert events(path, clicks=MAPPED) == [("a", "x", 20_000)]
        assert actions(path, clicks=MAPPED) == ["buy"]

    def test_options_win_over_settings(self, tmp_path: Path) -> None:
        path = written(tmp_path / "a.csv", "visitor.id,who,product.sku,at,verb,did\na,b,x,20,buy,view\n")
        layout = Layout(user="who", action="did", time_unit="s")
        assert events(path, layout, MAPPED) == [("b", "x", 20_000)]
        assert actions(path, layout, MAPPED) == ["view"]
        assert "no column when; found" in refusal(path, Layout(time="when"), MAPPED)

    def test_settings_win_over_usual_names(self, tmp_path: Path) -> None:
        text = f"user,visitor.id,item,product.sku,ts,at,event,verb\n1,a,2,x,3,{MAY_MS},4,buy\n"
        clicks = MAPPED.model_copy(update={"time_unit": "ms"})
        assert events(written(tmp_path / "a.csv", text), clicks=clicks) == [("a", "x", MAY_MS)]
        assert actions(tmp_path / "a.csv", clicks=clicks) == ["buy"]

    def test_a_unit_of_the_settings_that_cannot_be_meant_is_refused(self, tmp_path: Path) -> None:
        path = written(tmp_path / "a.csv", f"user,item,ts\na,x,{MAY_MS // 1000}\n")
        clicks = ClickSettings(fields=ClickFields(time="ts"))
        said = refusal(path, clicks=clicks)
        assert "row 1: column ts holds '1714557600', which as Unix milliseconds (clicks.time_unit) is early in" in said
        assert "say --time-unit s" in said
        assert events(path, Layout(time_unit="s"), clicks) == [("a", "x", MAY_MS)]
        assert events(path) == [("a", "x", MAY_MS)]  # by default, the settings name no column

    def test_an_empty_name_keeps_a_column_from_being_read(self, tmp_path: Path) -> None:
        path = written(tmp_path / "a.csv", "user,item,ts,event,query\na,x,1,buy,shoes\n")
        clicks = ClickSettings(fields=ClickFields(action="", search=""))
        assert actions(path, clicks=clicks) is None
        assert batches(path, clicks=clicks)[0].words is None
        assert actions(path, Layout(action="event"), clicks) == ["buy"]

    def test_the_columns_that_produced_messages_have_are_read(self, tmp_path: Path) -> None:
        columns = {"user": ["a"], "item": ["x"], "ts": [1], "action": ["buy"], "event_id": ["e1"]}
        path = table(tmp_path / "a.parquet", columns)
        assert actions(path) == ["buy"]
        assert batches(path)[0].event_ids is None
        (batch,) = batches(path, event_ids=True)
        assert batch.event_ids is not None
        assert batch.event_ids.spelled() == ["e1"]

    def test_rows_without_consent_are_left_out(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        clicks = ClickSettings(fields=ClickFields(consent="user.agrees"))
        text = "user,item,ts,user.agrees\na,w,1,true\na,x,soon,FALSE\nb,y,3,\nb,z,4,1\n"
        agrees = [{"agrees": True}, {"agrees": False}, {"agrees": None}, None]
        nested = {"who": ["a", "a", "b", "b"], "item": list("wxyz"), "ts": [1, -1, 3, 4], "user": agrees}
        strict = clicks.model_copy(update={"require_consent": True})
        csv, parts = written(tmp_path / "a.csv", text), table(tmp_path / "a.parquet", nested)
        for place, layout, agreed in ((csv, LAYOUT, ["w", "z"]), (parts, Layout(user="who"), ["w"])):
            caplog.clear()
            (batch,) = batches(place, layout, clicks)
            assert batch.items.spelled() == ["w", "y", "z"]
            assert batch.rows.tolist() == [1, 3, 4]
            assert caplog.messages == [f"{place}: 1 of 4 rows are left out, without consent"]
            assert [item for _, item, _ in events(place, layout, strict)] == agreed
        wrong = written(tmp_path / "a.csv", "user,item,ts,user.agrees\na,x,1,maybe\n")
        assert "row 1: column user.agrees holds 'maybe'; expected true or false" in refusal(wrong, clicks=clicks)


class TestCsv:
    """Quotes, separators, and rows that are no rows."""

    def test_line_breaks_inside_quotes_in_a_file_of_several_blocks(self, tmp_path: Path) -> None:
        path = tmp_path / "clicks.csv"
        with path.open("w") as file:
            file.write("user,item,ts,comment\n")
            for k in range(60_000):
                file.write(
                    f'u{k % 900},i{k % 400},{1_700_000_000 + k},"{"first line " * 9}{k:06d}\n{"s" * 20}econd line"\n'
                )
        assert path.stat().st_size > 5_000_000
        found = events(path)
        assert len(batches(path)) > 1
        assert found == [(f"u{k % 900}", f"i{k % 400}", 1000 * (1_700_000_000 + k)) for k in range(60_000)]
        assert len(dataset.read(path)) == len(recorded_events.read(path)) == 60_000

    def test_line_breaks_separators_and_quotes_inside_ids(self, tmp_path: Path) -> None:
        path = written(tmp_path / "clicks.csv", 'user,item,ts\n"a,\nb","say ""x""",1\n')
        assert events(path) == [("a,\nb", 'say "x"', 1_000)]

    def test_quotes_that_do_not_end_are_named(self, tmp_path: Path) -> None:
        path = written(tmp_path / "long.csv", 'user,item,ts\na,x,1\n"b,x,2\n' + "c,x,3\n" * 1_500_000)
        assert "long.csv, row 2: a value in quotes does not end within 4 MB; close its quotes" in refusal(path)
        head = "".join(f"u{row},x,{row},w\n" for row in range(400_000))
        path = written(tmp_path / "late.csv", f'user,item,ts,comment\n{head}b,x,2,"w\nc,x,3,w\nc,y,4,w')
        assert "late.csv, row 400001: a value in quotes goes on to the end of the file; close its" in refusal(path)
        path = written(tmp_path / "item.csv", 'user,item,ts\na,x,1\nb,"x,2\nc,x,3\n')
        assert "item.csv, row 2: 2 of 3 values in 'b,\"x,2" in refusal(path)

    def test_a_last_row_that_is_empty_or_without_end_is_a_row(self, tmp_path: Path) -> None:
        assert events(written(tmp_path / "a.csv", CSV.removesuffix("\n"))) == EVENTS
        assert "row 4: column ts holds nothing" in refusal(written(tmp_path / "b.csv", f"{CSV},,\n"))

    def test_a_header_that_is_no_utf8_ends_with_a_sentence(self, tmp_path: Path) -> None:
        (tmp_path / "a.csv").write_bytes(b"us\xe9r,item,ts\na,b,1\n")
        assert "a.csv cannot be read: 'utf-8' codec" in refusal(tmp_path / "a.csv")

    @pytest.mark.parametrize(
        ("row", "shown"), [("b,y", "2 of 4 values in 'b,y'"), ("b,y,2,w,5", "5 of 4 values in 'b,y,2,w,5'")]
    )
    def test_rows_of_another_length_are_counted_from_one(self, tmp_path: Path, row: str, shown: str) -> None:
        path = written(tmp_path / "clicks.csv", f'user,item,ts,comment\na,x,1,"w\nw"\n\nb,y,2,w\n{row}\n')
        assert f"clicks.csv, row 3: {shown}; mend the row: values with ',' or a line break" in refusal(path)
        headerless = written(tmp_path / "u.data", "a\tx\t5\t1\nb\ty\t5\n")
        assert r"u.data, row 2: 3 of 4 values in 'b\ty\t5'" in refusal(headerless)

    def test_a_separator_is_named(self, tmp_path: Path) -> None:
        path = written(tmp_path / "clicks.csv", "user|item|ts\na|x;y|1\n")
        assert "found user|item|ts; is there another character between the columns (--separator)?" in refusal(path)
        assert events(path, Layout(separator="|")) == [("a", "x;y", 1_000)]
        for wrong in ("::", "", "\N{MIDDLE DOT}"):
            with pytest.raises(SettingsError, match="expected one ASCII character, or tab"):
                Layout(separator=wrong)

    def test_a_header_of_one_name_with_a_semicolon_is_several(self, tmp_path: Path) -> None:
        path = written(tmp_path / "clicks.csv", "sessionId;user;item;ts\n1;a;x,y;2\n")
        assert events(path) == [("a", "x,y", 2_000)]

    def test_names_that_are_there_twice_are_refused(self, tmp_path: Path) -> None:
        path = written(tmp_path / "clicks.csv", "user,user,item,ts\na,b,x,1\n")
        assert "has 2 columns called user; rename all but one" in refusal(path)

    def test_many_columns_are_not_all_named(self, tmp_path: Path) -> None:
        path = written(tmp_path / "clicks.csv", ",".join(f"c{number}" for number in range(30)) + "\n")
        assert "c18, c19 and 10 more; name the ones that hold user, item and time (--user-column" in refusal(path)


class TestSearches:
    """Rows without an item, but with words."""

    def test_words_are_kept_as_typed_and_ids_made_of_them(self, tmp_path: Path) -> None:
        path = written(tmp_path / "clicks.csv", "user,item,ts,query\na,,1,Red  Shoes!\na,x,2,red\na,,3,red shoes\n")
        (batch,) = batches(path)
        assert batch.items.spelled() == [searches.id_of("red shoes"), "x", searches.id_of("red shoes")]
        assert batch.words is not None
        assert batch.words.spelled() == ["Red  Shoes!", "red", "red shoes"]

    @pytest.mark.parametrize("words", ["", "!?"])
    def test_a_row_that_is_neither_click_nor_search_is_named(self, tmp_path: Path, words: str) -> None:
        path = written(tmp_path / "clicks.csv", f"user,item,ts,query\na,,1,shoes\na,,2,{words}\n")
        assert "row 2: column item holds nothing; nor has column query the words of a search; mend" in refusal(path)


def test_event_ids_of_the_file_are_played_and_rows_stand_in_for_missing_ones(tmp_path: Path) -> None:
    path = written(tmp_path / "clicks.csv", "user,item,ts,event_id\na,x,2,e-7\na,y,1,\n")
    recording = recorded_events.read(path, event_ids=True)
    sent = list[ProducedEvents]()
    play(recording, ReplayPlan.of(recording.times_ms, ReplayRate(), None), sent.append, event_ids=True)
    assert [batch.ids for batch in sent] == [["2", "e-7"]]


def test_the_stamp_knows_files_columns_and_unit(tmp_path: Path) -> None:
    path = FILES["file"](tmp_path)
    stamp = NumberedInteractions(path).stamp()
    assert NumberedInteractions(path).stamp() == stamp
    for layout in (Layout(time_unit="ms"), Layout(item="user"), Layout(separator=",")):
        assert NumberedInteractions(Source(str(path), layout)).stamp() != stamp
    written(path, CSV + "c,x,30\n")
    assert NumberedInteractions(path).stamp() != stamp


def test_names_put_together_have_each_name_once() -> None:
    parts = [Names(np.array([0, 1, 0], np.int32), ["b", "a"]), Names(np.array([1, 0], np.int32), ["c", "a"])]
    together = Names.together(parts)
    assert together.names == ["b", "a", "c"]
    assert together.spelled() == ["b", "a", "b", "a", "c"]
    assert Names(np.array([2, 0, 2], np.int32), ["a", "unused", "c"]).in_order().names == ["c", "a"]


@pytest.mark.parametrize("level", [logging.WARNING])
def test_nothing_is_said_about_files_without_fault(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, level: int
) -> None:
    with caplog.at_level(level):
        assert [kind for kind, write in FILES.items() if events(write(tmp_path / kind)) != EVENTS] == []
    assert caplog.messages == []
