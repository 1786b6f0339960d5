"""Arrow's columns as names: ids are text, and only the empty text and a null are nothing.

Whole numbers written with `.0` are read without it, with a warning: tools that keep a column with gaps as floats write
7 as `7.0` in CSV and as a float in Parquet, where live clicks say 7. Of text this is decided by the first batch that
has any value: either all of them look so, or the column is text as it is.
"""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.arrays import Bool, Int32, Int64

logger = logging.getLogger(__name__)

MEND: Final = "mend or remove the row"
_WHOLE: Final = r"^-?\d+\.0$"
_MAX_EXACT: Final = float(1 << 53)
"""Above it, floats are whole numbers that may have been others."""
_CONSENT: Final = {"true": True, "1": True, "false": False, "0": False}


class UnreadableValueError(Exception):
    """A value that a column may not hold; the reader adds the file, the row and the column."""

    def __init__(self, index: int, content: str, way_out: str) -> None:
        """Args: index of the row in the batch; its content; what was expected, and what to do about it."""
        super().__init__(content)
        self.index, self.content, self.way_out = index, content, way_out


@dataclass(frozen=True, slots=True)
class Names:
    """A column of n names, few of them different."""

    codes: Int32
    """[n] indices into `names`."""
    names: list[str]
    """The empty name is nothing; it may be there more than once."""

    def __len__(self) -> int:
        return len(self.codes)

    def select(self, rows: Int64 | Bool | slice) -> "Names":
        """Those of some rows."""
        return Names(self.codes[rows], self.names)

    def spelled(self) -> list[str]:
        """The names, one per entry."""
        return [self.names[code] for code in self.codes.tolist()]

    def is_empty(self) -> Bool:
        """[n] marks the entries that are nothing."""
        empty: Bool = np.array([not name for name in self.names], np.bool_)[self.codes]
        return empty

    def in_order(self) -> "Names":
        """The same entries; names without those that no entry has, by first appearance."""
        used, first, codes = np.unique(self.codes, return_index=True, return_inverse=True)
        order = np.argsort(first)
        ranks = np.empty(len(order), np.int32)
        ranks[order] = np.arange(len(order))
        return Names(ranks[codes], [self.names[code] for code in used[order].tolist()])

    @classmethod
    def together(cls, parts: Iterable["Names"]) -> "Names":
        """One part after the other, each name once."""
        numbers = dict[str, int]()
        codes = [np.zeros(0, np.int32)]
        for part in parts:
            renumbered = [numbers.setdefault(name, len(numbers)) for name in part.names]
            codes.append(np.array(renumbered, np.int32)[part.codes])
        return cls(np.concatenate(codes), list(numbers))

    @classmethod
    def empty(cls, count: int) -> "Names":
        """`count` entries that are nothing."""
        return cls(np.zeros(count, np.int32), [""])


class IdColumn:
    """A column of ids, batch by batch."""

    def __init__(self, label: str, *, as_recorded: bool = False) -> None:
        """Args: the column, for the warning; whether `7.0` is an id like any other, as live clicks spelled it so."""
        self._label = label
        self._whole: bool | None = False if as_recorded else None
        self._warned = False

    def read(self, column: pa.Array) -> Names:
        """The ids of a batch.

        Raises:
            UnreadableValueError: the column holds something else than text and whole numbers.
        """
        column = decoded(column)
        if pa.types.is_floating(column.type):
            column = self._integers(column)
        elif not _is_id(column.type):
            raise UnreadableValueError(
                0, f"values of type {column.type}", "expected text or whole numbers: cast or name another column"
            )
        encoded = column.dictionary_encode(null_encoding="encode")
        names = _texts(encoded)
        if is_text(column.type):
            names = self._as_integers(encoded, names)
        return Names(encoded.indices.to_numpy().astype(np.int32), names)

    def _integers(self, column: pa.Array) -> pa.Array:
        """Floats that are whole numbers, as integers; one that is no number is nothing."""
        values = column.fill_null(np.nan).to_numpy(zero_copy_only=False).astype(np.float64)
        missing = np.isnan(values)
        wrong = ~missing & ((np.rint(values) != values) | (np.abs(values) >= _MAX_EXACT))
        if wrong.any():
            index = int(np.argmax(wrong))
            raise UnreadableValueError(
                index, f"{values[index]:.15g}", "expected text or whole numbers: cast the column to one of them"
            )
        if not missing.all():
            self._warn("floats")
        return pa.array(np.where(missing, 0.0, values).astype(np.int64), mask=missing)

    def _as_integers(self, encoded: pa.DictionaryArray, names: list[str]) -> list[str]:
        """Names without their `.0`, where all of the column's have it."""
        some = [name for name in names if name]
        if not some or self._whole is False:
            return names
        fits = pc.match_substring_regex(pa.array(some, pa.string()), _WHOLE).to_numpy(zero_copy_only=False)
        if self._whole is None:
            self._whole = bool(fits.all())
        if not self._whole:
            return names
        if not fits.all():
            other = names.index(some[int(np.argmin(fits))])
            raise UnreadableValueError(
                int(np.argmax(encoded.indices.to_numpy() == other)),
                repr(names[other]),
                "expected a whole number with .0, as all rows before: write whole numbers without .0, or other ids",
            )
        self._warn("text such as " + repr(some[0]))
        return [name.removesuffix(".0") for name in names]

    def _warn(self, spelling: str) -> None:
        if not self._warned:
            self._warned = True
            logger.warning(
                "%s holds whole numbers as %s; they are read without .0, as live clicks spell them",
                self._label,
                spelling,
            )


