"""An ONNX graph as plain values: its operators, its constants without their content, its inputs and outputs.

The field numbers are those of ``onnx.proto3``. What this project's graphs never have (functions, sparse constants,
training information) is refused, and so is a constant that claims more elements than it has bytes.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lamina.edge_agent.admission.protobuf import Message, integers, message, parts, text
from lamina.models.errors import ModelError, brief

FLOAT, UINT8, INT8, INT32, INT64, BOOL, DOUBLE, UINT32 = 1, 2, 3, 6, 7, 9, 11, 12
ITEM_BYTES = {FLOAT: 4, UINT8: 1, INT8: 1, INT32: 4, INT64: 8, BOOL: 1, DOUBLE: 8, UINT32: 4}

Numbers = NDArray[np.int64]

MOST_NUMBERS = 1 << 16  # of a constant whose content is kept: shapes, axes, and the sizes of a Split into all tensors
_MOST_DEPTH = 2  # of graphs within graphs
_EXTERNAL = 1


@dataclass(frozen=True, slots=True)
class Outside:
    """A part of another file."""

    location: str
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Tensor:
    """A constant.

    Attributes:
        name: by which operators read it.
        shape: its extents.
        kind: its element type, by ONNX's number.
        value: its content, where that is a few whole numbers.
        outside: where its content lies, if not in the graph's file.
    """

    name: str
    shape: tuple[int, ...]
    kind: int
    value: Numbers | None
    outside: Outside | None = None


@dataclass(frozen=True, slots=True)
class ValueInfo:
    """An input or output of a graph; an extent that isn't fixed is a string."""

    name: str
    kind: int
    shape: tuple[int | str, ...]


@dataclass(frozen=True, slots=True)
class Node:
    """An operator. Its name is ``domain.Operator``, or ``Operator`` alone in the standard's domain."""

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Attribute]


@dataclass(frozen=True, slots=True)
class Graph:
    """Operators in the order in which they are written, and what they read and leave."""

    nodes: tuple[Node, ...]
    constants: tuple[Tensor, ...]
    inputs: tuple[ValueInfo, ...]
    outputs: tuple[str, ...]


Attribute = int | tuple[int, ...] | str | Tensor | Graph | None
"""An attribute's value; ``None`` for floats, which no shape depends on."""


def read_graph(content: bytes) -> Graph:
    """The graph of a model.

    Raises:
        ModelError: it is no model, or has something that this project's models never have.
    """
    what = "the graph's file"
    model = message(memoryview(content), {1, 2, 3, 4, 5, 6, 7, 8, 14}, {7}, what)
    graphs = parts(model.get(7, []), what)
    if not graphs:
        raise ModelError(f"{what} holds no graph")
    return _graph(graphs[0], 1)


def _graph(data: memoryview, depth: int) -> Graph:
    if depth > _MOST_DEPTH:
        raise ModelError("the graph has graphs within graphs within graphs")
    what = "the graph"
    found = message(data, {1, 2, 5, 10, 11, 12, 13}, {2}, what)
    return Graph(
        nodes=tuple(_node(part, depth) for part in parts(found.get(1, []), what)),
        constants=tuple(_tensor(part) for part in parts(found.get(5, []), what)),
        inputs=tuple(_place(part) for part in parts(found.get(11, []), what)),
        outputs=tuple(_place(part).name for part in parts(found.get(12, []), what)),
    )


def _node(data: memoryview, depth: int) -> Node:
    what = "an operator"
    found = message(data, {1, 2, 3, 4, 5, 6, 7}, {3, 4, 7}, what)
    name, domain = text(found.get(4, []), what), text(found.get(7, []), what)
    attributes: dict[str, Attribute] = {}
    for part in parts(found.get(5, []), what):
        key, value = _attribute(part, depth)
        if key in attributes:
            raise ModelError(f"an operator has two attributes {brief(key, 40)}")
        attributes[key] = value
    return Node(
        f"{domain}.{name}" if domain and domain != "ai.onnx" else name,
        tuple(text([field], what) for field in found.get(1, [])),
        tuple(text([field], what) for field in found.get(2, [])),
        attributes,
    )


