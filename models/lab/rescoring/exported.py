"""A re-scorer as onnxruntime runs it, and how far that is from torch."""

from typing import Any, Final, Self

import numpy as np
import onnxruntime as ort
import torch

from engine.arrays import Float32
from engine.errors import UnfitReleaseError
from models.lab.rescoring import rescorer_graphs
from models.lab.rescoring.examples import RescoringQueries
from models.lab.rescoring.rescorer import TABLES, Rescorer
from models.lab.rescoring.top_candidates import CandidateLists

TOLERANCE: Final = 1e-4
"""Largest difference allowed between torch and onnxruntime, of scores and of votes, whose size is a few units."""
_COMPARED: Final = 512


class Exported:
    """The two graphs, and the tables of a release's items."""

    def __init__(self, items_onnx: bytes, rescorer_onnx: bytes, vectors: Float32) -> None:
        """`vectors` [V, D] of the items."""
        self.items_onnx, self.rescorer_onnx = items_onnx, rescorer_onnx
        outputs = _session(items_onnx).run(list(TABLES), {"vectors": vectors})
        self.tables: dict[str, Float32] = dict(zip(TABLES, outputs, strict=True))
        self._graph = _session(rescorer_onnx)

    @classmethod
    def of(cls, rescorer: Rescorer, vectors: Float32) -> Self:
        """Export a trained re-scorer."""
        return cls(rescorer_graphs.items_graph(rescorer), rescorer_graphs.rescorer_graph(rescorer), vectors)

    def scores(self, best: CandidateLists) -> Float32:
        """[B, C] new scores of shortlists."""
        inputs = best.inputs
        return self.run(
            items=inputs.rows, ages=inputs.ages, weights=inputs.weights, candidates=best.rows, scores=best.scores
        )

    def run(self, **inputs: Any) -> Float32:
        """[B, C] new scores, from the inputs of `graphs` by name, without the tables."""
        rescored: Float32
        (rescored,) = self._graph.run(["rescored"], {**self.tables, **inputs})
        return rescored


@torch.no_grad()
def largest_difference(rescorer: Rescorer, exported: Exported, vectors: Float32, questions: RescoringQueries) -> float:
    """Largest absolute difference between torch and onnxruntime on the new scores of some questions."""
    some = questions.take(np.arange(min(_COMPARED, len(questions))))
    window = torch.from_numpy(some.rows), torch.from_numpy(some.ages), torch.from_numpy(some.weights)
    found = torch.from_numpy(some.candidates), torch.from_numpy(some.scores)
    ours = rescorer(torch.from_numpy(vectors), window, found).numpy()
    theirs = exported.run(
        items=some.rows, ages=some.ages, weights=some.weights, candidates=some.candidates, scores=some.scores
    )
    there = np.isfinite(some.scores)
    return float(np.abs(ours[there] - theirs[there]).max())


def refuse_difference(difference: float) -> None:
    """Refuse to go on when torch and onnxruntime differ by more than `TOLERANCE`, or by NaN.

    Raises:
        UnfitReleaseError: they do.
    """
    if not difference <= TOLERANCE:
        raise UnfitReleaseError(
            f"torch and onnxruntime differ by {difference:.2g} on re-scored candidates, at most {TOLERANCE:.2g} is"
            " allowed; nothing was written: a smaller learning rate or another seed gives weights of a more usual size"
        )


def _session(graph: bytes) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
