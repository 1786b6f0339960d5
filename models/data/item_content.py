"""Content of the items, from an items file.

It is `items.csv.gz`, `items.csv` or `items.parquet` in the folder of the interactions, with the column `item` and any
of the content columns of the settings (`items.fields`): title, price, a given vector, and bags (category, genres, tags,
...), several values in one field of text separated by `items.separator`. Lists of Parquet are read as they are. Ids are
read as those of the interactions are (`engine.interactions.columns`). In a content column, what tools write for a
missing value (`NA`, `null`, `nan`, ...) is nothing.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from engine.arrays import Float32
from engine.catalogue.content import Item
from engine.contract import ContentSizes
from engine.errors import DataError
from engine.interactions.columns import IdColumn, UnreadableValueError, decoded, first_unreadable, is_number, is_text
from engine.interactions.csv_table import CsvTable
from engine.interactions.files import DataFile, Place
from engine.interactions.parquet_table import ParquetTable
from engine.settings.sections import ItemSettings

BAGS: Final = ("category", "genres", "tags", "brand", "department")
_NOTHING: Final = pa.array(csv.ConvertOptions().null_values)


def read(address: str | Path, settings: ItemSettings) -> dict[str, Item]:
    """The items by id, of the items file in the folder at `address` or of the file there; none where there is none.

    Raises:
        DataError: the file cannot be read, lacks the item column, names an item twice, has a price that is no number,
            or vectors that are not equally long or not finite.
        MissingExtraError: the address has a scheme, and what its file system needs is not installed.
    """
    file = Place(str(address)).items_file()
    if file is None:
        return {}
    table = _ItemsTable(file, settings)
    return table.items() if table.has_content else {}


def sizes(items: Mapping[str, Item], buckets: int) -> ContentSizes:
    """Sizes of a content graph for these items, whose vectors are equally long."""
    dense = next((len(np.asarray(item.vector)) for item in items.values() if item.vector is not None), 0)
    return ContentSizes(buckets=buckets, dense=dense)


def fingerprint(items: Mapping[str, Item]) -> str:
    """SHA-256 over all that is known of the items: what has the same one (and the same clicks) trains alike."""
    checksum = hashlib.sha256()
    for item in (items[key] for key in sorted(items)):
        bags = sorted((name, sorted(values)) for name, values in item.bags.items())
        checksum.update(repr((item.id, item.title, bags, item.price)).encode())
        if item.vector is not None:
            checksum.update(np.asarray(item.vector, np.float32).tobytes())
    return checksum.hexdigest()


class _ItemsTable:
    """An items file, whole."""

    def __init__(self, file: DataFile, settings: ItemSettings) -> None:
        self._label, self._separator = file.label, settings.separator
        table = ParquetTable(file) if file.is_parquet else CsvTable(file)
        fields = {name: column for name, column in settings.fields.model_dump().items() if column}
        if fields["item"] not in table.names:
            raise DataError(
                f"{file.label} has no column {fields['item']!r}; found {', '.join(table.names)}: name the one that"
                " holds the item ids in the setting items.fields.item"
            )
        self._names = {name: column for name, column in fields.items() if column in table.names}
        batches = list(table.batches(list(dict.fromkeys(self._names.values()))))
        columns = {name: _joined([batch[column] for batch in batches]) for name, column in self._names.items()}
        self._ids = self._read_ids(columns.pop("item"))
        self._columns = {name: _without_nothing(column) for name, column in columns.items()}

    @property
    def has_content(self) -> bool:
        """Whether there is any column of content."""
        return bool(self._columns)

    def items(self) -> dict[str, Item]:
        """The items by id."""
        count = len(self._ids)
        titles = self._texts("title").fill_null("").to_pylist() if "title" in self._columns else [""] * count
        prices = self._prices() if "price" in self._columns else [None] * count
        bags = {name: self._lists(name).to_pylist() for name in BAGS if name in self._columns}
        vectors = self._vectors() if "vector" in self._columns else [None] * count
        return {
            item: Item(
                id=item,
                title=titles[row],
                bags={name: [value for value in values[row] if value] for name, values in bags.items() if values[row]},
                price=prices[row],
                vector=vectors[row],
            )
            for row, item in enumerate(self._ids)
        }

    def _read_ids(self, column: pa.Array) -> list[str]:
        try:
            ids = IdColumn(f"{self._label}: column {self._names['item']}").read(column).spelled()
        except UnreadableValueError as error:
            raise DataError(
                f"{self._label}, row {error.index + 1}: column {self._names['item']} holds {error.content};"
                f" {error.way_out}"
            ) from error
        if "" in ids:
            raise DataError(f"{self._label}: row {ids.index('') + 1} has no item id; mend the file")
        if len(set(ids)) < len(ids):
            seen = set[str]()
            repeated = next(item for item in ids if item in seen or seen.add(item))  # type: ignore[func-returns-value]
            raise DataError(f"{self._label}: item {repeated!r} is in it more than once; keep one row an item")
        return ids

    def _texts(self, name: str) -> pa.Array:
        """A column as text."""
        return self._cast(name, self._columns[name].type, pa.string(), "text")

    def _lists(self, name: str) -> pa.Array:
        """Lists of text, whatever the column is: lists already, text with separators, or plain values."""
        column = self._columns[name]
        if not _is_list(column.type):
            return pc.split_pattern(self._texts(name), self._separator)
        return self._cast(name, column.type.value_type, pa.list_(pa.string()), "lists of text or numbers")

    def _cast(self, name: str, values: pa.DataType, kind: pa.DataType, expected: str) -> pa.Array:
        """A column as another type; `values` is the type of what it holds in the end."""
        column = self._columns[name]
        try:
            if not pa.types.is_nested(values):
                return column.cast(kind)
        except pa.ArrowException:
            pass
        raise DataError(
            f"{self._label}: column {self._names[name]} holds values of type {column.type}; expected {expected}: cast"
            f" the column, or name another in the setting items.fields.{name}"
        )

    def _prices(self) -> list[float | None]:
        column = self._columns["price"]
        if is_number(column.type):
            numbers: list[float | None] = column.cast(pa.float64(), safe=False).to_pylist()
            return numbers
        texts = pc.ascii_trim_whitespace(self._texts("price"))
        try:
            numbers = texts.cast(pa.float64()).to_pylist()
        except pa.ArrowInvalid:
            row = first_unreadable(texts, _as_floats)
            self._refuse("price", row, texts[row].as_py(), "a plain number such as 3.00, or nothing")
        return numbers

    def _vectors(self) -> list[Float32 | None]:
        """Each item's given vector, None where it has none."""
        lists = self._lists("vector")
        rows = np.flatnonzero(lists.is_valid().to_numpy(zero_copy_only=False))  # of the items that have one
        if not len(rows):
            return [None] * len(self._ids)
        self._refuse_lengths(pc.list_value_length(lists).drop_null().to_numpy(), rows)
        numbers = self._vector_numbers(lists).reshape(len(rows), -1)
        infinite = rows[~np.isfinite(numbers).all(axis=1)]
        if len(infinite):
            raise DataError(
                f"{self._label}: {len(infinite)} vectors hold numbers that are not finite, first that of item"
                f" {self._ids[infinite[0]]!r}; mend them, or leave them empty"
            )
        vectors: list[Float32 | None] = [None] * len(self._ids)
        for vector, row in zip(numbers, rows.tolist(), strict=True):
            vectors[row] = vector
        return vectors

    def _vector_numbers(self, lists: pa.Array) -> Float32:
        """All numbers of all vectors, one after the other."""
        texts = pc.ascii_trim_whitespace(pc.list_flatten(lists))
        try:
            return _as_floats(texts)
        except pa.ArrowInvalid:
            index = first_unreadable(texts, _as_floats)
            row = int(pc.list_parent_indices(lists)[index].as_py())
            self._refuse("vector", row, texts[index].as_py(), "numbers")

    def _refuse_lengths(self, lengths: Any, rows: Any) -> None:
        """Refuse vectors of different lengths; `lengths` are those of the items in `rows`."""
        different = np.flatnonzero(lengths != lengths[0])
        if len(different):
            raise DataError(
                f"{self._label}: the vector of item {self._ids[rows[different[0]]]!r} has {lengths[different[0]]}"
                f" numbers, that of item {self._ids[rows[0]]!r} has {lengths[0]}; all must come from one model and be"
                " equally long"
            )

    def _refuse(self, name: str, row: int, value: str, expected: str) -> NoReturn:
        raise DataError(
            f"{self._label}, row {row + 1}, item {self._ids[row]!r}: column {self._names[name]} holds {value!r};"
            f" expected {expected}: mend the file"
        )


def _joined(parts: list[pa.Array]) -> pa.Array:
    """The parts of a column in one."""
    return pa.concat_arrays([decoded(part) for part in parts]) if parts else pa.array([], pa.string())


def _without_nothing(column: pa.Array) -> pa.Array:
    """Text without what tools write for a missing value."""
    if not is_text(column.type):
        return column
    texts = column.cast(pa.string())
    return pc.if_else(pc.is_in(texts, _NOTHING), None, texts)


def _as_floats(texts: pa.Array) -> Float32:
    numbers: Float32 = texts.cast(pa.float32()).to_numpy(zero_copy_only=False)
    return numbers


def _is_list(kind: Any) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))
