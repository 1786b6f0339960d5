"""ONNX graphs that reach outside their own bytes are refused before anything loads them.

An ONNX model may keep tensors in other files (`external_data`, at any path) and name operators that a library or a file
outside implements. The engine serves graphs that hold all of themselves. The model is walked in protobuf's wire format,
so that neither `onnx` nor onnxruntime has seen the bytes before.

Source: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto (field numbers), protobuf's encoding guide.
"""

from collections.abc import Iterator
from typing import Final

from engine.errors import UnfitReleaseError

_MOST_NESTED: Final = 64
"""Messages within messages: graphs in attributes of nodes in graphs."""
_DOMAINS: Final = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
"""Sets of operators that onnxruntime implements itself."""
_REACHING_OPERATORS: Final = frozenset({"EPContext", "PyOp"})
"""Operators of these sets that load a compiled graph or a function from outside."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_INNER: Final[dict[str, dict[int, str]]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "function": {7: "node", 11: "attribute"},
    "tensor": {},
}
"""Fields that hold further messages, by message."""
_OPERATOR, _DOMAIN, _EXTERNAL_DATA, _DATA_LOCATION = 4, 7, 13, 14
_EXTERNAL: Final = 1

Field = tuple[int, int | memoryview]


def check(model: bytes, where: str) -> None:
    """Refuse a graph that is not whole in itself.

    Raises:
        UnfitReleaseError: names the tensor's place or the operator; `where` names the file.
    """
    try:
        _check_message("model", memoryview(model), where, 0)
    except (IndexError, ValueError) as error:
        raise UnfitReleaseError(
            f"{where} is no ONNX graph ({error}), expected one as `headrace train` exports it; export the release again"
        ) from error


def _check_message(kind: str, message: memoryview, where: str, depth: int) -> None:
    if depth > _MOST_NESTED:
        raise UnfitReleaseError(
            f"{where}: graphs within graphs, found more than {_MOST_NESTED} levels of messages, expected those of"
            " `headrace train`; export the release again"
        )
    inner = _INNER[kind]
    fields = [*_fields(message)]
    if kind == "tensor":
        _refuse_external(fields, where)
    if kind == "node":
        _refuse_operator(fields, where)
    for number, value in fields:
        if number in inner and isinstance(value, memoryview):
            _check_message(inner[number], value, where, depth + 1)


def _refuse_external(fields: list[Field], where: str) -> None:
    places = [bytes(value) for number, value in fields if number == _EXTERNAL_DATA and isinstance(value, memoryview)]
    if places or (_DATA_LOCATION, _EXTERNAL) in fields:
        raise UnfitReleaseError(
            f"{where}: a tensor is in another file ({b' '.join(places)[:80]!r}), expected all of them inside the graph;"
            " export the release again without external data"
        )


def _refuse_operator(fields: list[Field], where: str) -> None:
    texts = {
        number: bytes(value).decode(errors="replace")
        for number, value in fields
        if number in {_OPERATOR, _DOMAIN} and isinstance(value, memoryview)
    }
    operator, domain = texts.get(_OPERATOR, ""), texts.get(_DOMAIN, "")
    if domain not in _DOMAINS or operator in _REACHING_OPERATORS:
        raise UnfitReleaseError(
            f"{where}: operator {operator!r} of {domain!r}, expected one that onnxruntime has built in; export the"
            " release again without it"
        )


def _fields(message: memoryview) -> Iterator[Field]:
    """Numbers and values of a message's fields; raises IndexError or ValueError where the bytes are none."""
    place = 0
    while place < len(message):
        tag, place = _varint(message, place)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            value, place = _varint(message, place)
            yield number, value
            continue
        size = {_FIXED64: 8, _FIXED32: 4}.get(wire, 0)
        if wire == _BYTES:
            size, place = _varint(message, place)
        elif not size:
            raise ValueError(f"wire type {wire} at byte {place}")
        if size > len(message) - place:
            raise ValueError(f"a field of {size} bytes at byte {place} of {len(message)}")
        yield number, message[place : place + size]
        place += size


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:  # noqa: PLR2004 - the last byte of a number
            return value, place
        shift += 7
        if shift > 63:  # noqa: PLR2004 - 64 bits
            raise ValueError(f"a number of more than 64 bits at byte {place}")
