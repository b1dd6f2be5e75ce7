"""Nodes and constants of an ONNX file, read by the few fields of its format that a network's head needs.

Machines that only score have no `onnx` package. A message is a row of (key, value) whose key holds the number of a
field and how its value is laid out (Protocol Buffers encoding, protobuf.dev; numbers of fields: onnx.proto3).
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
GRAPH = 7  # of a model
NODES, CONSTANTS = 1, 5  # of a graph
INPUTS, OUTPUTS_OF, OPERATION, ATTRIBUTES = 1, 2, 4, 5  # of a node
DIMENSIONS, KIND, FLOATS, INTEGERS, NAME, RAW = 1, 2, 4, 7, 8, 9  # of a tensor
ATTRIBUTE_NAME, ATTRIBUTE_FLOAT, ATTRIBUTE_INTEGER, ATTRIBUTE_TENSOR, ATTRIBUTE_INTEGERS = 1, 2, 3, 5, 8
TYPES: Mapping[int, str] = {1: "<f4", 6: "<i4", 7: "<i8", 11: "<f8"}  # of tensors; others are left out
Message = dict[int, list[Any]]


@dataclass(frozen=True)
class GraphNode:
    """One operation: its ONNX name, the names of the values that it takes and gives, and its attributes (numbers, and
    lists of integers)."""

    operation: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]


@dataclass(frozen=True)
class OnnxGraph:
    """A network: its nodes by the names of what they give, and its constants."""

    nodes: Mapping[str, GraphNode]
    constants: Mapping[str, NDArray[Any]]


def read_onnx_graph(model: bytes) -> OnnxGraph:
    """The graph of an ONNX file. Raises: ValueError where the bytes are none."""
    try:
        graph = parse_message(parse_message(memoryview(model))[GRAPH][0])
        nodes = [_read_node(parse_message(node)) for node in graph.get(NODES, ())]
        constants = dict(_read_tensor(parse_message(tensor)) for tensor in graph.get(CONSTANTS, ()))
        constants |= {
            node.outputs[0]: node.attributes["value"]
            for node in nodes
            if node.operation == "Constant" and "value" in node.attributes
        }
    except (IndexError, KeyError, UnicodeDecodeError) as error:
        raise ValueError(f"no ONNX model ({type(error).__name__})") from None
    known = {name: values for name, values in constants.items() if values is not None}
    return OnnxGraph({name: node for node in nodes for name in node.outputs}, known)


def digest_constants(graph: OnnxGraph) -> str:
    """sha256 (hex) of all numbers of a network, to the last bit; names, in which counters stand, and the order in which
    they are written do not count."""
    facts = [f"{each.dtype}{each.shape}".encode() + each.tobytes() for each in graph.constants.values()]
    digests = sorted(hashlib.sha256(fact).digest() for fact in facts)
    return hashlib.sha256(b"".join(digests)).hexdigest()


def parse_message(data: memoryview) -> Message:
    """The values of a message by the numbers of their fields: integers, or bytes. Raises: IndexError, ValueError."""
    found: Message = {}
    place = 0
    while place < len(data):
        key, place = _read_varint(data, place)
        layout, values = key & 7, found.setdefault(key >> 3, [])
        if layout == VARINT:
            number, place = _read_varint(data, place)
            values.append(number)
            continue
        length = {FIXED64: 8, FIXED32: 4}.get(layout, len(data) + 1)
        if layout == BYTES:
            length, place = _read_varint(data, place)
        if place + length > len(data):
            raise ValueError("a message ends in the middle of a value")
        values.append(data[place : place + length])
        place += length
    return found


def _read_varint(data: memoryview, place: int) -> tuple[int, int]:
    """(an integer of seven bits a byte, the lowest first; where it ends)."""
    value = shift = 0
    while True:
        byte = data[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place


def _read_integers(values: list[Any]) -> list[int]:
    """Signed integers, one by one or packed into bytes."""
    return [_sign(value) for entry in values for value in ([entry] if isinstance(entry, int) else _unpack(entry))]


def _unpack(data: memoryview) -> Iterator[int]:
    place = 0
    while place < len(data):
        value, place = _read_varint(data, place)
        yield value


def _sign(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _read_text(values: list[Any]) -> str:
    return bytes(values[0]).decode() if values else ""


def _read_node(node: Message) -> GraphNode:
    inputs, outputs = (tuple(_read_text([name]) for name in node.get(field, ())) for field in (INPUTS, OUTPUTS_OF))
    attributes = dict(_read_attribute(parse_message(entry)) for entry in node.get(ATTRIBUTES, ()))
    return GraphNode(_read_text(node.get(OPERATION, [])), inputs, outputs, attributes)


def _read_attribute(entry: Message) -> tuple[str, Any]:
    name = _read_text(entry.get(ATTRIBUTE_NAME, []))
    if ATTRIBUTE_FLOAT in entry:
        return name, float(np.frombuffer(entry[ATTRIBUTE_FLOAT][0], "<f4")[0])
    if ATTRIBUTE_TENSOR in entry:
        return name, _read_tensor(parse_message(entry[ATTRIBUTE_TENSOR][0]))[1]
    if ATTRIBUTE_INTEGERS in entry:
        return name, _read_integers(entry[ATTRIBUTE_INTEGERS])
    return name, _sign(entry[ATTRIBUTE_INTEGER][0]) if ATTRIBUTE_INTEGER in entry else None


def _read_tensor(tensor: Message) -> tuple[str, NDArray[Any] | None]:
    """(name, values), None where they are of a type that no head has."""
    name, shape = _read_text(tensor.get(NAME, [])), _read_integers(tensor.get(DIMENSIONS, []))
    kind = TYPES.get(tensor.get(KIND, [0])[0])
    if kind is None:
        return name, None
    if RAW in tensor:
        return name, np.frombuffer(tensor[RAW][0], kind).reshape(shape)
    if FLOATS in tensor:
        parts = [bytes(entry) for entry in tensor[FLOATS]]
        return name, np.frombuffer(b"".join(parts), "<f4").reshape(shape)
    return name, np.array(_read_integers(tensor.get(INTEGERS, [])), np.int64).reshape(shape)
