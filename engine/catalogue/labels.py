"""Labels of items: which of them have which value of a field, such as all items whose category is "shoes"."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from engine.arrays import Int32
from engine.catalogue.content import Item

Label = tuple[str, str]
"""A field and one of its values."""


@dataclass(frozen=True)
class ItemLabels:
    """The labels of V items. Values count as they are spelled."""

    names: Sequence[Label]
    """[n] labels, ascending."""
    pairs: Int32
    """[m, 2] index of a label, and row of an item that has it, ascending."""

    @classmethod
    def of(cls, items: Mapping[str, Item], ids: Sequence[str]) -> "ItemLabels | None":
        """The labels of the items with these ids [V], by row; None where none has any."""
        labelled = {
            ((field, value), row)
            for row, item in enumerate(ids)
            if item in items
            for field, values in items[item].bags.items()
            for value in values
        }
        names = sorted({name for name, _ in labelled})
        index = {name: number for number, name in enumerate(names)}
        pairs = sorted((index[name], row) for name, row in labelled)
        return cls(names, np.array(pairs, np.int32)) if pairs else None

    @cached_property
    def fields(self) -> set[str]:
        """Names of the fields."""
        return {field for field, _ in self.names}

    def rows(self, labels: Sequence[Label]) -> Int32:
        """[r] rows of the items with any of these labels, ascending; none for labels that no item has."""
        numbers = np.array([self._index[label] for label in labels if label in self._index], np.int32)
        starts, ends = np.searchsorted(self.pairs[:, 0], [numbers, numbers + 1])
        parts = [self.pairs[start:end, 1] for start, end in zip(starts, ends, strict=True)]
        return np.unique(np.concatenate([np.empty(0, np.int32), *parts]))

    @cached_property
    def _index(self) -> dict[Label, int]:
        return {name: number for number, name in enumerate(self.names)}
