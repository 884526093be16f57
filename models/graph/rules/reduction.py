"""Rules for sums, products, means and extrema over dimensions."""

from __future__ import annotations

from collections.abc import Sequence

from lamina.models.graph.registry import rule
from lamina.models.graph.rules.elementwise import cast
from lamina.models.graph.values import Call, Value, count, static
from lamina.models.graph.writer import ELEMENT_TYPES, GraphWriter


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
def extremum(g: GraphWriter, call: Call, x: Value, dim: Sequence[int] = (), keepdim: bool = False) -> str:
    """Largest or smallest element over some dimensions."""
    operator = "ReduceMax" if call.packet == "amax" else "ReduceMin"
    result: str = getattr(g, operator)(x, _axes(dim), keepdims=int(keepdim))
    return result


@rule("all", "any")
def quantifier(
    g: GraphWriter, call: Call, x: Value, dim: Sequence[int] | int | None = None, keepdim: bool = False
) -> str:
    """Whether all elements over some dimensions are true, or any."""
    numbers = g.Cast(cast(g, x, "bool"), to=ELEMENT_TYPES["int32"])
    operator = "ReduceMin" if call.packet == "all" else "ReduceMax"
    return g.Cast(getattr(g, operator)(numbers, _axes(dim), keepdims=int(keepdim)), to=ELEMENT_TYPES["bool"])


@rule("max.dim", "min.dim")
def extremum_with_index(g: GraphWriter, call: Call, x: Value, dim: int, keepdim: bool = False) -> tuple[str, str]:
    """Largest or smallest element along a dimension, and its index."""
    value, index = ("ReduceMax", "ArgMax") if call.packet == "max" else ("ReduceMin", "ArgMin")
    return getattr(g, value)(x, [dim], keepdims=int(keepdim)), getattr(g, index)(x, axis=dim, keepdims=int(keepdim))


@rule("topk")
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
    return g.many("TopK", 2, x, [k], axis=dim, largest=int(largest), sorted=int(sorted))


@rule("sort")
def sort(g: GraphWriter, call: Call, x: Value, dim: int = -1, descending: bool = False) -> tuple[str, ...]:
    """All elements along a dimension in order, and their indices."""
    return g.many("TopK", 2, x, static([x.shape[dim]]), axis=dim, largest=int(descending), sorted=1)


@rule("argmax")
def argmax(g: GraphWriter, call: Call, x: Value, dim: int = 0, keepdim: bool = False) -> str:
    """Index of the largest element along a dimension."""
    return g.ArgMax(x, axis=dim, keepdims=int(keepdim))


@rule("var", "var_mean")
def variance(
    g: GraphWriter,
    call: Call,
    x: Value,
    dim: Sequence[int] | None = None,
    correction: float | None = 1,
    keepdim: bool = False,
) -> str | tuple[str, str]:
    """Variance over some dimensions, with its divisor lowered by the correction; and the mean."""
    dims = list(range(len(x.shape))) if dim is None else [d % len(x.shape) for d in dim]
    mean = g.ReduceMean(x, dims, keepdims=1)
    centred = g.Sub(x, mean)
    squares = g.ReduceSum(g.Mul(centred, centred), dims, keepdims=int(keepdim))
    n = count(g, [x.shape[d] for d in dims])
    divisor = n - (correction or 0) if isinstance(n, float) else g.Sub(n, float(correction or 0))
    variance = g.Div(squares, divisor)
    return variance if call.packet == "var" else (variance, mean if keepdim else g.Squeeze(mean, dims))


@rule("cumsum")
def cumsum(g: GraphWriter, call: Call, x: Value, dim: int) -> str:
    """Running sum along a dimension."""
    return g.CumSum(cast(g, x, call.dtype), dim)


def _axes(dim: Sequence[int] | int | None) -> list[int] | None:
    """The axes of a reduction; None are all."""
    if isinstance(dim, int):
        return [dim]
    return list(dim) if dim else None
