"""Quantisation and pruning of a release: its ONNX graphs are rewritten, item vectors and all other files are kept.

    fp16     keys and values of the catalogue, and the encoder's matrices, stored as float16 and computed as float32:
             half the memory, the same lists, no less work (onnxruntime has no float16 kernels for x86)
    int8     keys and values stored as int8, one scale a table; products with the encoder's matrices in int8, with
             ranges of the activations from recorded windows (static quantisation, Jacob et al. 2018)
    pruned   each feed-forward layer without its hidden units of least weight: that share of its work is saved

Ranges are fixed when the graph is made, not taken from each batch as in dynamic quantisation: a user's list must not
depend on the other users in the batch. Weights have seven bits, so that the products of processors without VNNI can't
overflow their 16 bits. Single weights set to zero (Han et al. 2015) would save nothing: the matrices stay dense.
"""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantType, quant_pre_process, quantize_static

from engine import contract
from engine.contract import TableType
from engine.errors import UnfitReleaseError
from engine.releases.bundles import Bundle
from engine.retrieval.encoder import Encoder
from models.lab.compression.window_sample import WindowSample
from models.settings import Precision

TOLERANCES: Final[dict[Precision, float]] = {"fp32": 1e-4, "fp16": 1e-2, "int8": 1.5}
"""Largest absolute difference from the fp32 graph allowed on any output, over all windows of the check.

Interests are layer-normalised, their usual size is 1. Of 2.5 million numbers in the interests of releases trained on
MovieLens 100k, int8 changed the worst by 0.3 to 0.6; those of two users differ by up to 7.
"""
_TABLE_TYPES: Final[dict[Precision, TableType]] = {"fp32": "float32", "fp16": "float16", "int8": "int8"}
_INT8_MAX: Final = 127.0
_MATRIX_AXES: Final = 2
_Rewrite = Callable[[onnx.ModelProto], None]


def pruned(bundle: Bundle, share: float) -> Bundle:
    """The release without this share of the hidden units of each feed-forward layer, those of least weight.

    A unit's weight is the product of the norms of its weights in and its weights out: through the rectifier between
    them, scaling one up and the other down changes nothing.
    """

    def cut(model: onnx.ModelProto) -> None:
        for inner, bias, outer in _feed_forward_layers(model):
            weights_in, weights_out = numpy_helper.to_array(inner), numpy_helper.to_array(outer)  # [D, M], [M, D]
            sizes = np.linalg.norm(weights_in, axis=0) * np.linalg.norm(weights_out, axis=1)
            removed = min(round(share * len(sizes)), len(sizes) - 1)
            kept = np.sort(np.argsort(sizes, kind="stable")[removed:])
            _set(inner, weights_in[:, kept])
            _set(bias, numpy_helper.to_array(bias)[kept])
            _set(outer, weights_out[kept])

    return replace(bundle, encoder_onnx=_rewritten(bundle.encoder_onnx, cut))


def quantised(bundle: Bundle, precision: Precision, calibration: WindowSample) -> Bundle:
    """The fp32 release `bundle` in another precision; the ranges of int8 activations are those on `calibration`.

    Raises:
        UnfitReleaseError: the release is not in fp32.
    """
    if precision == "fp32":
        return bundle
    if bundle.manifest.contract.tables != "float32":
        raise UnfitReleaseError(
            f"{bundle.manifest.name} has {bundle.manifest.contract.tables} tables already; compress the fp32 release"
            " that it was made from"
        )
    if precision == "fp16":
        encoder_onnx = _rewritten(_rewritten(bundle.encoder_onnx, _store_matrices_as_float16), _read_float16_tables)
        items_onnx = _rewritten(bundle.items_onnx, _write_float16_tables)
    else:
        encoder = Encoder(bundle.encoder_onnx, bundle.items_onnx, bundle.manifest.contract)
        tables = encoder.tables(bundle.vectors)
        scales = {name: np.float32(np.abs(tables[name]).max() / _INT8_MAX) for name in contract.TABLES}
        batches = [tables | batch for batch in calibration.encoder_inputs()]
        encoder_onnx = _rewritten(
            _with_int8_products(bundle.encoder_onnx, batches), lambda model: _read_int8_tables(model, scales)
        )
        items_onnx = _rewritten(bundle.items_onnx, lambda model: _write_int8_tables(model, scales))
    sizes = replace(bundle.manifest.contract, tables=_TABLE_TYPES[precision], tolerance=TOLERANCES[precision])
    manifest = msgspec.structs.replace(bundle.manifest, contract=sizes)
    return replace(bundle, manifest=manifest, encoder_onnx=encoder_onnx, items_onnx=items_onnx)


class _CalibrationBatches(CalibrationDataReader):  # type: ignore[misc] # onnxruntime has no types
    """Batches of encoder inputs through onnxruntime's interface for calibration."""

    def __init__(self, batches: list[dict[str, Any]]) -> None:
        self._batches = iter(batches)

    def get_next(self) -> dict[str, Any] | None:
        return next(self._batches, None)


