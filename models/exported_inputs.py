"""Gives an exported graph its several inputs by name, and joins them inside it to the rows that it takes.

A bundle's graphs take one tensor, ``x``. Who uses the model afterwards gives each input in its own shape and type.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import count

import numpy as np
import onnx
from onnx import TensorProto, helper

from lamina.models.spec import InputSpec

_ROWS = "x"
_TYPES = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}


def take_named_inputs(model: onnx.ModelProto, inputs: Sequence[InputSpec]) -> None:
    """Change a graph of ``x`` (N, R) into one of ``inputs``, in place; without inputs it stays as it is."""
    if not inputs:
        return
    graph = model.graph
    free = _free_names(graph)
    rows = next(free)
    clashing = {one.name for one in inputs} & _names(graph)
    _rename(graph, {_ROWS: rows} | {name: next(free) for name in sorted(clashing - {_ROWS})})
    flat = onnx.numpy_helper.from_array(np.array([0, -1], np.int64), next(free))
    joined = [node for one in inputs for node in _flattened(one, flat.name, free)]
    parts = [node.output[0] for node in joined if node.op_type == "Reshape"]
    nodes = [*joined, helper.make_node("Concat", parts, [rows], axis=1), *graph.node]
    others = [value for value in graph.input if value.name != rows]
    del graph.node[:], graph.input[:]
    graph.node.extend(nodes)
    graph.initializer.append(flat)
    graph.input.extend(helper.make_tensor_value_info(one.name, _TYPES[one.dtype], ["N", *one.shape]) for one in inputs)
    graph.input.extend(others)


def _flattened(one: InputSpec, shape: str, free: Iterator[str]) -> Iterator[onnx.NodeProto]:
    """An input as columns of float32."""
    name = one.name
    if one.dtype != "float32":
        yield helper.make_node("Cast", [name], [cast := next(free)], to=TensorProto.FLOAT)
        name = cast
    yield helper.make_node("Reshape", [name, shape], [next(free)])


def _free_names(graph: onnx.GraphProto) -> Iterator[str]:
    """Names that nothing in the graph has."""
    taken = _names(graph)
    return (name for name in map("joined_{}".format, count()) if name not in taken)


def _names(graph: onnx.GraphProto) -> set[str]:
    names = {value.name for value in (*graph.input, *graph.output, *graph.initializer)}
    for node in graph.node:
        names |= {*node.input, *node.output}
        for body in _bodies(node):
            names |= _names(body)
    return names


def _rename(graph: onnx.GraphProto, new: Mapping[str, str]) -> None:
    """Give tensors other names, in the bodies of loops, too."""
    for value in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
        value.name = new.get(value.name, value.name)
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [new.get(name, name) for name in names]
        for body in _bodies(node):
            _rename(body, new)


def _bodies(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    return [attribute.g for attribute in node.attribute if attribute.type == onnx.AttributeProto.GRAPH]
