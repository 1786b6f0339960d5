"""The ONNX graphs of a release, written node by node from the trained parameters.

A traced export would bring the training pass with it; serving needs one query per hop, so the graphs are built here
with the shapes that are cheap to run: each query of a hop spans all D dimensions (a head's is zero outside its slice,
which is folded into the projections when the graph is built), so that both hops are the same few nodes on [B, Q, D]
against [B, L, D] and no tensor of a window's size is ever transposed in memory. Nothing in a graph depends on V, B or
L.

Letters: B users, L events (the window), H heads, K interests, Q queries of a hop, N knots, D dimensions, V items.
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from engine import contract
from models.network.attention import HOUR_S, TINY_WEIGHT, AdditiveScoring, DotScoring, Hop
from models.network.context import COUNT_KNOTS, GAP_KNOTS, QueryContext
from models.network.item_vectors import Content
from models.network.two_hop import FeedForward, TwoHopEncoder

_IR_VERSION = 8  # the file format that came with opset 18: every onnxruntime that knows the opset can read it
_ONNX_TYPES = {"tensor(float)": TensorProto.FLOAT, "tensor(int32)": TensorProto.INT32}
_Floats = npt.NDArray[np.float32]
_Array = _Floats | npt.NDArray[np.int64]


def items_graph(encoder: TwoHopEncoder) -> bytes:
    """items.onnx: item vectors [V, D] in, the attention tables [V, D] out."""
    graph = _Graph()
    normed = graph.layer_norm("vectors", encoder.item_norm)
    for number, hop in enumerate((encoder.hop1, encoder.hop2), start=1):
        graph.matmul(normed, graph.constant(_array(hop.key.weight).T), name=f"keys{number}")
        graph.matmul(normed, graph.constant(_array(hop.value.weight).T), name=f"values{number}")
    return graph.serialise("items", contract.ITEMS_INPUTS, contract.ITEMS_OUTPUTS, encoder)


def encoder_graph(encoder: TwoHopEncoder) -> bytes:
    """encoder.onnx: windows of B users in, K interests each and their attention over the window out."""
    graph = _Graph()
    seconds = _seconds(graph)
    biases = _biases(graph, encoder, seconds)
    newest = graph.node("Gather", "vectors", graph.node("Gather", "items", graph.constant(np.int64(-1)), axis=1))
    query = graph.node("Add", newest, _query_context(graph, encoder.query_context, seconds))
    state = _first_hop(graph, encoder, query, biases[0])
    _second_hop(graph, encoder, state, biases[1])
    return graph.serialise("encoder", contract.ENCODER_INPUTS, contract.ENCODER_OUTPUTS, encoder)


def content_graph(encoder: TwoHopEncoder, content: Content) -> bytes:
    """content.onnx: features of V items in, their content vectors out."""
    graph = _Graph()
    rows = np.zeros(content.sizes.buckets, np.int32)  # row 0, a zero vector, is that of all untrained buckets
    rows[content.trained_buckets] = np.arange(1, 1 + len(content.trained_buckets))
    table = np.concatenate([np.zeros((1, encoder.settings.dimensions), np.float32), _array(content.table)])
    table_rows = graph.node("Gather", graph.constant(rows), "buckets")  # [V, F]
    vectors = graph.node("Gather", graph.constant(table), table_rows)  # [V, F, D]
    vectors = graph.matmul(graph.unsqueeze("weights"), vectors)  # [V, 1, D]
    name = None if content.projection is not None else "vectors"
    vectors = graph.node("Squeeze", vectors, graph.integers(1), name=name)
    if content.projection is not None:
        graph.node("Add", vectors, graph.matmul("dense", graph.constant(_array(content.projection))), name="vectors")
    return graph.serialise("content", content.sizes.inputs, contract.CONTENT_OUTPUTS, encoder)


class _Graph:
    """A graph under construction; every method adds nodes or a constant, and returns the name of its output."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []

    def node(self, operator: str, *inputs: str, name: str | None = None, **attributes: Any) -> str:
        output = name or f"{operator}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, list(inputs), [output], output, **attributes))
        return output

    def constant(self, value: npt.ArrayLike) -> str:
        name = f"constant_{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.ascontiguousarray(value).reshape(np.shape(value)), name))
        return name

    def integers(self, *values: int) -> str:
        """A list of int64, for axes, shapes and bounds."""
        return self.constant(np.array(values, np.int64))

    def unsqueeze(self, state: str) -> str:
        """[B, N] to [B, 1, N]."""
        return self.node("Unsqueeze", state, self.integers(1))

    def transpose(self, state: str) -> str:
        """[B, M, N] to [B, N, M]."""
        return self.node("Transpose", state, perm=[0, 2, 1])

    def matmul(self, left: str, right: str, name: str | None = None) -> str:
        return self.node("MatMul", left, right, name=name)

    def linear(self, state: str, weight: _Array, bias: _Array) -> str:
        """Affine map: state [..., N] @ weight [N, M] + bias [M]."""
        return self.node("Add", self.matmul(state, self.constant(weight)), self.constant(bias))

    def layer_norm(self, state: str, norm: nn.LayerNorm, name: str | None = None) -> str:
        scale, shift = self.constant(_array(norm.weight)), self.constant(_array(norm.bias))
        return self.node("LayerNormalization", state, scale, shift, name=name, axis=-1, epsilon=norm.eps)

    def reshape(self, state: str, *shape: int) -> str:
        return self.node("Reshape", state, self.integers(*shape))

    def serialise(
        self,
        name: str,
        inputs: dict[str, tuple[str, str]],
        outputs: dict[str, tuple[str, str]],
        encoder: TwoHopEncoder,
    ) -> bytes:
        content = encoder.items.content
        axis_sizes = {"D": encoder.settings.dimensions, "K": encoder.settings.interests}
        axis_sizes |= {"E": content.sizes.dense} if content else {}
        graph = helper.make_graph(
            self._nodes,
            name,
            [_value(*item, axis_sizes) for item in inputs.items()],
            [_value(*item, axis_sizes) for item in outputs.items()],
            self._constants,
        )
        opset = helper.make_opsetid("", encoder.settings.contract.opset)
        model = helper.make_model(graph, opset_imports=[opset], ir_version=_IR_VERSION, producer_name="headrace")
        onnx.checker.check_model(model, full_check=True)
        return bytes(model.SerializeToString())


