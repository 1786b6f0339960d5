"""Archives of every shape read alike, and a sentence for those that cannot be learned from."""

import datetime as dt
import gzip
import logging
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import dataset as ds
from pyarrow import parquet

from engine.errors import DataError
from engine.interactions.layout import Layout, Source
from engine.settings.sections import ItemSettings, TimeUnit
from models.data import dataset, histories, item_content
from models.data.dataset import Interactions
from models.data.numbering import NumberedInteractions
from models.settings import TrainSettings
from models.training import training_data

EVENTS: dict[str, list[Any]] = {
    "user": ["b", "a", "b", "a"],
    "item": ["x", "y", "z", "x"],
    "ts": [20.5, 10.0, 10.0, 10.0],
}


def written(folder: Path, columns: dict[str, Any], name: str = "clicks.parquet") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.table(columns), path)
    return path


def spelled(found: Interactions) -> list[tuple[str, str, int, str]]:
    return [
        (found.user_ids[user], found.item_ids[item], time_ms, found.action_names[action])
        for user, item, time_ms, action in zip(
            found.users, found.items, found.times_ms.tolist(), found.actions, strict=True
        )
    ]


EXPECTED = [("a", "y", 10_000, ""), ("b", "z", 10_000, ""), ("a", "x", 10_000, ""), ("b", "x", 20_500, "")]


def test_a_parquet_file_is_read_like_csv(tmp_path: Path) -> None:
    assert spelled(dataset.read(written(tmp_path, EVENTS))) == EXPECTED


def test_a_folder_of_files_is_read_in_order_of_their_paths(tmp_path: Path) -> None:
    for number in range(4):
        written(tmp_path, {name: values[number : number + 1] for name, values in EVENTS.items()}, f"{number}/part.pq")
    assert spelled(dataset.read(tmp_path)) == EXPECTED


def test_folders_named_after_values_are_a_column(tmp_path: Path) -> None:
    table = pa.table({**EVENTS, "event": ["view", "buy", "view", "buy"]})
    partitioning = ds.partitioning(pa.schema([("event", pa.string())]), flavor="hive")
    ds.write_dataset(table, tmp_path, format="parquet", partitioning=partitioning)
    found = spelled(dataset.read(tmp_path))
    assert sorted(found) == sorted(
        [("b", "x", 20_500, "view"), ("a", "y", 10_000, "buy"), ("b", "z", 10_000, "view"), ("a", "x", 10_000, "buy")]
    )