def _attribute(data: memoryview, depth: int) -> tuple[str, Attribute]:
    what = "an attribute"
    found = message(data, {1, 2, 3, 4, 5, 6, 7, 8, 20}, {1, 2, 3, 4, 5, 6, 20}, what)
    name = text(found.get(1, []), what)
    if 5 in found:
        return name, _tensor(parts(found[5], what)[0])
    if 6 in found:
        return name, _graph(parts(found[6], what)[0], depth + 1)
    if 4 in found:
        return name, text(found[4], what)
    if 3 in found:
        return name, integers(found[3], what)[0]
    if 2 in found or 7 in found:
        return name, None
    return name, integers(found.get(8, []), what)


def _tensor(data: memoryview) -> Tensor:
    what = "a constant"
    found = message(data, {1, 2, 4, 5, 7, 8, 9, 10, 11, 12, 13, 14}, {2, 8, 9, 12, 14}, what)
    name, shape = text(found.get(8, []), what), integers(found.get(1, []), what)
    [kind] = integers(found.get(2, [0]), what)
    if kind not in ITEM_BYTES:
        raise ModelError(f"constant {brief(name, 40)} has the element type {kind}")
    size = math.prod(shape)
    if any(extent < 0 for extent in shape):
        raise ModelError(f"constant {brief(name, 40)} has a negative extent")
    if integers(found.get(14, [0]), what)[0] == _EXTERNAL or 13 in found:
        return Tensor(name, shape, kind, None, _outside(found, what))
    raw = parts(found.get(9, []), what)
    if size > len(data) or (raw and len(raw[0]) != size * ITEM_BYTES[kind]):
        raise ModelError(f"constant {brief(name, 40)} claims {size} elements, and has other bytes")
    return Tensor(name, shape, kind, _numbers(found, raw, kind, shape, what))


def _outside(found: Message, what: str) -> Outside:
    """Return where a constant's content lies outside of the graph's file."""
    said: dict[str, str] = {}
    for part in parts(found.get(13, []), what):
        entry = message(part, {1, 2}, {1, 2}, what)
        key, value = (text(entry.get(number, []), what) for number in (1, 2))
        if key in said or key not in ("location", "offset", "length"):
            raise ModelError(f"{what} says where it lies in a way that no graph of this project has")
        said[key] = value
    numbers = [said.get(key, "") for key in ("offset", "length")]
    if "location" not in said or not all(re.fullmatch("[0-9]{1,15}", number) for number in numbers):
        raise ModelError(f"{what} lies outside of the file, and nowhere")
    return Outside(said["location"], *map(int, numbers))


def _numbers(found: Message, raw: list[memoryview], kind: int, shape: tuple[int, ...], what: str) -> Numbers | None:
    """The content of a constant, if that is a few whole numbers."""
    size = math.prod(shape)
    if kind not in (INT64, INT32) or size > MOST_NUMBERS:
        return None
    if raw:
        return np.frombuffer(raw[0], "<i8" if kind == INT64 else "<i4").astype(np.int64).reshape(shape)
    numbers = integers(found.get(7 if kind == INT64 else 5, []), what)
    if len(numbers) != size:
        raise ModelError(f"{what} of {size} elements has {len(numbers)}")
    return np.array(numbers, np.int64).reshape(shape)


def _place(data: memoryview) -> ValueInfo:
    what = "an input or output"
    found = message(data, {1, 2, 3}, {1, 2}, what)
    name = text(found.get(1, []), what)
    kind, shape = 0, list[int | str]()
    for described in parts(found.get(2, []), what):
        for tensor in parts(message(described, {1, 6}, {1}, what).get(1, []), what):
            fields = message(tensor, {1, 2}, {1, 2}, what)
            [kind] = integers(fields.get(1, [0]), what)
            for extents in parts(fields.get(2, []), what):
                for extent in parts(message(extents, {1}, (), what).get(1, []), what):
                    one = message(extent, {1, 2, 3}, {1, 2}, what)
                    shape.append(integers(one[1], what)[0] if 1 in one else text(one.get(2, []), what) or "?")
    return ValueInfo(name, kind, tuple(shape))
