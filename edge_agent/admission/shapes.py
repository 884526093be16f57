"""What each operator that a board may run makes of the shapes of its inputs. `RULES` is the list of those operators.

Only operators whose results are as large as shapes and constants say are on the list: none of them loops for as long as
a number in the data says, reads a file, or calls something else. They are those that this project writes
(`models.graph`); a new one there needs a rule here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from lamina.edge_agent.admission.onnx_graph import BOOL, FLOAT, INT64, UINT8, Node, Numbers, Tensor
from lamina.models.errors import ModelError

Extents = tuple[int, ...]


_MOST_NUMBERS = 64
"""Numbers in a shape, a list of axes, or what is computed of them: no honest graph has more to look at."""


class TensorFacts(NamedTuple):
    """What is known of a tensor: its extents, its element type, and its content where that is a few whole numbers."""

    shape: Extents
    kind: int
    value: Numbers | None = None


AllFacts = Sequence[TensorFacts | None]
Rule = Callable[[Node, AllFacts], list[TensorFacts]]


def _given(forms: AllFacts, index: int) -> TensorFacts:
    form = forms[index] if index < len(forms) else None
    if form is None:
        raise ModelError(f"lacks its input {index}")
    return form


def _known(forms: AllFacts, index: int, most: int = _MOST_NUMBERS) -> list[int]:
    """The whole numbers that an input holds."""
    value = _given(forms, index).value
    if value is None or value.size > most:
        raise ModelError("makes a shape of data")
    return [int(number) for number in value.reshape(-1)]


def _number(node: Node, name: str, otherwise: int) -> int:
    value = node.attributes.get(name, otherwise)
    if not isinstance(value, int):
        raise ModelError(f"has an attribute {name} that is no number")
    return value


def _numbers(node: Node, name: str, otherwise: Extents) -> Extents:
    value = node.attributes.get(name, otherwise)
    if not isinstance(value, tuple):
        raise ModelError(f"has an attribute {name} that is no list of numbers")
    return value


def _axis(axis: int, rank: int) -> int:
    if not -rank <= axis < max(rank, 1):
        raise ModelError(f"has the axis {axis} of {rank}")
    return axis % max(rank, 1)


def _broadcast(*shapes: Extents) -> Extents:
    rank = max(map(len, shapes))
    result = []
    for extents in zip(*((1,) * (rank - len(shape)) + shape for shape in shapes), strict=True):
        others = {extent for extent in extents if extent != 1} or {1}
        if len(others) > 1:
            raise ModelError("has inputs whose shapes don't go together")
        result.append(others.pop())
    return tuple(result)


def _same(node: Node, forms: AllFacts) -> list[TensorFacts]:
    return [TensorFacts(_given(forms, 0).shape, _given(forms, 0).kind)]


def _passed(node: Node, forms: AllFacts) -> list[TensorFacts]:
    return [_given(forms, 0)]


def _cast(node: Node, forms: AllFacts) -> list[TensorFacts]:
    form, kind = _given(forms, 0), _number(node, "to", 0)
    return [TensorFacts(form.shape, kind, form.value if kind == INT64 else None)]


def _elementwise(node: Node, forms: AllFacts) -> list[TensorFacts]:
    given = [_given(forms, index) for index in range(len(forms))]
    shape = _broadcast(*(form.shape for form in given))
    compute = _COMPUTED.get(node.operator)
    values = [form.value for form in given]
    value = None
    if (
        compute is not None
        and math.prod(shape) <= _MOST_NUMBERS
        and None not in [None if v is None else 0 for v in values]
    ):
        with np.errstate(all="ignore"):
            value = np.asarray(compute(*values), np.int64)
    return [TensorFacts(shape, given[0].kind, value)]


def _quotient(a: Numbers, b: Numbers) -> Numbers:
    if not np.all(b):
        raise ModelError("divides a shape by 0")
    return np.asarray(np.trunc(a / b), np.int64)


def _remainder(a: Numbers, b: Numbers) -> Numbers:
    if not np.all(b):
        raise ModelError("divides a shape by 0")
    return np.asarray(np.mod(a, b), np.int64)


_COMPUTED: dict[str, Callable[..., Numbers]] = {
    "Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": _quotient, "Min": np.minimum, "Max": np.maximum,
    "Mod": _remainder,
}  # fmt: skip


def _compared(node: Node, forms: AllFacts) -> list[TensorFacts]:
    return [TensorFacts(_broadcast(_given(forms, 0).shape, _given(forms, 1).shape), BOOL)]


def _tested(node: Node, forms: AllFacts) -> list[TensorFacts]:
    return [TensorFacts(_given(forms, 0).shape, BOOL)]


def _where(node: Node, forms: AllFacts) -> list[TensorFacts]:
    shapes = [_given(forms, index).shape for index in range(3)]
    return [TensorFacts(_broadcast(*shapes), _given(forms, 1).kind)]


def _reduced(node: Node, forms: AllFacts) -> list[TensorFacts]:
    form = _given(forms, 0)
    axes = _known(forms, 1) if len(forms) > 1 and forms[1] is not None else list(_numbers(node, "axes", ()))
    if not axes and not _number(node, "noop_with_empty_axes", 0):
        axes = list(range(len(form.shape)))
    value = None
    if node.operator == "ReduceProd" and form.value is not None and len(axes) == len(form.shape):
        value = np.full((1,) * len(axes) if _number(node, "keepdims", 1) else (), form.value.prod(), np.int64)
    return [TensorFacts(_without(node, form.shape, axes), form.kind, value)]


def _arg(node: Node, forms: AllFacts) -> list[TensorFacts]:
    return [TensorFacts(_without(node, _given(forms, 0).shape, [_number(node, "axis", 0)]), INT64)]


def _without(node: Node, shape: Extents, axes: Sequence[int]) -> Extents:
    gone = {_axis(axis, len(shape)) for axis in axes}
    kept = _number(node, "keepdims", 1)
    return tuple(1 if place in gone else extent for place, extent in enumerate(shape) if kept or place not in gone)


def _matmul(node: Node, forms: AllFacts) -> list[TensorFacts]:
    a, b = _given(forms, 0).shape, _given(forms, 1).shape
    if not a or not b:
        raise ModelError("multiplies a scalar")
    left, right = a if len(a) > 1 else (1, *a), b if len(b) > 1 else (*b, 1)
    if left[-1] != right[-2]:
        raise ModelError("has inputs whose shapes don't go together")
    result = _broadcast(left[:-2], right[:-2]) if len(left) > 2 or len(right) > 2 else ()
    return [TensorFacts((*result, *left[-2:-1][: len(a) > 1], *right[-1:][: len(b) > 1]), _given(forms, 0).kind)]


def _gemm(node: Node, forms: AllFacts) -> list[TensorFacts]:
    a, b = _given(forms, 0).shape, _given(forms, 1).shape
    if len(a) != 2 or len(b) != 2:
        raise ModelError("multiplies what are no matrices")
    return [TensorFacts((a[_number(node, "transA", 0)], b[1 - _number(node, "transB", 0)]), _given(forms, 0).kind)]


def _window(node: Node, kernel: Extents) -> tuple[Extents, Extents, Extents]:
    """Strides, sums of paddings, and extents of the dilated kernel."""
    rank = len(kernel)
    strides, dilations = _numbers(node, "strides", (1,) * rank), _numbers(node, "dilations", (1,) * rank)
    pads = _numbers(node, "pads", (0,) * 2 * rank)
    if len(strides) != rank or len(dilations) != rank or len(pads) != 2 * rank or min(strides, default=1) < 1:
        raise ModelError("has strides, dilations or pads that no kernel of its rank has")
    if node.attributes.get("auto_pad", "NOTSET") != "NOTSET":
        raise ModelError("pads by itself")
    around = tuple(pads[place] + pads[place + rank] for place in range(rank))
    return strides, around, tuple(step * (extent - 1) + 1 for step, extent in zip(dilations, kernel, strict=True))


def _slid(node: Node, extents: Extents, kernel: Extents) -> Extents:
    """What is left of some extents when a kernel slides over them."""
    strides, around, reach = _window(node, kernel)
    up = _number(node, "ceil_mode", 0)
    return tuple(
        (extent + more - far + (step - 1 if up else 0)) // step + 1
        for extent, more, far, step in zip(extents, around, reach, strides, strict=True)
    )


def _quantised(node: Node, forms: AllFacts) -> list[TensorFacts]:
    """The zero point says which type results have; without one it is the unsigned byte."""
    kind = _given(forms, 2).kind if len(forms) > 2 and forms[2] is not None else UINT8
    return [TensorFacts(_given(forms, 0).shape, kind)]


def _dequantised(node: Node, forms: AllFacts) -> list[TensorFacts]:
    return [TensorFacts(_given(forms, 0).shape, _given(forms, 1).kind)]


def _conv(node: Node, forms: AllFacts) -> list[TensorFacts]:
    x, w = _given(forms, 0).shape, _given(forms, 1).shape
    if len(x) != len(w) or len(x) < 3:
        raise ModelError("convolves what have other ranks")
    return [TensorFacts((x[0], w[0], *_slid(node, x[2:], w[2:])), _given(forms, 0).kind)]


def _conv_transposed(node: Node, forms: AllFacts) -> list[TensorFacts]:
    x, w = _given(forms, 0).shape, _given(forms, 1).shape
    if len(x) != len(w) or len(x) < 3 or "output_shape" in node.attributes:
        raise ModelError("convolves what have other ranks, or to a shape of its own")
    strides, around, reach = _window(node, w[2:])
    rest = _numbers(node, "output_padding", (0,) * len(strides))
    spatial = tuple(
        step * (extent - 1) + more + far - less
        for step, extent, more, far, less in zip(strides, x[2:], rest, reach, around, strict=True)
    )
    return [TensorFacts((x[0], w[1] * _number(node, "group", 1), *spatial), _given(forms, 0).kind)]


def _pooled(node: Node, forms: AllFacts) -> list[TensorFacts]:
    x = _given(forms, 0)
    return [TensorFacts((*x.shape[:2], *_slid(node, x.shape[2:], _numbers(node, "kernel_shape", ()))), x.kind)]


def _largest(node: Node, forms: AllFacts) -> list[TensorFacts]:
    [pooled] = _pooled(node, forms)
    return [pooled, TensorFacts(pooled.shape, INT64)][: len(node.outputs)]


def _normalised(node: Node, forms: AllFacts) -> list[TensorFacts]:
    x, scale = _given(forms, 0), _given(forms, 1)
    return [TensorFacts(x.shape, x.kind), TensorFacts(scale.shape, x.kind), TensorFacts(scale.shape, x.kind)]


def _normalised_back(node: Node, forms: AllFacts) -> list[TensorFacts]:
    x, scale = _given(forms, 1), _given(forms, 2)
    return [TensorFacts(x.shape, x.kind), TensorFacts(scale.shape, x.kind), TensorFacts(scale.shape, x.kind)]


def _conv_back(node: Node, forms: AllFacts) -> list[TensorFacts]:
    x, w = _given(forms, 1), _given(forms, 2)
    return [TensorFacts(x.shape, x.kind), TensorFacts(w.shape, x.kind), TensorFacts(w.shape[:1], x.kind)]


def _reshaped(node: Node, forms: AllFacts) -> list[TensorFacts]:
    form, wanted = _given(forms, 0), _known(forms, 1)
    size = math.prod(form.shape)
    if not _number(node, "allowzero", 0):
        wanted = [form.shape[place] if not extent and place < len(form.shape) else extent
                  for place, extent in enumerate(wanted)]  # fmt: skip
    fixed = math.prod(extent for extent in wanted if extent != -1)
    shape = tuple((size // fixed if fixed else 0) if extent == -1 else extent for extent in wanted)
    if math.prod(shape) != size or wanted.count(-1) > 1 or min(shape, default=0) < 0:
        raise ModelError(f"makes a shape of other elements than the {size} that it is given")
    return [TensorFacts(shape, form.kind, None if form.value is None else form.value.reshape(shape))]


def _transposed(node: Node, forms: AllFacts) -> list[TensorFacts]:
    form = _given(forms, 0)
    order = _numbers(node, "perm", tuple(reversed(range(len(form.shape)))))
    if sorted(order) != list(range(len(form.shape))):
        raise ModelError("has an order of axes that is none")
    return [TensorFacts(tuple(form.shape[place] for place in order), form.kind)]


def _squeezed(node: Node, forms: AllFacts) -> list[TensorFacts]:
    form = _given(forms, 0)
    every = [place for place, extent in enumerate(form.shape) if extent == 1]
    axes = {_axis(axis, len(form.shape)) for axis in (_known(forms, 1) if len(forms) > 1 else every)}
    return _reshape_to(form, tuple(extent for place, extent in enumerate(form.shape) if place not in axes))


def _unsqueezed(node: Node, forms: AllFacts) -> list[TensorFacts]:
    form, axes = _given(forms, 0), _known(forms, 1)
    rank = len(form.shape) + len(axes)
    new, left = {_axis(axis, rank) for axis in axes}, iter(form.shape)
    if len(new) != len(axes):
        raise ModelError("has an axis twice")
    return _reshape_to(form, tuple(1 if place in new else next(left) for place in range(rank)))


def _reshape_to(form: TensorFacts, shape: Extents) -> list[TensorFacts]:
    if math.prod(shape) != math.prod(form.shape):
        raise ModelError("drops an axis that is not 1")
    return [TensorFacts(shape, form.kind, None if form.value is None else form.value.reshape(shape))]


def _flattened(node: Node, forms: AllFacts) -> list[TensorFacts]:
    form, axis = _given(forms, 0), _number(node, "axis", 1)
    return [TensorFacts((math.prod(form.shape[:axis]), math.prod(form.shape[axis:])), form.kind)]


def _joined(node: Node, forms: AllFacts) -> list[TensorFacts]:
    given = [_given(forms, index) for index in range(len(forms))]
    first, axis = given[0].shape, _axis(_number(node, "axis", 0), len(given[0].shape))
    for form in given:
        if form.shape[:axis] + form.shape[axis + 1 :] != first[:axis] + first[axis + 1 :]:
            raise ModelError("joins what have other shapes")
    total = sum(form.shape[axis] for form in given)
    values = [form.value for form in given if form.value is not None]
    joined = np.concatenate(values, axis) if len(values) == len(given) and total <= _MOST_NUMBERS else None
    return [TensorFacts((*first[:axis], total, *first[axis + 1 :]), given[0].kind, joined)]


def _split(node: Node, forms: AllFacts) -> list[TensorFacts]:
    form = _given(forms, 0)
    axis = _axis(_number(node, "axis", 0), len(form.shape))
    extent, count = form.shape[axis], len(node.outputs)
    each = -(-extent // max(count, 1))
    sizes = (
        _known(forms, 1, count)
        if len(forms) > 1
        else [max(0, min(each, extent - each * place)) for place in range(count)]
    )
    if sum(sizes) != extent or min(sizes, default=0) < 0 or len(sizes) != count:
        raise ModelError("splits into other parts than there are")
    return [TensorFacts((*form.shape[:axis], size, *form.shape[axis + 1 :]), form.kind) for size in sizes]


def _sliced(node: Node, forms: AllFacts) -> list[TensorFacts]:
    form, starts, ends = _given(forms, 0), _known(forms, 1), _known(forms, 2)
    axes = _known(forms, 3) if len(forms) > 3 and forms[3] is not None else list(range(len(starts)))
    steps = _known(forms, 4) if len(forms) > 4 else [1] * len(starts)
    parts = [slice(None)] * len(form.shape)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if not step:
            raise ModelError("slices by steps of 0")
        parts[_axis(axis, len(form.shape))] = slice(start, end, step)
    shape = tuple(len(range(*part.indices(extent))) for part, extent in zip(parts, form.shape, strict=True))
    return [TensorFacts(shape, form.kind, None if form.value is None else form.value[tuple(parts)])]


def _expanded(node: Node, forms: AllFacts) -> list[TensorFacts]:
    form = _given(forms, 0)
    return [TensorFacts(_broadcast(form.shape, tuple(_known(forms, 1))), form.kind)]


def _tiled(node: Node, forms: AllFacts) -> list[TensorFacts]:
    form, repeats = _given(forms, 0), _known(forms, 1)
    return [TensorFacts(tuple(extent * times for extent, times in zip(form.shape, repeats, strict=True)), form.kind)]


def _padded(node: Node, forms: AllFacts) -> list[TensorFacts]:
    form, pads = _given(forms, 0), _known(forms, 1)
    axes = _known(forms, 3) if len(forms) > 3 else list(range(len(form.shape)))
    if len(pads) != 2 * len(axes):
        raise ModelError("has other pads than axes")
    shape = list(form.shape)
    for place, axis in enumerate(axes):
        shape[_axis(axis, len(shape))] += pads[place] + pads[place + len(axes)]
    return [TensorFacts(tuple(shape), form.kind)]


def _gathered(node: Node, forms: AllFacts) -> list[TensorFacts]:
    form, indices = _given(forms, 0), _given(forms, 1)
    axis = _axis(_number(node, "axis", 0), len(form.shape))
    value = None
    if form.value is not None and indices.value is not None and form.value.ndim == 1:
        if form.value.size == 0 or np.abs(indices.value).max(initial=0) > form.value.size:
            raise ModelError("gathers from beyond a shape")
        value = np.take(form.value, indices.value, mode="wrap")
    return [TensorFacts((*form.shape[:axis], *indices.shape, *form.shape[axis + 1 :]), form.kind, value)]


def _gathered_elements(node: Node, forms: AllFacts) -> list[TensorFacts]:
    return [TensorFacts(_given(forms, 1).shape, _given(forms, 0).kind)]


def _ranged(node: Node, forms: AllFacts) -> list[TensorFacts]:
    [start], [limit], [step] = (_known(forms, index) for index in range(3))
    if not step:
        raise ModelError("counts by steps of 0")
    length = len(range(start, limit, step))
    value = np.arange(start, limit, step) if length <= _MOST_NUMBERS else None
    return [TensorFacts((length,), _given(forms, 0).kind, value)]


def _shape_of(node: Node, forms: AllFacts) -> list[TensorFacts]:
    shape = _given(forms, 0).shape
    end = node.attributes.get("end")
    value = np.array(shape[_number(node, "start", 0) : end if isinstance(end, int) else None], np.int64)
    return [TensorFacts(value.shape, INT64, value)]


def _size_of(node: Node, forms: AllFacts) -> list[TensorFacts]:
    return [TensorFacts((), INT64, np.array(min(math.prod(_given(forms, 0).shape), 2**62), np.int64))]


def _top(node: Node, forms: AllFacts) -> list[TensorFacts]:
    form, [k] = _given(forms, 0), _known(forms, 1)
    axis = _axis(_number(node, "axis", -1), len(form.shape))
    shape = (*form.shape[:axis], k, *form.shape[axis + 1 :])
    return [TensorFacts(shape, form.kind), TensorFacts(shape, INT64)]


def _one_hot(node: Node, forms: AllFacts) -> list[TensorFacts]:
    indices, [depth] = _given(forms, 0), _known(forms, 1)
    axis = _axis(_number(node, "axis", -1), len(indices.shape) + 1)
    return [TensorFacts((*indices.shape[:axis], depth, *indices.shape[axis:]), _given(forms, 2).kind)]


def _filled(node: Node, forms: AllFacts) -> list[TensorFacts]:
    tensor = node.attributes.get("value")
    return [TensorFacts(tuple(_known(forms, 0)), tensor.kind if isinstance(tensor, Tensor) else FLOAT)]


def _averaged(node: Node, forms: AllFacts) -> list[TensorFacts]:
    x = _given(forms, 0)
    return [TensorFacts((*x.shape[:2], *(1 for _ in x.shape[2:])), x.kind)]


def _normalised_layer(node: Node, forms: AllFacts) -> list[TensorFacts]:
    x = _given(forms, 0)
    axis = _axis(_number(node, "axis", -1), len(x.shape))
    kept = TensorFacts((*x.shape[:axis], *(1 for _ in x.shape[axis:])), x.kind)
    return [TensorFacts(x.shape, x.kind), kept, kept]


def _constant(node: Node, forms: AllFacts) -> list[TensorFacts]:
    tensor = node.attributes.get("value")
    if not isinstance(tensor, Tensor) or tensor.outside:
        raise ModelError("has no value of its own")
    return [TensorFacts(tensor.shape, tensor.kind, tensor.value)]


def facts_made(node: Node, forms: AllFacts) -> list[TensorFacts]:
    """Say what is known of an operator's outputs.

    Raises:
        ModelError: the operator is not on the list, or its inputs don't suit it.
    """
    if node.operator not in RULES:
        raise ModelError("is not among the operators that a board runs")
    made = RULES[node.operator](node, forms)
    return made if node.operator == "Constant" else [_of_few(form) for form in made]


def _of_few(form: TensorFacts) -> TensorFacts:
    """Leave the content out where that is more than what shapes are computed of."""
    return form if form.value is None or form.value.size <= _MOST_NUMBERS else form._replace(value=None)


def _all(rule: Rule, *operators: str) -> dict[str, Rule]:
    return dict.fromkeys(operators, rule)


RULES: dict[str, Rule] = {
    **_all(_same, "Celu", "Elu", "HardSwish", "Hardmax", "LeakyRelu", "Mish", "Selu", "Softplus", "Softsign",
           "Trilu", "InstanceNormalization", "Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Ceil",
           "Clip", "Cos", "Cosh", "CumSum", "Erf", "Exp", "Floor", "HardSigmoid", "Log", "LogSoftmax", "Neg",
           "Not", "Reciprocal", "Relu", "Round", "ScatterElements", "ScatterND", "Sigmoid", "Sign", "Sin",
           "Sinh", "Softmax", "Sqrt", "Tan", "Tanh"),
    **_all(_tested, "IsInf", "IsNaN"),
    **_all(_passed, "Identity", "com.microsoft.nchwc.ReorderInput", "com.microsoft.nchwc.ReorderOutput"),
    "BitwiseNot": _same,
    **_all(_elementwise, "Add", "And", "BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Div", "Max", "Min", "Mod",
           "Mul", "Or", "Pow", "PRelu", "Sub", "Sum", "Mean", "Xor"),
    **_all(_compared, "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"),
    **_all(_reduced, "ReduceL1", "ReduceL2", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd",
           "ReduceSum", "ReduceSumSquare"),
    **_all(_arg, "ArgMax", "ArgMin"),
    **_all(_conv, "Conv", "com.microsoft.nchwc.Conv"),
    "AveragePool": _pooled,
    "BatchNormalization": _normalised,
    "Cast": _cast,
    "ConstantOfShape": _filled,
    "GlobalAveragePool": _averaged,
    "GlobalMaxPool": _averaged,
    "LayerNormalization": _normalised_layer,
    "OneHot": _one_hot,
    "Concat": _joined,
    "QuantizeLinear": _quantised,
    "DequantizeLinear": _dequantised,
    "Constant": _constant,
    "ConvTranspose": _conv_transposed,
    "Expand": _expanded,
    "Flatten": _flattened,
    "Gather": _gathered,
    "GatherElements": _gathered_elements,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "MaxPool": _largest,
    "Pad": _padded,
    "Range": _ranged,
    "Reshape": _reshaped,
    "Shape": _shape_of,
    "Size": _size_of,
    "Slice": _sliced,
    "Split": _split,
    "Squeeze": _squeezed,
    "Tile": _tiled,
    "TopK": _top,
    "Transpose": _transposed,
    "Unsqueeze": _unsqueezed,
    "Where": _where,
    "com.microsoft.BatchNormalizationGrad": _normalised_back,
    "com.microsoft.ConvGrad": _conv_back,
}  # fmt: skip
"""Rules by operator; the only one without is Scan, which has a graph of its own."""
