"""Item vectors to begin with: a spectral embedding of the items that the same users clicked one after the other.

    S = (D + I)^-1/2 C (D + I)^-1/2        C[i, j]: pairs of i and j in either order (`models.data.co_visits`)
                                           D: the row sums of C on the diagonal; I makes little of rare items
    vector(i) = row i of U sqrt(L), scaled to length 1, with L the largest eigenvalues of S and U their eigenvectors

Where items have content, its table begins as the ridge regression of these vectors on the items' features.

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
from models.network.item_vectors import Content
from models.network.two_hop import TwoHopEncoder

STEP_DECAY: Final = 0.7
_TOLERANCE: Final = 0.01
_MOST_ITERATIONS: Final = 60
_DECIMALS: Final = 3
"""Fewer than differ with the number of threads, which decides the order of sums."""
_PENALTY: Final = 1.0
"""Of the ridge: a feature of n items alone keeps n / (n + 1) of their mean vector."""
_RIDGE_STEPS: Final = 20
_TINY: Final = 1e-6
"""Length of a vector without any pair, which stays random."""


def copy_to(encoder: TwoHopEncoder, vectors: Float32) -> None:
    """Begin with these vectors [V, k], k <= D; items whose vector is 0, and further dimensions, stay as they are.

    Where items have content, that begins as what it tells of the vectors, and the ids as the rest: ids that know all
    from the start would leave nothing for content to learn, and new items, which have no id, without a vector.
    """
    rows = np.flatnonzero(vectors.any(axis=1))
    table, ids = encoder.items.ids.weight, vectors
    if encoder.items.content is not None and vectors.shape[1]:
        ids = vectors - _begin_content(encoder.items.content, vectors)
    with torch.no_grad():
        table[torch.from_numpy(rows), : ids.shape[1]] = torch.from_numpy(ids[rows]).to(table.device)


def _begin_content(content: Content, vectors: Float32) -> Float32:
    """Set the content table to the ridge regression of `vectors` [V, k]; returns the content vectors [V, k]."""
    count, width = vectors.shape
    end = int(content.starts[count])
    cells = (
        content.weights[:end].cpu().numpy(),
        content.buckets[:end].cpu().numpy(),
        content.starts[: count + 1].cpu(),
    )
    features = sparse.csr_matrix(cells, shape=(count, len(content.table)), dtype=np.float64)
    solution = _ridge(features, vectors.astype(np.float64)).round(_DECIMALS)
    with torch.no_grad():
        content.table[:, :width] = torch.from_numpy(solution.astype(np.float32)).to(content.table.device)
    begun: Float32 = (features @ solution).astype(np.float32)
    return begun


def _ridge(features: sparse.csr_matrix, vectors: Float64) -> Float64:
    """(F'F + penalty I)^-1 F'Y by conjugate gradients, all columns of Y at once; [A, k]."""
    solution = np.zeros((features.shape[1], vectors.shape[1]))
    residual = features.T @ vectors
    direction, length = residual, (residual**2).sum(axis=0)
    for _ in range(_RIDGE_STEPS):
        image = features.T @ (features @ direction) + _PENALTY * direction
        step = length / np.maximum((direction * image).sum(axis=0), _TINY)
        solution, residual = solution + step * direction, residual - step * image
        previous, length = length, (residual**2).sum(axis=0)
        direction = residual + length / np.maximum(previous, _TINY) * direction
    return solution


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
