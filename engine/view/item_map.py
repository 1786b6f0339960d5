"""The map of items: their vectors on the plane of the two main components."""

from typing import Final

import numpy as np

from engine.arrays import Float32

_SAMPLE: Final = 20_000
"""Vectors that the components are computed from: more do not move them."""
_TINY: Final = 1e-12
_REACH: Final = 99.5
"""Percentile of the distances from the centre that comes to the edge; items further out are drawn there."""


class Projection:
    """Principal components (Hotelling 1933) of item vectors scaled to length 1, as items are alike by their angle."""

    def __init__(self, vectors: Float32) -> None:
        """Compute the components.

        Args:
            vectors: [V, D]
        """
        step = max(1, len(vectors) // _SAMPLE)
        units = _units(vectors[::step])
        self._centre = units.mean(axis=0)
        covariance = np.cov((units - self._centre).T, bias=True)  # [D, D]
        values, axes = np.linalg.eigh(np.atleast_2d(covariance))
        self._axes = axes[:, ::-1][:, :2].astype(np.float32)  # [D, 2], the widest first
        self._axes *= np.where(np.abs(self._axes).max(axis=0) == self._axes.max(axis=0), 1, -1)  # one sign of the two
        self.explained = float(values[::-1][:2].sum() / max(float(values.sum()), _TINY))
        """Share of the variance that the plane shows."""
        distances = np.abs((units - self._centre) @ self._axes)
        self._reach = max(float(np.percentile(distances, _REACH)), _TINY)

    def of(self, vectors: Float32) -> Float32:
        """[n, 2] places of vectors [n, D] on the map, from -1 to 1."""
        places: Float32 = np.clip((_units(vectors) - self._centre) @ self._axes / self._reach, -1.0, 1.0)
        return places


def _units(vectors: Float32) -> Float32:
    units: Float32 = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.float32(_TINY))
    return units
