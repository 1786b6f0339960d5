"""The ONNX graphs of a re-scorer, written node by node from the trained parameters.

    rescorer_items.onnx    item vectors in, what the re-scorer knows of each item out; run once
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

Letters as in `network`. The scale of the attention is folded into the queries; nothing depends on V, B, L or C.
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
    """rescorer_items.onnx."""
    size = rescorer.gates.in_features
    text = f"""{_HEADER}
    rescorer_items (float[V,{size}] vectors) => ({", ".join(f"float[V,{size}] {name}" for name in TABLES)}) {{
        known = LayerNormalization <axis = -1, epsilon = {rescorer.norm.eps}> (vectors, scale, shift)
        queries = MatMul(known, query_weight)
        keys = MatMul(known, key_weight)
        values = MatMul(known, value_weight)
        ungated = MatMul(known, gate_weight)
        gates = Add(ungated, gate_bias)
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
    """rescorer.onnx."""
    size, heads = rescorer.gates.in_features, range(rescorer.heads)
    tables = ", ".join(f"float[V,{size}] {name}" for name in TABLES)
    windows = "int32[B,L] items, float[B,L] ages, float[B,L] weights"
    text = f"""{_HEADER}
    rescorer ({tables}, {windows}, int32[B,C] candidates, float[B,C] scores) => (float[B,C] rescored) {{
        rows = Slice(items, first, end, one)
        newest_ages = Slice(ages, first, end, one)
        newest_weights = Slice(weights, first, end, one)
        counted = Shape <start = 1, end = 2> (rows)
        count = Cast <to = 1> (counted)
        length = Squeeze(count)
        behind = Range(length, nought, minus_one)
        ranks = Log(behind)
        visible_weights = Max(newest_weights, tiny)
        visible = Log(visible_weights)
        asking = Gather(queries, candidates)
        {_each("asking_", heads)} = Split <axis = 2> (asking, widths)
        events = Gather(keys, rows)
        {_each("events_", heads)} = Split <axis = 2> (events, widths)
        saying = Gather(values, rows)
        {_each("saying_", heads)} = Split <axis = 2> (saying, widths)
        {"".join(_head(head) for head in heads)}
        heard = Concat <axis = 2> ({_each("heard_", heads)})
        gated = Gather(gates, candidates)
        each = Mul(gated, heard)
        votes = ReduceSum <keepdims = 0> (each, two)
        rescored = Add(scores, votes)
    }}"""
    constants: dict[str, npt.NDArray[np.float32] | npt.NDArray[np.int64]] = {
        "first": np.array([-rescorer.events]),
        "end": _END,
        "one": np.array([1]),
        "two": np.array([2]),
        "widths": np.full(rescorer.heads, size // rescorer.heads),
        "nought": np.array(0, np.float32),
        "minus_one": np.array(-1, np.float32),
        "tiny": np.array(TINY_WEIGHT, np.float32),
    }
    for name in ("rank_slope", "age_slope"):
        constants |= {f"{name}_{head}": value for head, value in enumerate(_array(getattr(rescorer, name)))}
    return _serialised(text, constants)


def _head(head: int) -> str:
    """Nodes of one head: `heard_` [B, C, w] from the `asking_` [B, C, w], `events_` and `saying_` [B, W, w]."""
    return f"""
        turned_{head} = Transpose <perm = [0, 2, 1]> (events_{head})
        alike_{head} = MatMul(asking_{head}, turned_{head})
        late_{head} = Mul(ranks, rank_slope_{head})
        old_{head} = Mul(newest_ages, age_slope_{head})
        nearer_{head} = Sub(visible, late_{head})
        flat_{head} = Sub(nearer_{head}, old_{head})
        bias_{head} = Unsqueeze(flat_{head}, one)
        biased_{head} = Add(alike_{head}, bias_{head})
        attention_{head} = Softmax <axis = -1> (biased_{head})
        heard_{head} = MatMul(attention_{head}, saying_{head})
    """


def _each(name: str, heads: range) -> str:
    return ", ".join(f"{name}{head}" for head in heads)


def _serialised(text: str, constants: Mapping[str, npt.ArrayLike]) -> bytes:
    model = parser.parse_model(text)
    for name, value in constants.items():
        model.graph.initializer.append(numpy_helper.from_array(np.array(value, order="C"), name))
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def _array(parameter: Tensor) -> _Floats:
    array: _Floats = parameter.detach().cpu().numpy()
    return array
