"""What is known of the items, read from an items file.

Beside the interactions may lie `items.csv.gz`, `items.csv` or `items.parquet` with the column `item` and any of the
content columns of the settings (`items.fields`): title, price, a given vector, and bags (category, genres, tags, ...),
several values in one field of text separated by `items.separator`. Lists of Parquet are read as they are.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv, fs, parquet

from engine.arrays import Float32
from engine.catalogue.content import Item
from engine.contract import ContentSizes
from engine.errors import DataError
from engine.settings.sections import ItemSettings
from models.data import storage

FILE_NAMES = ("items.csv.gz", "items.csv", "items.parquet")
BAGS = ("category", "genres", "tags", "brand", "department")


def read(address: str | Path, settings: ItemSettings) -> dict[str, Item]:
    """The items by id, of the items file in the folder at `address`, or beside the file there; none where none lies.

    Raises:
        DataError: the file cannot be read, lacks the item column, names an item twice, or has vectors that are not
            equally long or not finite.
    """
    file_system, place = storage.file_system(str(address))
    path = storage.beside(file_system, place, FILE_NAMES)
    if path is None:
        return {}
    columns = {name: column for name, column in settings.fields.model_dump().items() if column}
    table = _read_table(file_system, path, columns)
    if columns["item"] not in table.column_names:
        raise DataError(
            f"{path} has no column {columns['item']!r}; found {', '.join(table.column_names)}: name the one that holds"
            " the item ids in the setting items.fields.item"
        )
    found = {name: table.column(column) for name, column in columns.items() if column in table.column_names}
    ids = _ids(found.pop("item"), path)
    try:
        return _items(ids, found, settings.separator, path) if found else {}
    except pa.ArrowException as error:
        raise DataError(f"{path}: a column holds what it should not: {error}; expected text, numbers, lists") from error


def sizes(items: Mapping[str, Item], buckets: int) -> ContentSizes:
    """Sizes of a content graph for these items, whose vectors are equally long."""
    dense = next((len(np.asarray(item.vector)) for item in items.values() if item.vector is not None), 0)
    return ContentSizes(buckets=buckets, dense=dense)


def fingerprint(items: Mapping[str, Item]) -> str:
    """SHA-256 over all that is known of the items: what has the same one (and the same clicks) trains alike."""
    found = hashlib.sha256()
    for item in (items[key] for key in sorted(items)):
        said = (item.id, item.title, sorted((name, sorted(values)) for name, values in item.bags.items()), item.price)
        found.update(repr(said).encode())
        if item.vector is not None:
            found.update(np.asarray(item.vector, np.float32).tobytes())
    return found.hexdigest()


def _items(ids: list[str], found: dict[str, pa.ChunkedArray], separator: str, path: str) -> dict[str, Item]:
    titles = found["title"].cast(pa.string()).fill_null("").to_pylist() if "title" in found else [""] * len(ids)
    prices = found["price"].cast(pa.float64()).to_pylist() if "price" in found else [None] * len(ids)
    bags = {name: _lists(found[name], separator).to_pylist() for name in BAGS if name in found}
    vectors = _vectors(found["vector"], separator, ids, path) if "vector" in found else [None] * len(ids)
    return {
        item: Item(
            id=item,
            title=titles[row],
            bags={name: [value for value in values[row] if value] for name, values in bags.items() if values[row]},
            price=prices[row],
            vector=vectors[row],
        )
        for row, item in enumerate(ids)
    }


def _read_table(file_system: fs.FileSystem, path: str, columns: Mapping[str, str]) -> pa.Table:
    """The wanted columns that the file has; all of them, where it lacks the item column."""
    try:
        if storage.is_parquet(path):
            found = parquet.read_schema(path, filesystem=file_system).names
            wanted = [name for name in found if name in columns.values()]
            wanted_or_all = wanted if columns["item"] in found else None
            return parquet.read_table(path, columns=wanted_or_all, filesystem=file_system)
        parsing = csv.ParseOptions(newlines_in_values=True)
        with csv.open_csv(_stream(file_system, path), parse_options=parsing) as reader:
            found = reader.schema.names
        wanted = [name for name in found if name in columns.values()]
        options = csv.ConvertOptions(
            column_types={name: pa.float64() if name == columns.get("price") else pa.string() for name in wanted},
            include_columns=wanted if columns["item"] in found else found,
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        )
        return csv.read_csv(_stream(file_system, path), parse_options=parsing, convert_options=options)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path} cannot be read: {error}; expected one row an item, prices as plain numbers") from error


def _stream(file_system: fs.FileSystem, path: str) -> pa.NativeFile:
    return file_system.open_input_stream(path, compression="detect")


def _ids(column: pa.ChunkedArray, path: str) -> list[str]:
    ids: list[str] = column.cast(pa.string()).fill_null("").to_pylist()
    if "" in ids:
        raise DataError(f"{path}: row {ids.index('') + 1} has no item id; mend the file")
    if len(set(ids)) < len(ids):
        seen = set[str]()
        twice = next(item for item in ids if item in seen or seen.add(item))  # type: ignore[func-returns-value]
        raise DataError(f"{path}: item {twice!r} stands in it more than once; keep one row an item")
    return ids


def _lists(column: pa.ChunkedArray, separator: str) -> pa.ChunkedArray:
    """Lists of text, whatever the column is: lists already, text with separators, or plain values."""
    if _is_list(column.type):
        return column.cast(pa.list_(pa.string()))
    return pc.split_pattern(column.cast(pa.string()), separator)


def _is_list(kind: Any) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _vectors(column: pa.ChunkedArray, separator: str, ids: list[str], path: str) -> list[Float32 | None]:
    """Each item's given vector, None where it has none."""
    lists = _lists(column, separator).combine_chunks()
    there = np.flatnonzero(lists.is_valid().to_numpy(zero_copy_only=False))
    if not len(there):
        return [None] * len(ids)
    lengths = pc.list_value_length(lists).drop_null().to_numpy()
    other = np.flatnonzero(lengths != lengths[0])
    if len(other):
        raise DataError(
            f"{path}: the vector of item {ids[there[other[0]]]!r} has {lengths[other[0]]} numbers, that of item"
            f" {ids[there[0]]!r} has {lengths[0]}; all must come from one model and be equally long"
        )
    numbers = pc.list_flatten(lists).cast(pa.float32()).to_numpy(zero_copy_only=False).reshape(len(there), -1)
    bad = np.flatnonzero(~np.isfinite(numbers).all(axis=1))
    if len(bad):
        raise DataError(
            f"{path}: {len(bad)} vectors hold numbers that are not finite, first that of item {ids[there[bad[0]]]!r};"
            " mend them, or leave them empty"
        )
    vectors: list[Float32 | None] = [None] * len(ids)
    for place, row in enumerate(there.tolist()):
        vectors[row] = numbers[place]
    return vectors
