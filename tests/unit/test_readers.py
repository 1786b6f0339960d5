import datetime as dt
import gzip
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from engine.errors import DataError
from engine.interactions.layout import Layout, Source
from engine.settings.sections import TimeUnit
from producers.replay.recorded_events import Recording, read

NOON_MS = 1_577_880_000_000  # 2020-01-01 12:00 UTC


def rows(recording: Recording) -> list[tuple[str, str, int]]:
    return list(zip(recording.users.spelled(), recording.items.spelled(), recording.times_ms.tolist(), strict=True))


def write(path: Path, text: str) -> Path:
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def test_a_folder_of_interactions_is_read_in_order_of_time(tmp_path: Path) -> None:
    write(
        tmp_path / "interactions.csv.gz", "user,item,ts,weight,event\nu2,i1,20,1,buy\nu1,i2,10.5,1,view\nu2,i3,20,1,\n"
    )

    recording = read(tmp_path)

    assert rows(recording) == [("u1", "i2", 10_500), ("u2", "i1", 20_000), ("u2", "i3", 20_000)]
    assert recording.actions is not None
    assert recording.actions.spelled() == ["view", "buy", ""]
    assert recording.rows.tolist() == [2, 1, 3]


def test_events_of_one_moment_keep_the_order_of_the_file(tmp_path: Path) -> None:
    lines = "".join(f"u,{item},{100 - item // 10}\n" for item in range(100))
    recording = read(write(tmp_path / "interactions.csv", f"user,item,ts\n{lines}"))

    by_moment = [int(item) for item in recording.items.spelled()]
    assert by_moment == sorted(range(100), key=lambda item: -(item // 10))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("ratings.dat", "1::1193::5::978300760\n2::661::3::978300000\n"),
        ("u.data", "1\t1193\t5\t978300760\n2\t661\t3\t978300000\n"),
        ("ratings.csv", "userId,movieId,rating,timestamp\n1,1193,5.0,978300760\n2,661,3.5,978300000\n"),
    ],
)
def test_movielens_files_are_known_by_name(tmp_path: Path, name: str, text: str) -> None:
    path = write(tmp_path / name, text)
    expected = [("2", "661", 978_300_000_000), ("1", "1193", 978_300_760_000)]

    assert rows(read(path)) == expected
    assert rows(read(tmp_path)) == expected


def test_ids_keep_leading_zeros(tmp_path: Path) -> None:
    recording = read(write(tmp_path / "clicks.csv", "user,item,ts\n007,0042,1\n"))

    assert rows(recording) == [("007", "0042", 1_000)]


@pytest.mark.parametrize(
    ("unit", "written"),
    [
        ("s", "1577880000"),
        ("s", "1577880000.0"),
        ("ms", "1577880000000"),
        ("iso8601", "2020-01-01T12:00:00Z"),
        ("iso8601", "2020-01-01 12:00:00.000"),
        ("iso8601", "2020-01-01T14:00:00+02:00"),
        ("iso8601", "2020-01-01T12:00"),
    ],
)
def test_times_are_read_in_each_unit(tmp_path: Path, unit: TimeUnit, written: str) -> None:
    path = write(tmp_path / "clicks.csv", f"who,what,when\nu,i,{written}\n")

    assert read(Source(str(path), Layout("who", "what", "when", time_unit=unit))).times_ms.tolist() == [NOON_MS]


def test_an_iso_date_is_its_first_moment(tmp_path: Path) -> None:
    path = write(tmp_path / "clicks.csv", "user,item,ts\nu,i,2020-01-01\n")

    assert read(Source(str(path), Layout(time_unit="iso8601"))).times_ms.tolist() == [NOON_MS - 12 * 3_600_000]