def _with_int8_products(encoder_onnx: bytes, batches: list[dict[str, Any]]) -> bytes:
    """The graph with its products with constant matrices in int8; attention and layer norms stay float32."""
    with tempfile.TemporaryDirectory(prefix="headrace-int8-") as folder:
        prepared, path = Path(folder) / "prepared.onnx", Path(folder) / "int8.onnx"
        model = onnx.load_model_from_string(encoder_onnx)
        quant_pre_process(model, prepared, skip_optimization=True, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            path,
            _CalibrationBatches(batches),
            nodes_to_quantize=[node.name for node, _ in _matrix_products(model)],
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return path.read_bytes()


def _store_matrices_as_float16(model: onnx.ModelProto) -> None:
    casts = []
    for _, matrix in _matrix_products(model):
        name, stored = matrix.name, f"{matrix.name}_float16"
        matrix.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(matrix).astype(np.float16), stored))
        casts.append(helper.make_node("Cast", [stored], [name], to=TensorProto.FLOAT))
    _set_nodes(model, [*casts, *model.graph.node])


def _read_float16_tables(model: onnx.ModelProto) -> None:
    _read_tables(model, TensorProto.FLOAT16, lambda _table, rows, out: [_cast(rows, out, TensorProto.FLOAT)])


def _write_float16_tables(model: onnx.ModelProto) -> None:
    _write_tables(model, TensorProto.FLOAT16, lambda _table, exact, out: [_cast(exact, out, TensorProto.FLOAT16)])


def _read_int8_tables(model: onnx.ModelProto, scales: dict[str, np.float32]) -> None:
    """By a cast and a product with the scale, not DequantizeLinear: onnxruntime fuses the product with attention's."""

    def restore(table: str, rows: str, out: str) -> list[onnx.NodeProto]:
        steps, scale = f"{out}_steps", _constant(model, f"{table}_scale", scales[table])
        return [_cast(rows, steps, TensorProto.FLOAT), helper.make_node("Mul", [steps, scale], [out])]

    _read_tables(model, TensorProto.INT8, restore)


def _write_int8_tables(model: onnx.ModelProto, scales: dict[str, np.float32]) -> None:
    """Values of a later item beyond the range of the release's own items are clipped."""

    def store(table: str, exact: str, out: str) -> list[onnx.NodeProto]:
        scale, zero = _constant(model, f"{table}_scale", scales[table]), _constant(model, f"{table}_zero", np.int8(0))
        return [helper.make_node("QuantizeLinear", [exact, scale, zero], [out])]

    _write_tables(model, TensorProto.INT8, store)


_Convert = Callable[[str, str, str], list[onnx.NodeProto]]
"""(table, tensor to convert, name of the result) -> nodes of the conversion."""


def _read_tables(model: onnx.ModelProto, kind: int, convert: _Convert) -> None:
    """Change the encoder's table inputs to type `kind`; `convert` turns the rows [B, L, D] of each into float32."""
    for value in model.graph.input:
        if value.name in contract.TABLES:
            value.type.tensor_type.elem_type = kind
    nodes = []
    for node in model.graph.node:
        nodes.append(node)
        if node.op_type == "Gather" and node.input[0] in contract.TABLES:
            out = node.output[0]
            node.output[0] = f"{out}_stored"
            nodes += convert(node.input[0], node.output[0], out)
    _set_nodes(model, nodes)


def _write_tables(model: onnx.ModelProto, kind: int, convert: _Convert) -> None:
    """Change the items graph's table outputs to type `kind`; `convert` makes each from the float32 table [V, D]."""
    for value in model.graph.output:
        value.type.tensor_type.elem_type = kind
    nodes = []
    for node in model.graph.node:
        nodes.append(node)
        if (table := node.output[0]) in contract.TABLES:
            node.output[0] = f"{table}_exact"
            nodes += convert(table, node.output[0], table)
    _set_nodes(model, nodes)


def _matrix_products(model: onnx.ModelProto) -> Iterator[tuple[onnx.NodeProto, onnx.TensorProto]]:
    """Every MatMul with a constant matrix as its second factor, and the matrix."""
    constants = {constant.name: constant for constant in model.graph.initializer}
    for node in model.graph.node:
        matrix = constants.get(node.input[1]) if node.op_type == "MatMul" else None
        if matrix is not None and len(matrix.dims) == _MATRIX_AXES:
            yield node, matrix


def _feed_forward_layers(
    model: onnx.ModelProto,
) -> Iterator[tuple[onnx.TensorProto, onnx.TensorProto, onnx.TensorProto]]:
    """Weights in [D, M], bias [M] and weights out [M, D] of each chain MatMul, Add, Relu, MatMul."""
    constants = {constant.name: constant for constant in model.graph.initializer}
    producers = {node.output[0]: node for node in model.graph.node}
    for node in model.graph.node:
        relu = producers.get(node.input[0])
        if node.op_type == "MatMul" and relu is not None and relu.op_type == "Relu":
            add = producers[relu.input[0]]
            product = producers[add.input[0]]
            yield constants[product.input[1]], constants[add.input[1]], constants[node.input[1]]


def _rewritten(graph: bytes, rewrite: _Rewrite) -> bytes:
    model = onnx.load_model_from_string(graph)
    rewrite(model)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def _set_nodes(model: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> None:
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)


def _set(constant: onnx.TensorProto, value: npt.NDArray[np.float32]) -> None:
    constant.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value), constant.name))


def _constant(model: onnx.ModelProto, name: str, value: np.generic) -> str:
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return name


def _cast(source: str, out: str, kind: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [out], to=kind)
