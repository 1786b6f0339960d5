"""Mistakes with recorded data, items and run folders."""

import importlib
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from engine.catalogue import content
from engine.catalogue.content import Item
from engine.contract import ContentSizes
from engine.errors import DataError, MissingExtraError, RunFolderError, SettingsError
from engine.interactions.files import Place
from engine.interactions.layout import Layout
from engine.settings.sections import ClickFields, ClickSettings
from models.data import dataset
from producers.replay import recorded_events
from tests.contracts.mistakes.row import Act, Row


def recorded(text: str, read: Callable[[Path], object] = dataset.read) -> Act:
    def act(folder: Path) -> object:
        (folder / "interactions.csv").write_text(text)
        return read(folder / "interactions.csv")

    return act


def missing_module(name: str, act: Act) -> Act:
    def without(folder: Path) -> object:
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(sys.modules, name, None)
            return act(folder)

    return without


def locked_run_folder(folder: Path) -> object:
    checkpoints = importlib.import_module("models.training.checkpoints")
    with ExitStack() as stack:
        return [stack.enter_context(checkpoints.RunFolder(folder / "run").locked()) for _ in range(2)]


def files(*names: str, read: Callable[[Path], object] = dataset.read) -> Act:
    """Reads a folder of empty files."""

    def act(folder: Path) -> object:
        for name in names:
            (folder / name).write_text("")
        return read(folder)

    return act


def partitioned(*tables: dict[str, list[object]]) -> Act:
    """Reads Parquet files, one for each table."""

    def act(folder: Path) -> object:
        for number, table in enumerate(tables):
            parquet.write_table(pa.table(table), folder / f"{number}.parquet")
        return dataset.read(folder)

    return act


CONSENT = ClickSettings(fields=ClickFields(consent="agrees"), require_consent=True)

ROWS = [
    Row(
        "quotes that are not closed",
        recorded('user,item,ts,note\na,x,1,"c\nb,y,2,d\n'),
        DataError,
        r"interactions\.csv, row 1 | a value in quotes goes on to the end of the file | - | close its quotes",
    ),
    Row(
        "consent that is needed, and no column for it",
        recorded("user,item,ts\na,x,1\n", lambda file: dataset.read(file, CONSENT)),
        DataError,
        r"interactions\.csv has no column agrees | found user, item, ts | clicks\.require_consent needs one | add it",
    ),
    Row(
        "a file of another kind",
        files("clicks.xlsx", read=lambda folder: dataset.read(folder / "clicks.xlsx")),
        DataError,
        r"clicks\.xlsx | ends in none of | \.csv, .*\.parquet | rename or convert it",
    ),
    Row(
        "a folder of other things",
        files("readme.txt"),
        DataError,
        r"holds no interactions\.csv\.gz | no other CSV file | - | name a folder with such files, or a file",
    ),
    Row(
        "two files of which one is meant",
        files("clicks-1.csv", "clicks-2.csv"),
        DataError,
        r"holds clicks-1\.csv, clicks-2\.csv | - | name the one that holds the interactions | or call it",
    ),
    Row(
        "a file system that nobody knows",
        lambda _folder: Place("nowhere://bucket/clicks"),
        DataError,
        r"nowhere://bucket/clicks | cannot be reached: .*nowhere | - | name a scheme that fsspec knows",
    ),
    Row(
        "data elsewhere, and no library for that place",
        missing_module("s3fs", lambda _folder: Place("s3://bucket/clicks")),
        MissingExtraError,
        r"s3://bucket/clicks | cannot be reached | - | [Ii]nstall s3fs",
    ),
    Row(
        "a path that no file system takes",
        lambda folder: dataset.read(folder / (300 * "x")),
        DataError,
        r"/xxx | cannot be reached: .*too long | - | name a folder or a file",
    ),
    Row(
        "a Parquet file that is none",
        files("clicks.parquet"),
        DataError,
        r"clicks\.parquet | cannot be read | expected | Parquet",
    ),
    Row(
        "a second file without a column of the first",
        partitioned(
            {"user": ["a", "b"], "item": ["x", "y"], "ts": [1, 2]},
            {"userId": ["c"], "movieId": ["x"], "timestamp": [3]},
        ),
        DataError,
        r"1\.parquet | has no column user | as .*0\.parquet has | bring",
    ),
    Row(
        "a header line and no rows",
        recorded("user,item,ts\n"),
        DataError,
        r"interactions\.csv | holds no events | - | name another file or folder",
    ),
    Row(
        "two characters between columns",
        lambda _folder: Layout(separator="||"),
        SettingsError,
        r"--separator | found '\|\|' | expected one ASCII character, or tab | tab",
    ),
    Row(
        "a column that is there twice",
        recorded("user,item,ts,item\na,x,1,y\n"),
        DataError,
        r"interactions\.csv | has 2 columns called item | - | rename all but one",
    ),
    Row(
        "a folder that is not there",
        lambda folder: dataset.read(folder / "none"),
        DataError,
        r".*/none | does not exist | - | name a folder or a file",
    ),
    Row(
        "a column by another name",
        recorded("user,article,ts\na,b,1\n"),
        DataError,
        r"interactions\.csv has no column item | found user, article, ts | - | did you mean --item-column article\?",
    ),
    Row(
        "a row without an item",
        recorded("user,item,ts\na,b,1\na,,2\n"),
        DataError,
        r"interactions\.csv, row 2: column item | holds nothing | - | mend",
    ),
    Row(
        "events of one user alone",
        recorded("user,item,ts\na,b,1\na,c,2\n"),
        DataError,
        r"interactions\.csv | has 1 user, 'a' | at least 2 are needed | is column user the right one\?",
    ),
    Row(
        "a recording with a time that is none",
        recorded("user,item,ts\na,b,soon\n", recorded_events.read),
        DataError,
        r"interactions\.csv, row 1: column ts | holds 'soon' | expected Unix seconds | another unit \(--time-unit\)",
    ),
    Row(
        "an item whose vector is shorter than the others",
        lambda _folder: content.features([Item(id="b", vector=(1.0,))], ContentSizes(buckets=8, dense=2)),
        DataError,
        r"item 'b': its vector | has 1 numbers | expected 2 as in all others | mend it, or leave the vector out",
    ),
    Row(
        "an item whose vector is no number",
        lambda _folder: content.features([Item(id="b", vector=(1.0, float("nan")))], ContentSizes(buckets=8, dense=2)),
        DataError,
        r"item 'b': its vector | holds nan | expected numbers alone | mend it, or leave the vector out",
    ),
    Row(
        "data elsewhere, and no library for it",
        missing_module("fsspec", lambda _folder: Place("s3://bucket/clicks")),
        MissingExtraError,
        r"s3://bucket/clicks | needs fsspec, which is not installed | - | pip install fsspec",
    ),
    Row(
        "a run folder in which another training is under way",
        locked_run_folder,
        RunFolderError,
        r".*/run | is in use by another training | - | name another --run",
        needs="torch",
    ),
]