@pytest.mark.parametrize(
    "times",
    [
        pa.array([dt.datetime(2020, 1, 1, 12, tzinfo=dt.UTC)], pa.timestamp("us", "UTC")),
        pa.array([dt.datetime(2020, 1, 1, 12)], pa.timestamp("ns")),  # noqa: DTZ001 - a column without a zone
        pa.array([dt.datetime(2020, 1, 1, 12, tzinfo=dt.UTC)], pa.timestamp("s", "America/New_York")),
        pa.array([NOON_MS // 1000]),
        pa.array([NOON_MS / 1000]),
    ],
)
def test_parquet_times_need_no_unit(tmp_path: Path, times: pa.Array) -> None:
    path = tmp_path / "clicks.parquet"
    parquet.write_table(pa.table({"user": [7], "item": pa.array(["i"]).dictionary_encode(), "at": times}), path)

    assert rows(read(Source(str(path), Layout(time="at")))) == [("7", "i", NOON_MS)]


def test_columns_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "shop.csv.gz", "when,who,what,how\n3,u,i,buy\n")

    recording = read(Source(str(path), Layout("who", "what", "when", "how")))

    assert rows(recording) == [("u", "i", 3_000)]
    assert recording.actions is not None
    assert recording.actions.spelled() == ["buy"]


def test_a_part_of_a_recording_is_one(tmp_path: Path) -> None:
    recording = read(write(tmp_path / "clicks.csv", "user,item,ts\nu1,a,1\nu2,b,2\nu3,c,3\n"))

    assert rows(recording.select(slice(1, 2))) == [("u2", "b", 2_000)]


@pytest.mark.parametrize(
    ("text", "unit", "message"),
    [
        ("", "s", "cannot be read"),
        ("user,item,ts\n", "s", "holds no events"),
        ("user,item,when\nu,i,1\n", "s", "no column ts; found user, item, when.*--time-column"),
        ("user,item,ts\nu,i,1\nu,i,soon\n", "s", "row 2: column ts holds 'soon'; .* Unix seconds.*--time-unit"),
        ("user,item,ts\nu,i,1\nu,i,\n", "s", "row 2: column ts holds nothing; mend or remove the row"),
        ("user,item,ts\nu,i,nan\n", "s", "row 1: column ts holds 'nan'"),
        ("user,item,ts\nu,i,1577880000000\n", "s", "row 1: column ts holds '1577880000000'"),
        ("user,item,ts\nu,i,-5\n", "ms", "row 1: column ts holds '-5'.* Unix milliseconds"),
        ("user,item,ts\nu,i,2020-01-01T00:00Z\nu,i,2020-13-01\n", "iso8601", "row 2: .*'2020-13-01'.* ISO 8601"),
        ("user,item,ts\nu,i,1\n,i,1\n", "s", "row 2: column user holds nothing"),
        ("user,item,ts\nu,,1\n", "s", "row 1: column item holds nothing"),
        ("user,item,ts\nu,i,1\nu,i\n", "s", "row 2: 2 of 3 values in 'u,i'; mend the row"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, unit: TimeUnit, message: str) -> None:
    path = write(tmp_path / "clicks.csv", text)

    with pytest.raises(DataError, match=message) as caught:
        read(Source(str(path), Layout(time_unit=unit)))

    assert "clicks.csv" in str(caught.value)


def test_files_that_are_no_tables_are_refused(tmp_path: Path) -> None:
    for name, content in (("a.parquet", b"PAR0"), ("b.csv.gz", b"no gzip")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=f"{name} cannot be read"):
            read(tmp_path / name)
    (tmp_path / "c.csv").write_bytes(b"user,item,ts\nu,i,1\n\xff,i,1\n")
    with pytest.raises(
        DataError, match=r"c\.csv, row 2: column user holds b'\\xff'; expected text: save the file in UTF-8"
    ):
        read(tmp_path / "c.csv")


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read(tmp_path / "nothing")
    with pytest.raises(DataError, match=r"holds no interactions\.csv\.gz, .*u\.data"):
        read(tmp_path)


def test_columns_of_the_file_in_a_folder_are_named(tmp_path: Path) -> None:
    write(tmp_path / "clicks.csv", "a,b,c\nu,i,1\n")

    assert rows(read(Source(str(tmp_path), Layout("a", "b", "c")))) == [("u", "i", 1_000)]


def test_an_action_column_that_was_named_must_be_there(tmp_path: Path) -> None:
    path = write(tmp_path / "clicks.csv", "user,item,ts\nu,i,1\n")

    with pytest.raises(DataError, match="no column how"):
        read(Source(str(path), Layout(action="how")))
