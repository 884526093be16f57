"""Rules for sums, products, means and extrema over dimensions."""

from __future__ import annotations

from collections.abc import Sequence

from lamina.models.graph.registry import rule
from lamina.models.graph.rules.elementwise import cast
from lamina.models.graph.rules.ranks import along_dimensions
from lamina.models.graph.values import Call, Value, count, reshaped, static
from lamina.models.graph.writer import ELEMENT_TYPES, GraphWriter

_NOT_COMPARED = ("bool", "uint8")  # by ONNX Runtime


@rule("sum", "mean")
def sum_or_mean(
    g: GraphWriter,
    call: Call,
    x: Value,
    dim: Sequence[int] | int | None = None,
    keepdim: bool = False,
    dtype: object = None,
) -> str:
    """Sum or mean over some dimensions, or over all."""
    operator = "ReduceSum" if call.packet == "sum" else "ReduceMean"
    axes = _axes(dim)
    if not x.shape:
        return cast(g, x, call.dtype)
    result: str = getattr(g, operator)(cast(g, x, call.dtype), axes, keepdims=int(keepdim))
    return result


@rule("prod")
def product(
    g: GraphWriter, call: Call, x: Value, dim: int | None = None, keepdim: bool = False, dtype: object = None
) -> str:
    """Product over one dimension, or over all."""
    if not x.shape:
        return cast(g, x, call.dtype)
    return g.ReduceProd(cast(g, x, call.dtype), _axes(dim), keepdims=int(keepdim))


@rule("amax", "amin")
@along_dimensions
def extremum(g: GraphWriter, call: Call, x: Value, dim: Sequence[int] = (), keepdim: bool = False) -> str:
    """Largest or smallest element over some dimensions."""
    operator = "ReduceMax" if call.packet == "amax" else "ReduceMin"
    return _as_before(g, x, getattr(g, operator)(_comparable(g, x), _axes(dim), keepdims=int(keepdim)))


@rule("all", "any")
@along_dimensions
def quantifier(
    g: GraphWriter, call: Call, x: Value, dim: Sequence[int] | int | None = None, keepdim: bool = False
) -> str:
    """Whether all elements over some dimensions are true, or any."""
    numbers = g.Cast(cast(g, x, "bool"), to=ELEMENT_TYPES["int32"])
    operator = "ReduceMin" if call.packet == "all" else "ReduceMax"
    return g.Cast(getattr(g, operator)(numbers, _axes(dim), keepdims=int(keepdim)), to=ELEMENT_TYPES["bool"])


@rule("max.default", "min.default")
@along_dimensions
def extremum_of_all(g: GraphWriter, call: Call, x: Value) -> str:
    """Largest or smallest element."""
    operator = g.ReduceMax if call.packet == "max" else g.ReduceMin
    return _as_before(g, x, operator(_comparable(g, x), keepdims=0))


@rule("max.dim", "min.dim")
@along_dimensions
def extremum_with_index(g: GraphWriter, call: Call, x: Value, dim: int, keepdim: bool = False) -> tuple[str, str]:
    """Largest or smallest element along a dimension, and its index."""
    value, index = ("ReduceMax", "ArgMax") if call.packet == "max" else ("ReduceMin", "ArgMin")
    largest = getattr(g, value)(_comparable(g, x), [dim], keepdims=int(keepdim))
    found = getattr(g, index)(_searchable(g, x), axis=dim, keepdims=int(keepdim))
    return _as_before(g, x, largest), found


@rule("topk")
@along_dimensions
def topk(
    g: GraphWriter,
    call: Call,
    x: Value,
    k: int,
    dim: int = -1,
    largest: bool = True,
    sorted: bool = True,  # noqa: A002 - aten's name
) -> tuple[str, ...]:
    """The k largest or smallest elements along a dimension, and their indices."""
    values, indices = g.many("TopK", 2, _comparable(g, x), [k], axis=dim, largest=int(largest), sorted=int(sorted))
    return _as_before(g, x, values), indices


@rule("sort")
@along_dimensions
def sort(
    g: GraphWriter, call: Call, x: Value, dim: int = -1, descending: bool = False, stable: bool | None = None
) -> tuple[str, ...]:
    """All elements along a dimension in order, and their indices; equals stay in theirs."""
    extent = static([x.shape[dim]])
    values, indices = g.many("TopK", 2, _comparable(g, x), extent, axis=dim, largest=int(descending), sorted=1)
    return _as_before(g, x, values), indices


@rule("argmax", "argmin")
@along_dimensions
def index_of_extremum(g: GraphWriter, call: Call, x: Value, dim: int | None = None, keepdim: bool = False) -> str:
    """Index of the largest or smallest element along a dimension, or in the order of all elements."""
    numbers = _searchable(g, x)
    operator = g.ArgMax if call.packet == "argmax" else g.ArgMin
    if dim is None:
        return reshaped(g, operator(g.Reshape(numbers, [-1]), axis=0, keepdims=0), call.shape)
    return operator(numbers, axis=dim, keepdims=int(keepdim))


@rule("var", "var_mean")
@along_dimensions
def variance(
    g: GraphWriter,
    call: Call,
    x: Value,
    dim: Sequence[int] | None = None,
    correction: float | None = 1,
    keepdim: bool = False,
) -> str | tuple[str, str]:
    """Variance over some dimensions, with its divisor lowered by the correction; and the mean."""
    dims = list(range(len(x.shape))) if not dim else [d % len(x.shape) for d in dim]
    mean = g.ReduceMean(x, dims, keepdims=1)
    centred = g.Sub(x, mean)
    squares = g.ReduceSum(g.Mul(centred, centred), dims, keepdims=int(keepdim))
    n = count(g, [x.shape[d] for d in dims])
    lowered = 1.0 if correction is None else float(correction)
    divisor = max(n - lowered, 0.0) if isinstance(n, float) else g.Max(g.Sub(n, lowered), 0.0)
    variance = g.Div(squares, divisor)
    return variance if call.packet == "var" else (variance, mean if keepdim else g.Squeeze(mean, dims))


@rule("cumsum")
@along_dimensions
def cumsum(g: GraphWriter, call: Call, x: Value, dim: int, dtype: object = None) -> str:
    """Running sum along a dimension."""
    return g.CumSum(cast(g, x, call.dtype), dim)


def _comparable(g: GraphWriter, x: Value) -> str:
    """X in an element type that ONNX Runtime compares and sorts."""
    return cast(g, x, "int32") if x.dtype in _NOT_COMPARED else x


def _searchable(g: GraphWriter, x: Value) -> str:
    """X in an element type in which ONNX Runtime finds the place of an extremum."""
    return cast(g, x, "float64") if x.dtype == "int64" else _comparable(g, x)


def _as_before(g: GraphWriter, x: Value, result: str) -> str:
    """The result in the element type of x, if it was compared in another."""
    return g.Cast(result, to=ELEMENT_TYPES[x.dtype]) if x.dtype in _NOT_COMPARED else result


def _axes(dim: Sequence[int] | int | None) -> list[int] | None:
    """The axes of a reduction; None are all."""
    if isinstance(dim, int):
        return [dim]
    return list(dim) if dim else None
