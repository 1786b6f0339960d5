"""The ONNX graphs of a re-scorer, written node by node from the trained parameters.

    rescorer_items.onnx    item vectors in, tables of the items out; run once
        in   vectors                           float32 [V, D]
        out  queries, keys, values, gates      float32 [V, D]

    rescorer.onnx          windows and candidates in, new scores out; run once per micro-batch
        in   queries, keys, values, gates      the tables above
        in   items       int32   [B, L]        rows of the tables, newest last; any valid row where the weight is 0
        in   ages        float32 [B, L]        log(1 + hours between the event and the window's newest event)
        in   weights     float32 [B, L]        weight of the event's action; 0 hides the event
        in   candidates  int32   [B, C]        rows of the tables; any valid row where the score is -inf
        in   scores      float32 [B, C]        interest · item; -inf where there is no candidate
        out  rescored    float32 [B, C]        -inf where there is no candidate

Letters as in `rescorer`. The scale of the attention is folded into the queries; nothing depends on V, B, L or C.
"""

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper, parser
from torch import Tensor

from models.lab.rescoring.rescorer import TABLES, Rescorer
from models.network.attention import TINY_WEIGHT

_Floats = npt.NDArray[np.float32]
_HEADER = '<ir_version: 8, opset_import: ["" : 18], producer_name: "headrace">'
_END = np.array([np.iinfo(np.int64).max])


def items_graph(rescorer: Rescorer) -> bytes:
    """The graph of `rescorer_items.onnx`, serialised."""
    size = rescorer.gates.in_features
    text = f"""{_HEADER}
    rescorer_items (float[V,{size}] vectors) => ({", ".join(f"float[V,{size}] {name}" for name in TABLES)}) {{
        normed = LayerNormalization <axis = -1, epsilon = {rescorer.norm.eps}> (vectors, scale, shift)
        queries = MatMul(normed, query_weight)
        keys = MatMul(normed, key_weight)
        values = MatMul(normed, value_weight)
        without_bias = MatMul(normed, gate_weight)
        gates = Add(without_bias, gate_bias)
    }}"""
    constants = {
        "scale": _array(rescorer.norm.weight),
        "shift": _array(rescorer.norm.bias),
        "query_weight": _array(rescorer.queries.weight).T / np.float32(math.sqrt(size / rescorer.heads)),
        "key_weight": _array(rescorer.keys.weight).T,
        "value_weight": _array(rescorer.values.weight).T,
        "gate_weight": _array(rescorer.gates.weight).T,
        "gate_bias": _array(rescorer.gates.bias),
    }
    return _serialised(text, constants)


def rescorer_graph(rescorer: Rescorer) -> bytes:
    """The graph of `rescorer.onnx`, serialised."""
    size, heads = rescorer.gates.in_features, range(rescorer.heads)
    tables = ", ".join(f"float[V,{size}] {name}" for name in TABLES)
    windows = "int32[B,L] items, float[B,L] ages, float[B,L] weights"
    text = f"""{_HEADER}
    rescorer ({tables}, {windows}, int32[B,C] candidates, float[B,C] scores) => (float[B,C] rescored) {{
        rows = Slice(items, first, end, axis_1)
        newest_ages = Slice(ages, first, end, axis_1)
        newest_weights = Slice(weights, first, end, axis_1)
        shape = Shape <start = 1, end = 2> (rows)
        count = Cast <to = 1> (shape)
        length = Squeeze(count)
        ranks = Range(length, zero, minus_one)
        log_ranks = Log(ranks)
        clamped_weights = Max(newest_weights, tiny)
        log_weights = Log(clamped_weights)
        candidate_queries = Gather(queries, candidates)
        {_by_head("candidate_queries_", heads)} = Split <axis = 2> (candidate_queries, widths)
        event_keys = Gather(keys, rows)
        {_by_head("event_keys_", heads)} = Split <axis = 2> (event_keys, widths)
        event_values = Gather(values, rows)
        {_by_head("event_values_", heads)} = Split <axis = 2> (event_values, widths)
        {"".join(_head(head) for head in heads)}
        attended = Concat <axis = 2> ({_by_head("attended_", heads)})
        candidate_gates = Gather(gates, candidates)
        products = Mul(candidate_gates, attended)
        corrections = ReduceSum <keepdims = 0> (products, axis_2)
        rescored = Add(scores, corrections)
    }}"""
    constants: dict[str, npt.NDArray[np.float32] | npt.NDArray[np.int64]] = {
        "first": np.array([-rescorer.events]),
        "end": _END,
        "axis_1": np.array([1]),
        "axis_2": np.array([2]),
        "widths": np.full(rescorer.heads, size // rescorer.heads),
        "zero": np.array(0, np.float32),
        "minus_one": np.array(-1, np.float32),
        "tiny": np.array(TINY_WEIGHT, np.float32),
    }
    for name in ("rank_slope", "age_slope"):
        constants |= {f"{name}_{head}": value for head, value in enumerate(_array(getattr(rescorer, name)))}
    return _serialised(text, constants)


def _head(head: int) -> str:
    """Nodes of one head: `attended_` [B, C, w] from `candidate_queries_` [B, C, w] and the events' keys and values."""
    return f"""
        transposed_keys_{head} = Transpose <perm = [0, 2, 1]> (event_keys_{head})
        products_{head} = MatMul(candidate_queries_{head}, transposed_keys_{head})
        rank_penalty_{head} = Mul(log_ranks, rank_slope_{head})
        age_penalty_{head} = Mul(newest_ages, age_slope_{head})
        without_rank_{head} = Sub(log_weights, rank_penalty_{head})
        event_bias_{head} = Sub(without_rank_{head}, age_penalty_{head})
        bias_{head} = Unsqueeze(event_bias_{head}, axis_1)
        logits_{head} = Add(products_{head}, bias_{head})
        attention_{head} = Softmax <axis = -1> (logits_{head})
        attended_{head} = MatMul(attention_{head}, event_values_{head})
    """


def _by_head(prefix: str, heads: range) -> str:
    return ", ".join(f"{prefix}{head}" for head in heads)


def _serialised(text: str, constants: Mapping[str, npt.ArrayLike]) -> bytes:
    model = parser.parse_model(text)
    for name, value in constants.items():
        model.graph.initializer.append(numpy_helper.from_array(np.array(value, order="C"), name))
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def _array(parameter: Tensor) -> _Floats:
    array: _Floats = parameter.detach().cpu().numpy()
    return array
