"""A release's ONNX graphs, run by onnxruntime: item vectors to attention tables, windows to interests.

A third graph, in releases that were trained with content, computes item vectors from content. This is the only file
that serves with onnxruntime.
"""

from typing import Any, Final

import numpy as np
import onnxruntime as ort

from engine import contract
from engine.arrays import Float16, Float32, Int8, Int32
from engine.catalogue.content import ItemFeatures
from engine.contract import ContentSizes, Contract
from engine.errors import UnfitReleaseError

_WAY_OUT: Final = "copy the release again, or export it for this engine"
_CONTENT_ITEMS: Final = 256
"""Items in one run of the content graph, which gathers [V, F, D] floats, with F up to a few hundred."""
Tables = dict[str, Float32 | Float16 | Int8]
"""The encoder's table inputs by name, each [V, D]: the item vectors (float32), and keys and values of both hops."""


class Encoder:
    """The two graphs of every release, checked against the contract on construction.

    Raises:
        UnfitReleaseError: onnxruntime cannot load a graph, or its inputs or outputs differ from the contract.
    """

    def __init__(self, encoder_onnx: bytes, items_onnx: bytes, sizes: Contract, threads: int = 1) -> None:
        self._encoder = _session(encoder_onnx, contract.ENCODER_FILE, threads)
        self._items = _session(items_onnx, contract.ITEMS_FILE, threads)
        fixed = {"K": sizes.interests, "D": sizes.dimensions}
        _check(
            self._encoder.get_inputs(), sizes.typed(contract.ENCODER_INPUTS), fixed, f"{contract.ENCODER_FILE} input"
        )
        _check(self._encoder.get_outputs(), contract.ENCODER_OUTPUTS, fixed, f"{contract.ENCODER_FILE} output")
        _check(self._items.get_inputs(), contract.ITEMS_INPUTS, fixed, f"{contract.ITEMS_FILE} input")
        _check(self._items.get_outputs(), sizes.typed(contract.ITEMS_OUTPUTS), fixed, f"{contract.ITEMS_FILE} output")
        self.sizes = sizes

    def tables(self, vectors: Float32) -> Tables:
        """The encoder's tables for items with these vectors [V, D]."""
        outputs = self._items.run(list(contract.TABLES), {"vectors": vectors})
        return {"vectors": vectors, **dict(zip(contract.TABLES, outputs, strict=True))}

    def encode(self, tables: Tables, items: Int32, ages: Float32, weights: Float32) -> tuple[Float32, Float32]:
        """Interests [B, K, D] and attention [B, K, L] of B windows.

        Args:
            tables: from `tables`.
            items: [B, L] table rows, newest last.
            ages: [B, L] log(1 + hours before the newest event).
            weights: [B, L] action weights; 0 hides an event, and the last column must be above 0.
        """
        inputs = {**tables, "items": items, "ages": ages, "weights": weights}
        interests, attention = self._encoder.run(list(contract.ENCODER_OUTPUTS), inputs)
        return interests, attention


class ContentEncoder:
    """The content graph of a release, checked against the contract on construction.

    Raises:
        UnfitReleaseError: onnxruntime cannot load the graph, its inputs or outputs differ from the contract, or it was
            trained with features of another recipe than this engine's.
    """

    def __init__(self, content_onnx: bytes, sizes: ContentSizes, dimensions: int, threads: int = 1) -> None:
        if sizes.recipe != contract.CONTENT_RECIPE:
            raise UnfitReleaseError(
                f"{contract.CONTENT_FILE} expects features of recipe {sizes.recipe}, this engine computes those of"
                f" recipe {contract.CONTENT_RECIPE}; train the release again with this version"
            )
        self._graph = _session(content_onnx, contract.CONTENT_FILE, threads)
        fixed = {"D": dimensions, "E": sizes.dense}
        _check(self._graph.get_inputs(), sizes.inputs, fixed, f"{contract.CONTENT_FILE} input")
        _check(self._graph.get_outputs(), contract.CONTENT_OUTPUTS, fixed, f"{contract.CONTENT_FILE} output")
        self.sizes = sizes

    def vectors(self, features: ItemFeatures) -> Float32:
        """Item vectors [V, D] from content alone."""
        buckets, weights = features.padded()
        columns = {"buckets": buckets, "weights": weights, "dense": features.dense}
        starts = range(0, len(features), _CONTENT_ITEMS)
        return np.concatenate([self._run(columns, slice(start, start + _CONTENT_ITEMS)) for start in starts])

    def _run(self, columns: dict[str, Any], items: slice) -> Float32:
        vectors: Float32
        (vectors,) = self._graph.run(["vectors"], {name: columns[name][items] for name in self.sizes.inputs})
        return vectors


def _session(graph: bytes, name: str, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # A spinning pool burns the core that the worker's own thread needs between batches.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises bare C++ exception types of many names
        raise UnfitReleaseError(f"{name}: onnxruntime cannot load it: {error}; {_WAY_OUT}") from error


def _check(nodes: list[Any], contract_nodes: dict[str, tuple[str, str]], sizes: dict[str, int], kind: str) -> None:
    """Compare a graph's inputs or outputs with the contract's.

    Args:
        nodes: inputs or outputs, as onnxruntime describes them.
        contract_nodes: type and axes by name.
        sizes: sizes of the axes that the contract fixes, by letter.
        kind: file and side of the graph, for messages: 'encoder.onnx input'.

    Raises:
        UnfitReleaseError: a name, type or shape differs.
    """
    by_name = {node.name: node for node in nodes}
    if set(by_name) != set(contract_nodes):
        raise UnfitReleaseError(
            f"{kind}s are {sorted(by_name)}, the contract says {sorted(contract_nodes)}; {_WAY_OUT}"
        )
    for name, (dtype, axes) in contract_nodes.items():
        node = by_name[name]
        if node.type != dtype:
            raise UnfitReleaseError(f"{kind} {name!r} is {node.type}, the contract says {dtype}; {_WAY_OUT}")
        if len(node.shape) != len(axes) or not all(_fits(*pair, sizes) for pair in zip(node.shape, axes, strict=True)):
            shape = [sizes.get(axis, axis) for axis in axes]
            raise UnfitReleaseError(f"{kind} {name!r} has shape {node.shape}, the contract says {shape}; {_WAY_OUT}")


def _fits(size: int | str | None, axis: str, sizes: dict[str, int]) -> bool:
    """A fixed size must be the contract's; B, L, V and F must be free, K, D and E may be left free by the exporter."""
    return size == sizes.get(axis) if isinstance(size, int) else True