def words(column: pa.Array) -> Names:
    """The words of searches, as they were typed.

    Raises:
        UnreadableValueError: they are no text.
    """
    column = decoded(column)
    if not (is_text(column.type) or pa.types.is_null(column.type)):
        raise UnreadableValueError(0, f"values of type {column.type}", "expected the words of searches as text")
    encoded = column.dictionary_encode(null_encoding="encode")
    return Names(encoded.indices.to_numpy().astype(np.int32), _texts(encoded))


def consents(column: pa.Array, *, otherwise: bool) -> Bool:
    """[n] marks the rows whose users allow them; `otherwise` is for rows that say nothing.

    Raises:
        UnreadableValueError: one is neither true nor false.
    """
    column = decoded(column)
    if pa.types.is_boolean(column.type):
        allowed: Bool = column.fill_null(otherwise).to_numpy(zero_copy_only=False)
        return allowed
    if not (is_text(column.type) or pa.types.is_integer(column.type) or pa.types.is_null(column.type)):
        raise UnreadableValueError(0, f"values of type {column.type}", "expected true or false")
    encoded = column.dictionary_encode(null_encoding="encode")
    names, indices = _texts(encoded), encoded.indices.to_numpy()
    known = _CONSENT | {"": otherwise}
    for code, name in enumerate(names):
        if name.strip().lower() not in known:
            raise UnreadableValueError(int(np.argmax(indices == code)), repr(name), f"expected true or false: {MEND}")
    given: Bool = np.array([known[name.strip().lower()] for name in names], np.bool_)[indices]
    return given


def decoded(column: pa.Array) -> pa.Array:
    """The values of a column that Parquet keeps as a dictionary; any other as it is."""
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def is_text(kind: Any) -> bool:
    """Whether a column of this type holds text."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_number(kind: Any) -> bool:
    """Whether a column of this type holds numbers."""
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def first_unreadable(column: pa.Array, read: Callable[[pa.Array], object]) -> int:
    """Index of the first value that `read` refuses, by bisection: Arrow names a value, not its row."""
    readable, refused = 0, len(column)
    while refused - readable > 1:
        middle = (readable + refused) // 2
        try:
            read(column[readable:middle])
        except pa.ArrowInvalid:
            refused = middle
        else:
            readable = middle
    return readable


def _is_id(kind: Any) -> bool:
    whole = pa.types.is_integer(kind) or (pa.types.is_decimal(kind) and kind.scale == 0)
    return is_text(kind) or bool(whole or pa.types.is_null(kind))


def _texts(encoded: pa.DictionaryArray) -> list[str]:
    """The different values as text, nothing as the empty text."""
    texts = encoded.dictionary.cast(pa.string())
    try:
        names: list[str] = texts.fill_null("").to_pylist()
    except UnicodeDecodeError as error:
        raise UnreadableValueError(*_no_utf8(encoded, texts), "expected text: save the file in UTF-8") from error
    return names


def _no_utf8(encoded: pa.DictionaryArray, texts: pa.Array) -> tuple[int, str]:
    """Index of the first row whose value is no UTF-8, and its bytes."""
    values = texts.cast(pa.binary()).to_pylist()
    code = next(code for code, value in enumerate(values) if value and not _decodes(value))
    return int(np.argmax(encoded.indices.to_numpy() == code)), repr(values[code])


def _decodes(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True