def _biases(graph: _Graph, encoder: TwoHopEncoder, seconds: str) -> tuple[str, str]:
    """Attention biases from rank, age and weight: [B, H, L] of the first hop, [B, K, L] of the second."""
    hops = (encoder.hop1, encoder.hop2)
    slopes = {
        name: graph.constant(-np.concatenate([_array(getattr(hop, name)) for hop in hops])[:, None])  # [H + K, 1]
        for name in ("rank_slope", "hour_slope", "second_slope")
    }
    weights = graph.node("Log", graph.node("Max", "weights", graph.constant(np.float32(TINY_WEIGHT))))
    bias = graph.node("Mul", graph.unsqueeze("ages"), slopes["hour_slope"])  # [B, H + K, L]
    bias = graph.node("Add", bias, graph.node("Mul", graph.unsqueeze(seconds), slopes["second_slope"]))
    bias = graph.node("Add", bias, graph.node("Mul", _ranks(graph), slopes["rank_slope"]))
    bias = graph.node("Add", bias, graph.unsqueeze(weights))
    cuts = [0, encoder.hop1.queries, encoder.hop1.queries + encoder.hop2.queries]
    return _slice(graph, bias, cuts[0], cuts[1]), _slice(graph, bias, cuts[1], cuts[2])


def _seconds(graph: _Graph) -> str:
    """log(1 + seconds before the newest event): [B, L], from log(1 + hours).

    exp(a) - 1 would lose the seconds of a recent event; tanh(a / 2) · (exp(a) + 1) is the same, and keeps them.
    """
    half = graph.node("Tanh", graph.node("Mul", "ages", graph.constant(np.float32(0.5))))
    hours = graph.node("Mul", half, graph.node("Add", graph.node("Exp", "ages"), graph.constant(np.float32(1.0))))
    seconds = graph.node("Mul", hours, graph.constant(np.float32(HOUR_S)))
    return graph.node("Log", graph.node("Add", seconds, graph.constant(np.float32(1.0))))


