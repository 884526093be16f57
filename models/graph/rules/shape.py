"""Rules for operators that move elements and do not change them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lamina.models.graph.registry import rule
from lamina.models.graph.rules.elementwise import cast
from lamina.models.graph.rules.ranks import along_dimensions
from lamina.models.graph.values import Batched, Call, Extent, Value, extents, reshaped, static
from lamina.models.graph.writer import ELEMENT_TYPES, GraphWriter

# A slice without an end has this one.
_WITHOUT_END = 2**62


@rule("view", "_unsafe_view", "reshape", "squeeze", "unsqueeze", "_reshape_copy", "view_copy")
def view(g: GraphWriter, call: Call, x: Value, *shape: object) -> str:
    """The same elements in another shape."""
    return x if x.shape == call.shape else reshaped(g, x, call.shape)


@rule("permute", "transpose.default")
def permute(g: GraphWriter, call: Call, x: Value, dims: Sequence[int]) -> str:
    """Dimensions in another order."""
    return g.Transpose(x, perm=[dim % len(x.shape) for dim in dims]) if x.shape else x


@rule("transpose.int", "t")
def transpose(g: GraphWriter, call: Call, x: Value, dim0: int = 0, dim1: int = 1) -> str:
    """Two dimensions swapped."""
    order = list(range(len(x.shape)))
    if len(order) == 2 or (order and call.packet != "t"):
        order[dim0], order[dim1] = order[dim1], order[dim0]
    return x if order == sorted(order) else g.Transpose(x, perm=order)


@rule("expand")
def expand(g: GraphWriter, call: Call, x: Value, size: object, implicit: bool = False) -> str:
    """X repeated along dimensions of extent 1."""
    return x if x.shape == call.shape else g.Expand(x, extents(g, call.shape))


@rule("broadcast_in_dim")
def broadcast_in_dim(g: GraphWriter, call: Call, x: Value, shape: object, broadcast_dimensions: Sequence[int]) -> str:
    """X repeated along new dimensions; which are its own is said."""
    kept = list(broadcast_dimensions)
    own: list[Extent] = [x.shape[kept.index(dim)] if dim in kept else 1 for dim in range(len(call.shape))]
    return g.Expand(reshaped(g, x, own), extents(g, call.shape))


@rule("repeat")
def repeat(g: GraphWriter, call: Call, x: Value, repeats: Sequence[int | Value]) -> str:
    """X repeated along every dimension."""
    leading = [1] * (len(repeats) - len(x.shape))
    return g.Tile(reshaped(g, x, (*leading, *x.shape)), _vector(g, repeats))


@rule("cat")
def cat(g: GraphWriter, call: Call, tensors: Sequence[Value], dim: int = 0) -> str:
    """Tensors one after another."""
    rank = len(call.shape)
    kept = [cast(g, each, call.dtype) for each in tensors if len(each.shape) == rank]  # torch skips an empty vector
    return g.Concat(*kept, axis=dim)


@rule("select")
def select(g: GraphWriter, call: Call, x: Value, dim: int, index: int) -> str:
    """One element along a dimension, which goes."""
    return g.Gather(x, index, axis=dim)


@rule("index_select")
@along_dimensions
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
@along_dimensions
def unfold(g: GraphWriter, call: Call, x: Value, dimension: int, size: int, step: int) -> str:
    """Windows along a dimension, which lie along a new last one."""
    rank, dim = len(x.shape), dimension % len(x.shape)
    (extent,) = static([x.shape[dim]])
    starts = range(0, extent - size + 1, step)
    windows = g.constant([list(range(start, start + size)) for start in starts], "int64")
    gathered = g.Gather(x, windows, axis=dim)  # (..., windows, size, ...)
    return g.Transpose(gathered, perm=[*(axis for axis in range(rank + 1) if axis != dim + 1), dim + 1])


@rule("flip", "rev")
def flip(g: GraphWriter, call: Call, x: Value, dims: Sequence[int]) -> str:
    """The other way round."""
    if not dims or not x.shape:
        return x
    backwards = [-1] * len(dims)
    return g.Slice(x, backwards, [-_WITHOUT_END] * len(dims), list(dims), backwards)


@rule("roll")
def roll(g: GraphWriter, call: Call, x: Value, shifts: Sequence[int], dims: Sequence[int] = ()) -> str:
    """Moved along dimensions; what leaves at one end enters at the other."""
    if not dims:
        return reshaped(g, _rolled(g, g.Reshape(x, [-1]), shifts[0], 0, math.prod(static(x.shape))), x.shape)
    result: str = x
    for shift, dim in zip(shifts, dims, strict=True):
        result = _rolled(g, result, shift, dim, x.shape[dim])
    return result


@rule("constant_pad_nd")
def pad(g: GraphWriter, call: Call, x: Value, pad: Sequence[int], value: float = 0.0) -> str:
    """X with a margin; ``pad`` begins with the last dimension."""
    rest = [0] * (len(x.shape) - len(pad) // 2)
    before, after = rest + list(pad[0::2])[::-1], rest + list(pad[1::2])[::-1]
    return g.Pad(x, before + after, g.constant(value, x.dtype))


@rule("gather")
@along_dimensions
def gather(g: GraphWriter, call: Call, x: Value, dim: int, index: Value, sparse_grad: bool = False) -> str:
    """Elements of x at indices along a dimension."""
    return g.GatherElements(x, index, axis=dim)


@rule("arange")
def arange(g: GraphWriter, call: Call, *bounds: float | Value, **options: object) -> str:
    """Numbers from start to end, which may depend on the batch."""
    start, end, *step = bounds if len(bounds) > 1 else (0, *bounds)
    return _numbers(g, call, start, end, step[0] if step else 1)


@rule("iota")
def iota(g: GraphWriter, call: Call, length: int | Value, *, start: int = 0, step: int = 1, **options: object) -> str:
    """So many numbers from a start."""
    if isinstance(length, Value):
        return g.Range(start, g.Add(g.Mul(length, step), start), step)
    return g.constant(start + step * np.arange(length), call.dtype)


@rule("diagonal", "diagonal_copy")
def diagonal(g: GraphWriter, call: Call, x: Value, offset: int = 0, dim1: int = 0, dim2: int = 1) -> str:
    """Elements whose indices in two dimensions differ by the offset, along a new last dimension."""
    plane = Plane.of(x, offset, dim1, dim2)
    return g.Gather(plane.flat(g, x), plane.places, axis=-1)


@rule("diagonal_scatter")
def diagonal_scatter(
    g: GraphWriter, call: Call, x: Value, source: Value, offset: int = 0, dim1: int = 0, dim2: int = 1
) -> str:
    """X with the source in place of a diagonal."""
    plane = Plane.of(x, offset, dim1, dim2)
    rows, columns = plane.extents
    origins = list(range(rows * columns))
    for index, place in enumerate(plane.places):
        origins[place] = rows * columns + index
    flat = g.Gather(g.Concat(plane.flat(g, x), source, axis=-1), origins, axis=-1)
    raised = reshaped(g, flat, (*(x.shape[dim] for dim in plane.others), rows, columns))
    order = [*plane.others, *plane.dims]
    return g.Transpose(raised, perm=[order.index(dim) for dim in range(len(order))])


@rule("diagonal_backward")
def diagonal_backward(
    g: GraphWriter, call: Call, dy: Value, input_sizes: object, offset: int, dim1: int, dim2: int
) -> str:
    """Dy in place of a diagonal of zeros."""
    zeros = Value(g.Expand(g.constant(0, call.dtype), extents(g, call.shape)), call.shape, call.dtype)
    return diagonal_scatter(g, call, zeros, dy, offset, dim1, dim2)


@dataclass(frozen=True)
class Plane:
    """Two dimensions of a tensor, in which a diagonal lies.

    Attributes:
        dims: the two.
        others: all others.
        extents: of the two.
        places: of the diagonal's elements, in the order of all elements of the plane.
    """

    dims: tuple[int, int]
    others: tuple[int, ...]
    extents: tuple[int, int]
    places: list[int]

    @staticmethod
    def of(x: Value, offset: int, dim1: int, dim2: int) -> Plane:
        """The plane of x's dimensions ``dim1`` and ``dim2``."""
        rank = len(x.shape)
        dims = dim1 % rank, dim2 % rank
        rows, columns = static([x.shape[dim] for dim in dims])
        places = [row * columns + row + offset for row in range(rows) if 0 <= row + offset < columns]
        return Plane(dims, tuple(dim for dim in range(rank) if dim not in dims), (rows, columns), places)

    def flat(self, g: GraphWriter, x: Value) -> str:
        """X with the plane flat, and last."""
        last = g.Transpose(x, perm=[*self.others, *self.dims])
        return reshaped(g, last, (*(x.shape[dim] for dim in self.others), math.prod(self.extents)))


