"""Item vectors of an earlier release as the beginning of a training, by item id.

Content parameters start at 0 (`models.network.item_vectors`), so that an id embedding that is a release's whole vector
gives exactly that vector. Items that the release does not know keep their random embedding. The rest of the encoder
starts anew: a release has it as a graph, not as parameters.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from models.network.two_hop import TwoHopEncoder


@dataclass(frozen=True, slots=True)
class WarmVectors:
    """The item vectors of a release."""

    ids: list[str]
    """V ids, by row."""
    vectors: npt.NDArray[np.floating[Any]]
    """[V, D]"""

    def copy_to(self, encoder: TwoHopEncoder, ids: list[str]) -> int:
        """Copy the vectors of items in `ids`, by row of the encoder's table; returns how many were.

        None are where the encoder's vectors have another length.
        """
        table = encoder.items.ids.weight
        if self.vectors.shape[1] != table.shape[1]:
            return 0
        rows = {item: row for row, item in enumerate(self.ids)}
        known = np.array([rows.get(item, -1) for item in ids], np.int64)  # [V] row in the release
        targets = np.flatnonzero(known >= 0)
        with torch.no_grad():
            values = torch.from_numpy(self.vectors[known[targets]].astype(np.float32))
            table[torch.from_numpy(targets)] = values.to(table.device)
        return len(targets)