def _ranks(graph: _Graph) -> str:
    """log(1 + events after this one): [L], 0 in the last column."""
    length = graph.node("Cast", graph.node("Shape", "items", start=1, end=2), to=TensorProto.FLOAT)
    length = graph.node("Squeeze", length)
    one_past = graph.node("Range", length, graph.constant(np.float32(0)), graph.constant(np.float32(-1)))
    return graph.node("Log", one_past)


def _query_context(graph: _Graph, context: QueryContext, seconds: str) -> str:
    """Context vectors [B, D]: number of events in each window, and gap between the newest two."""
    present = graph.node("Cast", graph.node("Greater", "weights", graph.constant(np.float32(0))), to=TensorProto.FLOAT)
    axis, ln2 = graph.integers(1), graph.constant(np.float32(math.log(2.0)))
    counts = graph.node("ReduceSum", present, axis)  # [B, 1]
    counts = graph.node("Div", graph.node("Log", counts), ln2)
    previous = [graph.integers(number) for number in (-2, -1, 1)]  # start, end, axis
    gaps = graph.node("Div", graph.node("Slice", seconds, *previous), ln2)  # [B, 1], or [B, 0] where L is 1
    has_previous = graph.node("Slice", present, *previous)
    hats = graph.node("Mul", _hats(graph, gaps, GAP_KNOTS), graph.node("Unsqueeze", has_previous, graph.integers(2)))
    hats = graph.node("ReduceSum", hats, axis, keepdims=0)  # [B, N], over the one gap or none
    gap = graph.matmul(hats, graph.constant(_array(context.gap)))
    hats = graph.node("Squeeze", _hats(graph, counts, COUNT_KNOTS), axis)
    return graph.node("Add", graph.matmul(hats, graph.constant(_array(context.count))), gap)


def _hats(graph: _Graph, values: str, knots: int) -> str:
    """Hat functions of values [B, M]: weights [B, M, N] of the knots 0, 1, 2, ... (`models.network.context`)."""
    values = graph.node("Min", values, graph.constant(np.float32(knots - 1)))
    values = graph.node("Unsqueeze", values, graph.integers(2))
    distances = graph.node("Abs", graph.node("Sub", values, graph.constant(np.arange(knots, dtype=np.float32))))
    return graph.node("Relu", graph.node("Sub", graph.constant(np.float32(1)), distances))


def _slice(graph: _Graph, state: str, start: int, end: int) -> str:
    """Rows `start` to `end` along axis 1."""
    return graph.node("Slice", state, *(graph.integers(number) for number in (start, end, 1)))


def _first_hop(graph: _Graph, encoder: TwoHopEncoder, query: str, bias: str) -> str:
    """The state h [B, D]: the query after multi-head attention over the window, and a feed-forward layer."""
    hop, size = encoder.hop1, encoder.settings.dimensions
    slices = np.repeat(np.eye(hop.queries, dtype=np.float32), hop.width, axis=1)  # [H, D], head h is 1 on its slice
    scores = _scores(graph, hop, query, slices, "keys1")
    attended = graph.reshape(_attend(graph, scores, bias, "values1"), -1, hop.queries * size)  # [B, H * D]
    weight = slices[:, :, None] * _array(encoder.output.weight).T  # [H, D, D]
    heads = graph.linear(attended, weight.reshape(-1, size), _array(encoder.output.bias))
    state = graph.node("Add", query, heads)
    return graph.node("Add", state, _feed_forward(graph, encoder.feed1, graph.layer_norm(state, encoder.feed1_norm)))


