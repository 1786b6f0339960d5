"""Item vectors to begin with: a spectral embedding of the items that the same users clicked one after the other.

    S = (D + I)^-1/2 C (D + I)^-1/2        C[i, j]: pairs of i and j in either order (`models.data.co_visits`)
                                           D: the row sums of C on the diagonal; I makes little of rare items
    vector(i) = row i of U sqrt(L), scaled to length 1, with L the largest eigenvalues of S and U their eigenvectors

Items that are clicked together begin close together. From random vectors an encoder has to learn that from each item's
few events, and on sparse data it knows the training events by heart before it does. Spectral embeddings of graphs:
Belkin & Niyogi 2003, "Laplacian Eigenmaps"; as the objective that word2vec's co-occurrences approach: Levy & Goldberg
2014, "Neural Word Embedding as Implicit Matrix Factorization".
"""

from typing import Final

import numpy as np
import torch
from scipy import sparse
from scipy.sparse.linalg import ArpackNoConvergence, eigsh

from engine.arrays import Float32, Float64
from models.data.co_visits import CoVisits
from models.data.histories import Histories
from models.network.two_hop import TwoHopEncoder

STEP_DECAY: Final = 0.7
_TOLERANCE: Final = 0.01
_MOST_ITERATIONS: Final = 60
_DECIMALS: Final = 3
"""Fewer than differ with the number of threads, which decides the order of sums."""
_TINY: Final = 1e-6
"""Length of a vector without any pair, which stays random."""


def copy_to(encoder: TwoHopEncoder, vectors: Float32) -> None:
    """Begin with these vectors [V, k], k <= D; items whose vector is 0, and further dimensions, stay as they are."""
    rows = np.flatnonzero(vectors.any(axis=1))
    table = encoder.items.ids.weight
    with torch.no_grad():
        table[torch.from_numpy(rows), : vectors.shape[1]] = torch.from_numpy(vectors[rows]).to(table.device)


def item_vectors(histories: Histories, item_count: int, dimensions: int) -> Float32:
    """Spectral vectors [V, k] of the items in `histories`; k is `dimensions`, or less where there are too few items."""
    pairs = CoVisits(histories, item_count, STEP_DECAY).pairs()
    scale = sparse.diags((np.asarray(pairs.sum(axis=1)).ravel() + 1.0) ** -0.5)
    values, vectors = _largest(scale @ pairs @ scale, min(dimensions, item_count - 2))
    vectors = vectors * np.sqrt(np.maximum(values, 0.0))
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    units = np.where(lengths > _TINY, vectors / np.maximum(lengths, _TINY), 0.0)
    return units.round(_DECIMALS).astype(np.float32)


def _largest(matrix: sparse.csr_matrix, count: int) -> tuple[Float64, Float64]:
    """The `count` largest eigenvalues, ascending, and their eigenvectors [V, count]; fewer if not all are found."""
    if count < 1:
        return np.zeros(0), np.zeros((matrix.shape[0], 0))
    start = np.ones(matrix.shape[0])  # the same data give the same vectors
    try:
        pairs = eigsh(matrix.astype(np.float64), count, which="LA", v0=start, tol=_TOLERANCE, maxiter=_MOST_ITERATIONS)
    except ArpackNoConvergence as error:
        pairs = error.eigenvalues, error.eigenvectors
    values, vectors = pairs
    return values, vectors
