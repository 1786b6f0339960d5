"""The table of item ids compared with the catalogue, which looks up one id at a time in a dictionary."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.arrays import Int64
from engine.catalogue import id_table, searches
from engine.catalogue.id_table import IdTable, UInt64
from engine.catalogue.ids import Catalogue

ids = (
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
    | st.integers(0, 200).map("item-{:09d}".format)
    | st.integers(0, 200).map("words {}".format).map(searches.id_of)
)
id_batches = st.lists(st.lists(ids, max_size=30), max_size=5)


def numbers(table: IdTable, items: list[str]) -> list[int]:
    texts = [item.encode() for item in items]
    item_numbers = table.numbers(np.array(list(map(len, texts)), np.int64), b"".join(texts))
    return [*map(int, item_numbers)]


@given(id_batches, id_batches)
def test_texts_and_numbers_are_those_of_the_catalogue(batches: list[list[str]], other_ids: list[list[str]]) -> None:
    """The catalogue also gets ids that the table does not look up, before each batch."""
    catalogue = Catalogue()
    table = IdTable(catalogue)
    for batch, others in zip(batches, [*other_ids, *[[]] * len(batches)], strict=False):
        catalogue.numbers(others)
        item_numbers = numbers(table, batch)
        assert item_numbers == catalogue.numbers(batch).tolist()
        assert catalogue.ids(item_numbers) == batch
        lengths, texts = table.take(np.array(item_numbers, np.int32))
        assert lengths.tolist() == [len(item.encode()) for item in batch]
        assert texts == "".join(batch).encode()


@given(id_batches)
def test_ids_with_the_same_hash_have_different_numbers(batches: list[list[str]]) -> None:
    def coarse(_texts: object, _starts: Int64, lengths: Int64) -> UInt64:
        return (lengths % 3).astype(np.uint64)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(id_table, "_hashes", coarse)
        catalogue = Catalogue()
        table = IdTable(catalogue)
        for batch in batches:
            assert catalogue.ids(numbers(table, batch)) == batch


def test_many_ids_in_a_growing_table() -> None:
    catalogue = Catalogue()
    table = IdTable(catalogue)
    for start in range(0, 20_000, 1_000):
        items = [f"i{number}" for number in range(start, start + 2_000)]
        assert catalogue.ids(numbers(table, items)) == items
    assert len(catalogue) == 21_000


def test_an_id_that_is_not_utf_8_is_refused() -> None:
    table = IdTable(Catalogue())
    with pytest.raises(UnicodeDecodeError):
        table.numbers(np.array([1]), b"\xff")