@rule("sym_size")
def size(g: GraphWriter, call: Call, x: Value, dim: int) -> str:
    """An extent that depends on the batch."""
    extent = x.shape[dim]
    return g.Mul(g.batch(), extent.times) if isinstance(extent, Batched) else g.constant(extent, "int64")


@rule("sym_numel")
def number_of_elements(g: GraphWriter, call: Call, x: Value) -> str:
    """How many elements there are, where that depends on the batch."""
    batched = [extent.times for extent in x.shape if isinstance(extent, Batched)]
    if len(batched) != 1:
        return g.Size(x)
    known = math.prod(extent for extent in x.shape if isinstance(extent, int))
    return g.Mul(g.batch(), batched[0] * known)  # ONNX Runtime loses what is computed of a Size


def _numbers(g: GraphWriter, call: Call, start: float | Value, end: float | Value, step: float | Value) -> str:
    bounds = [bound for bound in (start, end, step) if not isinstance(bound, Value)]
    if len(bounds) == 3:
        return g.constant(np.arange(*bounds), call.dtype)
    whole = call.dtype if call.dtype in ("int64", "float32") else "int64"
    numbers = g.Range(*(cast(g, bound, whole) for bound in (start, end, step)))
    return numbers if whole == call.dtype else g.Cast(numbers, to=ELEMENT_TYPES[call.dtype])


def _rolled(g: GraphWriter, x: str, shift: int, dim: int, extent: Extent) -> str:
    if isinstance(extent, Batched):
        end = g.Reshape(g.Mul(g.batch(), extent.times), [1])
        at: str | list[int] = g.Mod(g.Add(end, -shift), end)
        ends = g.Slice(x, at, end, [dim]), g.Slice(x, [0], at, [dim])
    else:
        at = [-shift % extent] if extent else [0]
        ends = g.Slice(x, at, [extent], [dim]), g.Slice(x, [0], at, [dim])
    return g.Concat(*ends, axis=dim)


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
