"""Item-to-item neighbours: items that others clicked near the newest items of a window.

A release may carry a table of neighbours (`models.data.co_visits` counts it). A candidate's affinity to a window is

    a(i) = sum over the W newest items j of the window of  decay^(rank of j) * weight(j, i)

and its part of the score (`engine.retrieval.blend`) is  w * log(1 + a(i) / floor),  so that an item without any keeps
its score. Linden, Smith and York, "Amazon.com recommendations: item-to-item collaborative filtering", 2003; weights by
rank as in VMIS-kNN (Kersbergen, Sprangers and Schelter, "Serenade", 2022).
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from engine.arrays import NO_ITEM, Float32, Int32, Int64
from engine.contract import NeighbourSizes

UInt64 = npt.NDArray[np.uint64]

_ONE: Final = float(1 << 23)
"""The largest weight of a table in fixed point: half of what there are bits for, as float32 rounds up."""


class NeighbourTable:
    """Neighbours of V items, with weights in fixed point of 24 bits."""

    def __init__(self, rows: Int32, weights: Float32, sizes: NeighbourSizes) -> None:
        """Take over the table of a release.

        Args:
            rows: [V, M] rows of each item's neighbours; NO_ITEM after the last.
            weights: [V, M] their weights, 0 and up; 0 after the last.
            sizes: of the table, and the parameters of the score.
        """
        self.sizes = sizes
        self._rows = rows
        largest = float(weights.max(initial=0.0)) or 1.0
        self._weights = np.where(rows == NO_ITEM, np.float32(0.0), weights * np.float32(_ONE / largest))
        self._scale = np.float32(_ONE / largest)
        self._floor = sizes.floor * _ONE / largest
        self._decays = np.float32(sizes.decay) ** np.arange(sizes.last_items, dtype=np.float32)

    def __len__(self) -> int:
        return len(self._rows)

    def of(self, recent: Int32) -> tuple[Int32, UInt64]:
        """Neighbours of the items [B, W], newest first: rows and weights [B, W, M].

        NO_ITEM after the last neighbour; NO_ITEM in `recent` and rows beyond V have none.
        """
        known = (recent >= 0) & (recent < len(self))
        index = np.where(known, recent, 0)
        weights = self._weights[index] * self._decays[: recent.shape[1], None]
        return np.where(known[:, :, None], self._rows[index], np.int32(NO_ITEM)), weights.astype(np.uint64)

    def fixed_point(self, weights: Float32, ranks: Int64) -> UInt64:
        """[n] weights from elsewhere as this table has its own, for window items of these ranks; at most 24 bits."""
        fixed = np.minimum(weights * self._scale * self._decays[ranks], np.float32(2.0 * _ONE - 1.0))
        return fixed.astype(np.uint64)

    def bonus(self, affinities: Int64) -> Float32:
        """Part of the score for affinities in fixed point, of any shape."""
        bonus: Float32 = (self.sizes.weight * np.log1p(affinities / self._floor)).astype(np.float32)
        return bonus