def test_another_file_system_is_read_through_fsspec(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.put(str(written(tmp_path, EVENTS)), "/bucket/clicks/part.parquet")
    with memory.open("/bucket/plain/interactions.csv.gz", "wb") as file:
        file.write(gzip.compress(b"user,item,ts\nb,x,20.5\na,y,10\nb,z,10\na,x,10\n"))
    assert spelled(dataset.read(Source("memory://bucket/clicks"))) == EXPECTED
    assert spelled(dataset.read(Source("memory://bucket/plain"))) == EXPECTED


def test_an_items_file_beside_the_interactions_is_none_of_them(tmp_path: Path) -> None:
    """Of whichever form, it is found by the folder and by the file beside it, here and elsewhere."""
    path, memory = written(tmp_path, EVENTS), fsspec.filesystem("memory")
    written(tmp_path, {"item": ["x"], "title": ["an x"]}, "items.parquet")
    memory.put(str(path), "/shop/clicks.parquet")
    with memory.open("/shop/items.csv.gz", "wb") as file:
        file.write(gzip.compress(b"item,title\nx,an x\n"))
    for address in (str(tmp_path), "memory://shop"):
        assert spelled(dataset.read(Source(address))) == EXPECTED
        for place in (address, f"{address}/clicks.parquet"):
            assert item_content.read(place, ItemSettings())["x"].title == "an x"


@pytest.mark.parametrize(
    ("times", "unit"),
    [
        (pa.array([20_500, 10_000, 10_000, 10_000]), "ms"),
        (pa.array([20_500, 10_000, 10_000, 10_000], pa.timestamp("ms")), "s"),
        (pa.array([20_500_000, 10_000_000, 10_000_000, 10_000_000], pa.timestamp("us", "UTC")), "s"),
        (pa.array([20_500.0, 10_000.0, 10_000.0, 10_000.0], pa.float32()), "ms"),
    ],
    ids=["milliseconds", "timestamps", "microseconds in a zone", "fractions"],
)
def test_times_of_every_kind(tmp_path: Path, times: pa.Array, unit: TimeUnit) -> None:
    path = written(tmp_path, {**EVENTS, "ts": times})
    assert spelled(dataset.read(Source(str(path), Layout(time_unit=unit)))) == EXPECTED


def test_dates_and_whole_numbers_as_ids_and_names_of_ones_own(tmp_path: Path) -> None:
    days = [dt.date(1970, 1, 2), dt.date(1970, 1, 1)]
    path = written(tmp_path, {"who": [7, 8], "what": pa.array(["x", "y"]).dictionary_encode(), "day": days})
    found = dataset.read(Source(str(path), Layout(user="who", item="what", time="day")))
    assert spelled(found) == [("8", "y", 0, ""), ("7", "x", 86_400_000, "")]


def refusal(path: Path, layout: Layout = Layout()) -> str:  # noqa: B008 - it is frozen
    with pytest.raises(DataError) as refused:
        dataset.read(Source(str(path), layout))
    return str(refused.value)


SECONDS, MILLISECONDS = 1_700_000_000, 1_700_000_000_000


@pytest.mark.parametrize(
    ("changed", "unit", "said"),
    [
        (
            {"ts": [1.0, np.nan, 2.0, 3.0]},
            "s",
            "row 2: column ts holds nan; expected Unix seconds: mend or remove",
        ),
        ({"ts": [1, None, 2, 3]}, "s", "row 2: column ts holds nothing"),
        ({"ts": [1, 2, -5, 3]}, "s", "row 3: column ts holds -5, which is before 1970"),
        ({"ts": ["1", " 2 ", "soon", "4"]}, "s", "row 3: column ts holds 'soon'; expected Unix seconds"),
        ({"ts": [SECONDS, SECONDS, MILLISECONDS, SECONDS]}, "s", "row 3: .* is the year 55840; .* --time-unit ms"),
        (
            {"ts": [MILLISECONDS, SECONDS, MILLISECONDS, MILLISECONDS]},
            "ms",
            "row 2: .*; some rows are in another unit",
        ),
        ({"ts": [MILLISECONDS * 1000] * 4}, "ms", "row 1: .* is the year 55840; .* --time-unit us"),
        ({"user": ["a", None, "b", "c"]}, "s", "row 2: column user holds nothing"),
        ({"item": ["a", "b", "", "c"]}, "s", "row 3: column item holds nothing"),
        ({"item": [1.0, 2.0, 3.5, 4.0]}, "s", "row 3: column item holds 3.5; expected text or whole numbers"),
    ],
    ids=[
        "NaN",
        "no time",
        "negative",
        "text",
        "milliseconds among seconds",
        "seconds among milliseconds",
        "microseconds",
        "no user",
        "empty item",
        "fractions as ids",
    ],
)
def test_bad_values_end_with_a_sentence(tmp_path: Path, changed: dict[str, Any], unit: TimeUnit, said: str) -> None:
    with pytest.raises(DataError, match=said):
        dataset.read(Source(str(written(tmp_path, EVENTS | changed)), Layout(time_unit=unit)))


@pytest.mark.parametrize(
    ("names", "hint"),
    [
        (("user_id", "item", "ts"), "no column user; .*did you mean --user-column user_id"),
        (("user", "item", "timestamp"), "no column ts; .*did you mean --time-column timestamp"),
        (("userId", "movieId", "ts"), "did you mean --user-column userId --item-column movieId"),
        (("user", "item", "colour"), "no column ts; found user, item, colour; name the ones"),
    ],
)
def test_an_unknown_column_is_guessed(tmp_path: Path, names: tuple[str, str, str], hint: str) -> None:
    path = written(tmp_path, dict(zip(names, EVENTS.values(), strict=True)))
    with pytest.raises(DataError, match=hint):
        dataset.read(path)


def test_too_many_actions_are_no_actions(tmp_path: Path) -> None:
    columns = {"user": [1, 2] * 150, "item": [1, 2] * 150, "ts": [0] * 300, "event": [str(row) for row in range(300)]}
    assert "more than 255 different names; an action is one of a few" in refusal(written(tmp_path, columns))


def test_what_is_not_there_or_not_readable_is_named(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "nowhere")
    assert "no Parquet file" in refusal(tmp_path)
    broken = written(tmp_path, EVENTS)
    broken.write_bytes(broken.read_bytes()[:-20])
    assert "cannot be read" in refusal(broken)
    (tmp_path / "clicks.txt").write_text("a")
    assert "rename or convert it" in refusal(tmp_path / "clicks.txt")
    empty = written(tmp_path, {name: pa.array(values[:0]) for name, values in EVENTS.items()}, "empty.parquet")
    assert "holds no events" in refusal(empty)
    (tmp_path / "interactions.csv").write_text("")
    assert "cannot be read" in refusal(tmp_path)


def test_all_ties_go_by_the_order_of_the_file_and_have_no_last_tenth(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = written(tmp_path, {"user": ["a", "b"] * 3, "item": list("uvwxyz"), "ts": [7] * 6})
    with caplog.at_level(logging.WARNING):
        found = histories.sort(NumberedInteractions(path), tmp_path / "sorted")
    assert "all 6 events have the same time; the order of the file decides" in caplog.text
    learned = training_data.prepare(found, TrainSettings(holdout="last"))
    assert [learned.ids[row] for row in learned.histories.items] == ["u", "w", "v", "x"]
    with pytest.raises(DataError, match=r"nine tenths of the 6 events have the same time.* say --holdout last"):
        training_data.prepare(found, TrainSettings(holdout="both"))


def test_a_user_with_millions_of_events_is_named_and_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    many = 1_200_000
    columns = {
        "user": np.append(np.zeros(many, np.int32), [1, 1, 2, 2]).astype(np.int32),
        "item": np.arange(many + 4, dtype=np.int32) % 50,
        "ts": np.arange(many + 4),
    }
    with caplog.at_level(logging.WARNING):
        found = histories.sort(NumberedInteractions(written(tmp_path, columns)), tmp_path / "sorted")
    assert f"user '0' has {many} of {many + 4} events; if that is a program" in caplog.text
    learned = training_data.prepare(found, TrainSettings())
    assert learned.histories.lengths()[0] == int(0.9 * (many + 4))  # the last tenth of time is left out
