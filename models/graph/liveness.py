"""Tells which tensors of a graph are in memory at once: its operators in the engine's order, and what they allocate and
free.

ONNX Runtime runs a graph depth first from its last result backwards: of an operator's inputs, the one that was written
last comes first. A tensor is allocated when its operator runs, and freed after its last reader. It does not write over
an input, though it might where shapes are known; a Reshape makes no copy; a Transpose before a matrix product is done
within it, and two that undo each other are left out; a Where takes two tensors more, as large as its result, while it
runs.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import AttributeProto, TensorProto, numpy_helper, shape_inference

from lamina.models.graph.writer import BLOCKED_DOMAIN, OPSET

_ITEM_BYTES: dict[int, int] = {
    TensorProto.FLOAT: 4,
    TensorProto.DOUBLE: 8,
    TensorProto.INT64: 8,
    TensorProto.INT32: 4,
    TensorProto.UINT32: 4,
    TensorProto.UINT8: 1,
    TensorProto.BOOL: 1,
}
_VIEWS = ("Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity")
_PRODUCTS = ("MatMul", "Gemm")
_OF_X, _OF_Y = "selected of X: ", "selected of Y: "  # what a Where takes for itself, before its result's name


@dataclass(frozen=True, slots=True)
class Allocation:
    """A tensor comes to be (``size_bytes``), or ends (``None``)."""

    tensor: str
    size_bytes: int | None


def allocations(model: onnx.ModelProto, *batches: int) -> Iterator[list[Allocation]]:
    """What one run allocates and frees, in order, for each batch; inputs, constants and outputs lie elsewhere."""
    lives = _lives(model.graph)
    for sizes in _sizes(model, batches):
        yield _sized(lives, sizes)


def _sizes(model: onnx.ModelProto, batches: Sequence[int]) -> Iterator[Mapping[str, int]]:
    """`tensor_bytes` for each batch. Where three show that all sizes lie on straight lines, the others follow."""
    if len(batches) <= 3:
        yield from (tensor_bytes(model, batch) for batch in batches)
        return
    first, second, last = (tensor_bytes(model, batch) for batch in (*batches[:2], batches[-1]))
    steps = {name: second.get(name, 0) - size for name, size in first.items()}
    apart, width = batches[1] - batches[0], batches[-1] - batches[0]
    if first.keys() == second.keys() == last.keys() and all(
        (last[name] - size) * apart == steps[name] * width for name, size in first.items()
    ):
        for batch in batches:
            yield {name: size + steps[name] * (batch - batches[0]) // apart for name, size in first.items()}
    else:
        yield first
        yield second
        yield from (tensor_bytes(model, batch) for batch in batches[2:-1])
        yield last


def allocations_of(graph: onnx.GraphProto, sizes: Mapping[str, int]) -> list[Allocation]:
    """The same, where the size of every tensor is known."""
    return _sized(_lives(graph), sizes)


def _sized(lives: Iterable[tuple[str, bool]], sizes: Mapping[str, int]) -> list[Allocation]:
    return [
        Allocation(tensor, sizes.get(tensor.removeprefix(_OF_X).removeprefix(_OF_Y), 0) if begins else None)
        for tensor, begins in lives
    ]


def highest_bytes(found: Iterable[Allocation]) -> int:
    """The most that is allocated at once."""
    live: dict[str, int] = {}
    now = highest = 0
    for allocation in found:
        if allocation.size_bytes is None:
            now -= live.pop(allocation.tensor)
        else:
            live[allocation.tensor] = allocation.size_bytes
            now += allocation.size_bytes
            highest = max(highest, now)
    return highest


def engine_order(operators: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """The operators as the engine runs them."""
    writer = {name: index for index, operator in enumerate(operators) for name in operator.output if name}
    before = [sorted({writer[name] for name in read(operator) if name in writer}) for operator in operators]
    needed = {index for inputs in before for index in inputs}
    waiting = [(index, False) for index in range(len(operators)) if index not in needed]
    seen: set[int] = set()
    order: list[onnx.NodeProto] = []
    while waiting:
        index, inputs_done = waiting.pop()
        if inputs_done:
            order.append(operators[index])
        elif index not in seen:
            seen.add(index)
            waiting.append((index, True))
            waiting.extend((other, False) for other in before[index] if other not in seen)
    return order


def tensor_bytes(model: onnx.ModelProto, batch: int) -> dict[str, int]:
    """The size of every tensor whose shape can be told, for a batch of that many samples."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    for place in fixed.graph.input:
        for extent in place.type.tensor_type.shape.dim:
            if extent.dim_param:
                extent.dim_value = batch
    for operator in fixed.graph.node:
        if operator.domain == BLOCKED_DOMAIN:
            _make_plain(operator)
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in fixed.graph.initializer if _is_shape(tensor)}
    for operator in fixed.graph.node:
        if operator.op_type == "Constant" and _is_shape(operator.attribute[0].t):
            values[operator.output[0]] = numpy_helper.to_array(operator.attribute[0].t)
    while True:  # shapes follow from values that follow from shapes; every pass settles some, or is the last
        found = dict(_shapes(shape_inference.infer_shapes(fixed).graph))
        settled = _settle(fixed.graph, {name: form.shape for name, form in found.items()}, values)
        if not (_describe_scans(fixed.graph, found) or settled):
            break
    return {name: math.prod(form.shape) * _ITEM_BYTES[form.kind] for name, form in found.items()}


