"""A re-scorer as ONNX graphs in onnxruntime, and its difference from torch."""

from typing import Any, Final, Self

import numpy as np
import onnxruntime as ort
import torch

from engine.arrays import Float32
from engine.errors import UnfitReleaseError
from models.lab.rescoring import rescorer_graphs
from models.lab.rescoring.examples import RescorerExamples
from models.lab.rescoring.rescorer import TABLES, Rescorer, rescorer_tensors
from models.lab.rescoring.top_candidates import CandidateLists

TOLERANCE: Final = 1e-4
"""Largest absolute difference of a new score allowed between torch and onnxruntime; scores are a few units in size."""
_COMPARED_EXAMPLES: Final = 512


class ExportedRescorer:
    """The two graphs, and the tables of a release's items."""

    def __init__(self, items_onnx: bytes, rescorer_onnx: bytes, vectors: Float32) -> None:
        """Compute the tables of items with these `vectors` [V, D]."""
        self.items_onnx, self.rescorer_onnx = items_onnx, rescorer_onnx
        outputs = _session(items_onnx).run(list(TABLES), {"vectors": vectors})
        self.tables: dict[str, Float32] = dict(zip(TABLES, outputs, strict=True))
        self._graph = _session(rescorer_onnx)

    @classmethod
    def export(cls, rescorer: Rescorer, vectors: Float32) -> Self:
        """Export a trained re-scorer for items with these `vectors` [V, D]."""
        return cls(rescorer_graphs.items_graph(rescorer), rescorer_graphs.rescorer_graph(rescorer), vectors)

    def scores(self, queries: CandidateLists | RescorerExamples) -> Float32:
        """[B, C] new scores of candidates."""
        return self.run(**queries.rescorer_inputs())

    def run(self, **inputs: Any) -> Float32:
        """[B, C] new scores, from the inputs of `rescorer_graphs` by name, without the tables."""
        rescored: Float32
        (rescored,) = self._graph.run(["rescored"], {**self.tables, **inputs})
        return rescored


@torch.no_grad()
def largest_difference(
    rescorer: Rescorer, exported: ExportedRescorer, vectors: Float32, examples: RescorerExamples
) -> float:
    """Largest absolute difference between torch and onnxruntime on new scores of the first examples."""
    sample = examples.take(np.arange(min(_COMPARED_EXAMPLES, len(examples))))
    in_torch = rescorer(torch.from_numpy(vectors), *rescorer_tensors(sample.rescorer_inputs())).numpy()
    candidate_mask = np.isfinite(sample.scores)
    return float(np.abs(in_torch[candidate_mask] - exported.scores(sample)[candidate_mask]).max())


def refuse_difference(difference: float) -> None:
    """Check a difference between torch and onnxruntime.

    Raises:
        UnfitReleaseError: it is more than `TOLERANCE`, or NaN.
    """
    if not difference <= TOLERANCE:
        raise UnfitReleaseError(
            f"torch and onnxruntime differ by {difference:.2g} on re-scored candidates, at most {TOLERANCE:.2g} is"
            " allowed; nothing was written: try a smaller learning rate or another seed, which give smaller weights"
        )


def _session(graph: bytes) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
