"""Mistakes with recorded data, items and run folders."""

import importlib
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from engine.catalogue import content
from engine.catalogue.content import Item
from engine.contract import ContentSizes
from engine.errors import (
    DataError,
    MissingExtraError,
    RunFolderError,
)
from models.data import archive, dataset, storage
from producers.replay import readers
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


ROWS = [
    Row(
        "a folder that is not there",
        lambda folder: archive.open_source(folder / "none"),
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
        r"interactions\.csv, line 3: column item | holds nothing | - | mend",
    ),
    Row(
        "events of one user alone",
        recorded("user,item,ts\na,b,1\na,c,2\n"),
        DataError,
        r"interactions\.csv | has 1 user, 'a' | at least 2 are needed | is column user the right one\?",
    ),
    Row(
        "a recording with a time that is none",
        recorded("user,item,ts\na,b,soon\n", lambda file: readers.read(file, None)),
        DataError,
        r"interactions\.csv, row 1: column ts | holds 'soon' | not a time in | --time-unit",
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
        missing_module("fsspec", lambda _folder: storage.file_system("s3://bucket/clicks")),
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