def _make_plain(operator: onnx.NodeProto) -> None:
    """Write a blocked operator as one of the standard, whose tensors are as large: blocks are whole here."""
    operator.domain = ""
    if operator.op_type != "Conv":
        operator.op_type = "Identity"
        del operator.attribute[:]


def read(operator: onnx.NodeProto) -> Iterator[str]:
    """The names that an operator reads, those inside a nested graph among them."""
    yield from filter(None, operator.input)
    for attribute in operator.attribute:
        if attribute.type == AttributeProto.GRAPH:
            for nested in attribute.g.node:
                yield from read(nested)


def _lives(graph: onnx.GraphProto) -> list[tuple[str, bool]]:
    """When tensors come to be (true) and when they end, in one run of whatever batch."""
    order = _without_double_transposes(engine_order(graph.node), {place.name for place in graph.output})
    elsewhere = {place.name for place in (*graph.output, *graph.input, *graph.initializer)}
    reads = [tuple(dict.fromkeys(read(operator))) for operator in order]
    readers = Counter(name for names in reads for name in names)
    products = _read_by_products_only(order)
    held_by: dict[str, str] = {}  # views: the tensor whose memory they are
    left: dict[str, int] = {}  # readers to come, of tensors that are allocated
    lives: list[tuple[str, bool]] = []

    def holder(name: str) -> str:
        while name in held_by:
            name = held_by[name]
        return name

    for operator, names in zip(order, reads, strict=True):
        written = [name for name in operator.output if name and name not in elsewhere]
        is_view = operator.op_type in _VIEWS or (operator.op_type == "Transpose" and operator.output[0] in products)
        for name in written:
            if is_view:
                held_by[name] = operator.input[0]
                if (owner := holder(name)) in left:
                    left[owner] += readers[name]
            else:
                left[name] = readers[name]
                lives.append((name, True))
                if operator.op_type == "Where":
                    lives += ((prefix + name, begins) for begins in (True, False) for prefix in (_OF_X, _OF_Y))
        for name in names:
            if (owner := holder(name)) in left:
                left[owner] -= 1
        for owner in dict.fromkeys(holder(name) for name in (*names, *written)):
            if left.get(owner) == 0:
                del left[owner]
                lives.append((owner, False))
    return lives


def _without_double_transposes(operators: Sequence[onnx.NodeProto], outputs: set[str]) -> list[onnx.NodeProto]:
    """The operators, where a Transpose that undoes another one is a view of what that one read."""
    turned = {each.output[0]: each for each in operators if each.op_type == "Transpose"}
    kept: list[onnx.NodeProto] = []
    for operator in operators:
        before = turned.get(operator.input[0]) if operator.op_type == "Transpose" else None
        if before is not None and _undoes(operator, before):
            operator = onnx.helper.make_node("Identity", before.input[:1], operator.output)
        kept.append(operator)
    needed = outputs.union(*(read(operator) for operator in kept))
    return [each for each in kept if each.op_type != "Transpose" or each.output[0] in needed]


def _undoes(second: onnx.NodeProto, first: onnx.NodeProto) -> bool:
    """Whether two operators Transpose leave every dimension where it was."""
    one, other = (
        next((list(each.ints) for each in node.attribute if each.name == "perm"), []) for node in (first, second)
    )
    return len(one) == len(other) > 0 and [one[dim] for dim in other] == list(range(len(one)))


def _read_by_products_only(operators: Sequence[onnx.NodeProto]) -> set[str]:
    """Tensors that no other operator reads than matrix products."""
    by_others = {name for each in operators if each.op_type not in _PRODUCTS for name in read(each)}
    return {name for each in operators if each.op_type in _PRODUCTS for name in read(each)} - by_others


@dataclass(frozen=True, slots=True)
class _Form:
    """A shape and an element type of onnx."""

    shape: tuple[int, ...]
    kind: int


