"""Numbers of items: freed where nothing holds them, and never twice in use."""

import gc

import numpy as np

from engine.arrays import FIRST_SEARCH
from engine.catalogue import searches
from engine.catalogue.id_table import IdTable
from engine.catalogue.ids import Catalogue


def held(catalogue: Catalogue, *items: str) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    mask = np.zeros(catalogue.end, np.bool_)
    mask[catalogue.numbers(items)] = True
    return mask


def test_freed_numbers_go_to_the_items_that_come_next() -> None:
    catalogue = Catalogue()
    before = catalogue.numbers(["a", "b", "c", "d"])
    freed = catalogue.free_items(held(catalogue, "b", "d"))
    assert freed.tolist() == [0, 2]
    assert len(catalogue) == 2
    after = catalogue.numbers(["e", "b", "f", "g"])
    assert after[1] == before[1]
    assert len(set(after.tolist()) | {int(before[3])}) == 5
    assert catalogue.ids(after.tolist()) == ["e", "b", "f", "g"]
    assert catalogue.end == 5


def test_pinned_numbers_stay_as_long_as_the_pin_lives() -> None:
    catalogue = Catalogue()
    pin = catalogue.pin(["a", "b"])
    catalogue.numbers(["c"])
    nothing = np.zeros(catalogue.end, np.bool_)
    assert catalogue.free_items(nothing).tolist() == [2]
    del pin
    gc.collect()
    assert sorted(catalogue.free_items(nothing).tolist()) == [0, 1]
    assert len(catalogue) == 0


def test_the_table_of_ids_follows_sweeps_of_items_and_of_searches() -> None:
    catalogue, words = Catalogue(), [searches.id_of("red"), searches.id_of("blue")]
    table = IdTable(catalogue)
    catalogue.numbers(["a", "bb", *words])
    texts = [len("a"), len("bb")], b"abb"
    assert table.numbers(np.array(texts[0]), texts[1]).tolist() == [0, 1]
    catalogue.free_items(held(catalogue, "bb"))
    catalogue.keep_searches(catalogue.numbers(words[1:]).astype(np.int64))
    (number,) = catalogue.numbers(["ccc"])
    assert number == 0
    lengths, joined = table.take(np.array([0, 1, FIRST_SEARCH], np.int32))
    assert (lengths.tolist(), joined) == ([3, 2, len(words[1])], b"ccc" + b"bb" + words[1].encode())
    assert table.numbers(np.array([2, 3]), b"bbccc").tolist() == [1, 0]