def _second_hop(graph: _Graph, encoder: TwoHopEncoder, state: str, bias: str) -> None:
    """The outputs of the graph: interests [B, K, D] and attention [B, K, L]."""
    slices = np.ones((1, encoder.settings.dimensions), np.float32)  # each interest reads all dimensions
    scores = _scores(graph, encoder.hop2, state, slices, "keys2")
    attended = _attend(graph, scores, bias, "values2", name="attention")
    attended = graph.node("Add", attended, graph.unsqueeze(state))
    interests = graph.node("Add", attended, _feed_forward(graph, encoder.feed2, attended))
    graph.layer_norm(interests, encoder.interest_norm, name="interests")


def _scores(graph: _Graph, hop: Hop, state: str, slices: _Floats, table: str) -> str:
    """Scores [B, Q, L] of each query and event, from the state [B, D]; `slices` as in `_dot_queries`."""
    state, keys = graph.layer_norm(state, hop.norm), graph.node("Gather", table, "items")  # [B, D], [B, L, D]
    if isinstance(hop.scoring, DotScoring):
        # [B, Q, D] @ [B, D, L]; onnxruntime fuses the transposition into the product
        return graph.matmul(_dot_queries(graph, hop.scoring, state, slices), graph.transpose(keys))
    output = graph.constant(_array(hop.scoring.output.weight).T)  # [D, Q]
    return graph.transpose(graph.matmul(_tanh_units(graph, hop.scoring, state, keys), output))


def _dot_queries(graph: _Graph, scoring: DotScoring, state: str, slices: _Floats) -> str:
    """Queries [B, Q, D] from the state [B, D]; `slices` [H or 1, D] is 1 on the dimensions that each head reads."""
    size, scale = slices.shape[1], 1.0 / math.sqrt(scoring.width)
    weight = scale * _array(scoring.query.weight).T.reshape(size, -1, size) * slices  # [D, Q, D]
    bias = scale * _array(scoring.query.bias).reshape(-1, size) * slices  # [Q, D]
    flat = graph.linear(state, weight.reshape(size, -1), bias.ravel())
    return graph.reshape(flat, -1, scoring.queries, size)


def _tanh_units(graph: _Graph, scoring: AdditiveScoring, state: str, keys: str) -> str:
    """Hidden layer [B, L, D] of additive scoring."""
    query = graph.linear(state, _array(scoring.query.weight).T, _array(scoring.query.bias))
    return graph.node("Tanh", graph.node("Add", keys, graph.unsqueeze(query)))


def _attend(graph: _Graph, scores: str, bias: str, table: str, name: str | None = None) -> str:
    """Values [B, Q, D] averaged by each query's attention [B, Q, L], which is called `name`."""
    attention = graph.node("Softmax", graph.node("Add", scores, bias), name=name, axis=-1)
    return graph.matmul(attention, graph.node("Gather", table, "items"))


def _feed_forward(graph: _Graph, layer: FeedForward, state: str) -> str:
    inner = graph.linear(state, _array(layer.inner.weight).T, _array(layer.inner.bias))
    return graph.linear(graph.node("Relu", inner), _array(layer.outer.weight).T, _array(layer.outer.bias))


def _value(name: str, spec: tuple[str, str], axis_sizes: dict[str, int]) -> onnx.ValueInfoProto:
    """An input or output of the contract; axes without a size stay symbolic."""
    kind, axes = spec
    return helper.make_tensor_value_info(name, _ONNX_TYPES[kind], [axis_sizes.get(axis, axis) for axis in axes])


def _array(parameter: Tensor) -> _Floats:
    array: _Floats = parameter.detach().cpu().numpy()
    return array