def _shapes(graph: onnx.GraphProto) -> Iterator[tuple[str, _Form]]:
    """The forms that are known."""
    for tensor in graph.initializer:
        yield tensor.name, _Form(tuple(tensor.dims), tensor.data_type)
    for place in (*graph.value_info, *graph.output, *graph.input):
        kind = place.type.tensor_type
        extents = [extent.dim_value if extent.HasField("dim_value") else None for extent in kind.shape.dim]
        if kind.HasField("shape") and kind.elem_type in _ITEM_BYTES and None not in extents:
            yield place.name, _Form(tuple(extent for extent in extents if extent is not None), kind.elem_type)


def _describe_scans(graph: onnx.GraphProto, known: Mapping[str, _Form]) -> bool:
    """Add what a nested graph makes of its inputs to what is known of ``graph``; whether there was anything new."""
    described, constants = False, {tensor.name: tensor for tensor in graph.initializer}
    for operator in graph.node:
        if operator.op_type == "Scan" and not known.keys() >= set(operator.output):
            for name, form in zip(operator.output, _scanned(operator, known, constants), strict=True):
                if form is not None and name not in known:
                    graph.value_info.append(onnx.helper.make_tensor_value_info(name, form.kind, form.shape))
                    described = True
    return described


def _scanned(
    operator: onnx.NodeProto, known: Mapping[str, _Form], constants: Mapping[str, TensorProto]
) -> list[_Form | None]:
    """The forms of the outputs of a Scan: states as they were, and what is collected in one more dimension."""
    attributes = {attribute.name: attribute for attribute in operator.attribute}
    body, sequences = attributes["body"].g, attributes["num_scan_inputs"].i
    states = len(operator.input) - sequences
    outer = [known.get(name) for name in operator.input]
    length = next((form.shape[0] for form in outer[states:] if form is not None), None)
    if length is None:  # what is scanned follows from a shape that is not settled yet
        return [None] * len(operator.output)
    inner = [
        form and (form if index < states else _Form(form.shape[1:], form.kind)) for index, form in enumerate(outer)
    ]
    given = dict(zip((place.name for place in body.input), inner, strict=True))
    outside = {name for nested in body.node for name in read(nested)} - given.keys()
    given |= {name: known[name] for name in outside - constants.keys() if name in known}
    places = [onnx.helper.make_tensor_value_info(name, form.kind, form.shape) for name, form in given.items() if form]
    outputs = [onnx.helper.make_empty_tensor_value_info(place.name) for place in body.output]
    fixed = [constants[name] for name in sorted(outside & constants.keys())]
    graph = onnx.helper.make_graph(body.node, "body", places, outputs, [*body.initializer, *fixed])
    opset = onnx.helper.make_opsetid("", OPSET)
    found = dict(_shapes(shape_inference.infer_shapes(onnx.helper.make_model(graph, opset_imports=[opset])).graph))
    results = [found.get(place.name) for place in body.output]
    return [
        form and (form if index < states else _Form((length, *form.shape), form.kind))
        for index, form in enumerate(results)
    ]


# Shapes that are computed: their values are computed here, and put into the graph as constants.

_Shapes = Mapping[str, tuple[int, ...]]
_Values = dict[str, NDArray[np.int64]]


def _is_shape(tensor: onnx.TensorProto) -> bool:
    return tensor.data_type == TensorProto.INT64 and math.prod(tensor.dims) <= 16


def _settle(graph: onnx.GraphProto, shapes: _Shapes, values: _Values) -> bool:
    """Make constants of what follows from these shapes and values; whether there was anything new."""
    found = False
    for operator in graph.node:
        if len(operator.output) != 1 or operator.output[0] in values:
            continue
        value = _computed(operator, shapes, values)
        if value is not None:
            values[operator.output[0]] = value
            constant = numpy_helper.from_array(np.asarray(value, np.int64), operator.output[0])
            operator.CopyFrom(onnx.helper.make_node("Constant", [], [operator.output[0]], value=constant))
            found = True
    return found


def _computed(operator: onnx.NodeProto, shapes: _Shapes, values: _Values) -> NDArray[np.int64] | None:
    """An operator's value, if it is one of those that shapes are computed with."""
    kind = operator.op_type
    if kind in ("Shape", "Size"):
        if operator.input[0] not in shapes:
            return None
        shape = np.array(shapes[operator.input[0]], np.int64)
        attributes = {attribute.name: attribute.i for attribute in operator.attribute}
        return np.asarray(shape.prod()) if kind == "Size" else shape[attributes.get("start") : attributes.get("end")]
    if not all(name in values for name in operator.input):
        return None
    inputs = [values[name] for name in operator.input]
    match kind:
        case "Gather":
            return np.asarray(inputs[0][inputs[1]])
        case "Reshape":
            return inputs[0].reshape(inputs[1])
        case "Concat":
            return np.concatenate(inputs)
        case "Add":
            return np.asarray(inputs[0] + inputs[1])
        case "Mul":
            return np.asarray(inputs[0] * inputs[1])
        case "ReduceProd":
            return np.asarray(inputs[0].prod())
    return None
