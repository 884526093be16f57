"""Rules for operators that move elements and do not change them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lamina.models.errors import ModelError
from lamina.models.graph.registry import rule
from lamina.models.graph.values import Batched, Call, Value, extents, reshaped, static
from lamina.models.graph.writer import GraphWriter

# A slice without an end has this one.
_WITHOUT_END = 2**62


@rule("view", "_unsafe_view", "reshape", "squeeze", "unsqueeze", "_reshape_copy", "view_copy")
def view(g: GraphWriter, call: Call, x: Value, *shape: object) -> str:
    """The same elements in another shape."""
    return x if x.shape == call.shape else reshaped(g, x, call.shape)


@rule("permute")
def permute(g: GraphWriter, call: Call, x: Value, dims: Sequence[int]) -> str:
    """Dimensions in another order."""
    return g.Transpose(x, perm=[dim % len(x.shape) for dim in dims])


@rule("transpose", "t")
def transpose(g: GraphWriter, call: Call, x: Value, dim0: int = 0, dim1: int = 1) -> str:
    """Two dimensions swapped."""
    order = list(range(len(x.shape)))
    if order:
        order[dim0], order[dim1] = order[dim1], order[dim0]
    return x if order == sorted(order) else g.Transpose(x, perm=order)


@rule("expand")
def expand(g: GraphWriter, call: Call, x: Value, size: object, implicit: bool = False) -> str:
    """X repeated along dimensions of extent 1."""
    return x if x.shape == call.shape else g.Expand(x, extents(g, call.shape))


@rule("repeat")
def repeat(g: GraphWriter, call: Call, x: Value, repeats: Sequence[int | Value]) -> str:
    """X repeated along every dimension."""
    leading = [1] * (len(repeats) - len(x.shape))
    return g.Tile(reshaped(g, x, (*leading, *x.shape)), _vector(g, repeats))


@rule("cat")
def cat(g: GraphWriter, call: Call, tensors: Sequence[Value], dim: int = 0) -> str:
    """Tensors one after another."""
    return g.Concat(*tensors, axis=dim)


@rule("select")
def select(g: GraphWriter, call: Call, x: Value, dim: int, index: int) -> str:
    """One element along a dimension, which goes."""
    return g.Gather(x, index, axis=dim)


@rule("index_select")
def index_select(g: GraphWriter, call: Call, x: Value, dim: int, index: Value) -> str:
    """Some elements along a dimension."""
    return g.Gather(x, index, axis=dim)


@rule("slice.Tensor")
def slice_(
    g: GraphWriter, call: Call, x: Value, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> str:
    """Write the elements from start to end, every step-th."""
    if x.shape == call.shape:
        return x
    return g.Slice(x, [start or 0], [_WITHOUT_END if end is None else min(end, _WITHOUT_END)], [dim], [step])


@rule("slice_backward")
def slice_backward(
    g: GraphWriter, call: Call, dy: Value, input_sizes: object, dim: int, start: int, end: int, step: int
) -> str:
    """Dy in place of a slice of zeros."""
    if dy.shape == call.shape:
        return dy
    rank = len(call.shape)
    (extent,) = static([call.shape[dim]])
    kept = range(*slice(start, end, step).indices(extent))
    if step == 1:
        return g.Pad(dy, _margins(rank, dim % rank, kept.start, extent - kept.start - len(kept)))
    zero = g.Pad(dy, _margins(rank, dim % rank, 0, 1))
    return g.Gather(zero, [kept.index(i) if i in kept else len(kept) for i in range(extent)], axis=dim)


@rule("select_backward")
def select_backward(g: GraphWriter, call: Call, dy: Value, input_sizes: object, dim: int, index: int) -> str:
    """Dy in place of one element along a dimension, zeros elsewhere."""
    rank = len(call.shape)
    (extent,) = static([call.shape[dim]])
    before = index % extent
    return g.Pad(g.Unsqueeze(dy, [dim % rank]), _margins(rank, dim % rank, before, extent - before - 1))


@rule("slice_scatter")
def slice_scatter(
    g: GraphWriter,
    call: Call,
    x: Value,
    source: Value,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> str:
    """X with the source in place of a slice."""
    if source.shape == x.shape and step == 1:
        return source
    (extent,) = static([x.shape[dim]])
    return _replaced(g, x, source, dim, range(*slice(start, end, step).indices(extent)), extent)


@rule("select_scatter")
def select_scatter(g: GraphWriter, call: Call, x: Value, source: Value, dim: int, index: int) -> str:
    """X with the source in place of one element along a dimension."""
    (extent,) = static([x.shape[dim]])
    begin = index % extent
    return _replaced(g, x, g.Unsqueeze(source, [dim]), dim, range(begin, begin + 1), extent)


@rule("split", "split_with_sizes", "unsafe_split", "chunk")
def split(g: GraphWriter, call: Call, x: Value, size: object, dim: int = 0) -> tuple[str, ...]:
    """Consecutive pieces."""
    sizes = static([result.shape[dim] for result in call.results])
    return g.many("Split", len(sizes), x, sizes, axis=dim) if len(sizes) > 1 else (x,)


@rule("unbind")
def unbind(g: GraphWriter, call: Call, x: Value, dim: int = 0) -> tuple[str, ...]:
    """Every element along a dimension, which goes."""
    return tuple(g.Gather(x, index, axis=dim) for index in range(len(call.results)))


@rule("unfold")
def unfold(g: GraphWriter, call: Call, x: Value, dimension: int, size: int, step: int) -> str:
    """Windows along a dimension, which lie along a new last one."""
    rank, dim = len(x.shape), dimension % len(x.shape)
    (extent,) = static([x.shape[dim]])
    starts = range(0, extent - size + 1, step)
    windows = g.constant([list(range(start, start + size)) for start in starts], "int64")
    gathered = g.Gather(x, windows, axis=dim)  # (..., windows, size, ...)
    return g.Transpose(gathered, perm=[*(axis for axis in range(rank + 1) if axis != dim + 1), dim + 1])


@rule("flip")
def flip(g: GraphWriter, call: Call, x: Value, dims: Sequence[int]) -> str:
    """The other way round."""
    backwards = [-1] * len(dims)
    return g.Slice(x, backwards, [-_WITHOUT_END] * len(dims), list(dims), backwards)


@rule("roll")
def roll(g: GraphWriter, call: Call, x: Value, shifts: Sequence[int], dims: Sequence[int] = ()) -> str:
    """Moved along dimensions; what leaves at one end enters at the other."""
    if not dims:
        raise ModelError("roll needs dims")
    result: str = x
    for shift, dim in zip(shifts, dims, strict=True):
        (extent,) = static([x.shape[dim]])
        at = -shift % extent
        ends = g.Slice(result, [at], [extent], [dim]), g.Slice(result, [0], [at], [dim])
        result = g.Concat(*ends, axis=dim)
    return result


@rule("constant_pad_nd")
def pad(g: GraphWriter, call: Call, x: Value, pad: Sequence[int], value: float = 0.0) -> str:
    """X with a margin; ``pad`` begins with the last dimension."""
    rest = [0] * (len(x.shape) - len(pad) // 2)
    before, after = rest + list(pad[0::2])[::-1], rest + list(pad[1::2])[::-1]
    return g.Pad(x, before + after, float(value))


@rule("gather")
def gather(g: GraphWriter, call: Call, x: Value, dim: int, index: Value, sparse_grad: bool = False) -> str:
    """Elements of x at indices along a dimension."""
    return g.GatherElements(x, index, axis=dim)


@rule("arange")
def arange(g: GraphWriter, call: Call, *bounds: float, **options: object) -> str:
    """Numbers from start to end."""
    static(call.shape)
    return g.constant(np.arange(*bounds), call.dtype)


@rule("sym_size")
def size(g: GraphWriter, call: Call, x: Value, dim: int) -> str:
    """An extent that depends on the batch."""
    extent = x.shape[dim]
    return g.Mul(g.batch(), extent.times) if isinstance(extent, Batched) else g.constant(extent, "int64")


@rule("sym_numel")
def number_of_elements(g: GraphWriter, call: Call, x: Value) -> str:
    """How many elements there are, where that depends on the batch."""
    return g.Size(x)


def _vector(g: GraphWriter, numbers: Sequence[int | Value]) -> str:
    """Numbers, of which some may depend on the batch, as an int64 vector."""
    if not any(isinstance(number, Value) for number in numbers):
        return g.constant(list(numbers), "int64")
    return g.Concat(*(g.Reshape(n, [1]) if isinstance(n, Value) else [n] for n in numbers), axis=0)


def _margins(rank: int, dim: int, before: int, after: int) -> list[int]:
    """The pads of a margin along one dimension."""
    margins = [0] * (2 * rank)
    margins[dim], margins[rank + dim] = before, after
    return margins


def _replaced(g: GraphWriter, x: str, source: str, dim: int, replaced: range, extent: int) -> str:
    """X with the elements of the source in place of those at ``replaced`` along a dimension."""
    origins = [extent + replaced.index(i) if i in replaced else i for i in range(extent)]
    return g.Gather(g.Concat(x, source, axis=dim), origins, axis=dim)
