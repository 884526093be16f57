"""Rules for elements at indices: taken out, put in, and added up."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lamina.models.errors import ModelError
from lamina.models.graph.registry import rule
from lamina.models.graph.rules.elementwise import cast
from lamina.models.graph.rules.ranks import along_dimensions
from lamina.models.graph.values import Batched, Call, Extent, Value, extents, reshaped
from lamina.models.graph.writer import GraphWriter

# How ONNX names what becomes of several values at one place, and what changes nothing then.
_REDUCTIONS = {
    "sum": "add",
    "add": "add",
    "mean": "add",
    "prod": "mul",
    "multiply": "mul",
    "amax": "max",
    "amin": "min",
}
_NEUTRAL = {"add": 0.0, "mul": 1.0, "max": float("-inf"), "min": float("inf")}

_BY_MASK = (
    "how many elements a boolean mask chooses is known only when it is run: "
    "write torch.where(mask, x, 0), or multiply by the mask"
)


@rule("scatter")
@along_dimensions
def scatter(
    g: GraphWriter,
    call: Call,
    x: Value,
    dim: int,
    index: Value,
    value: Value | float,
    *,
    reduce: str | None = None,
) -> str:
    """X with a number, or values, at indices along a dimension; joined with what is there where it is said how."""
    updates = _updates(g, call, index, value)
    return g.ScatterElements(x, index, updates, axis=dim, reduction=_REDUCTIONS[reduce] if reduce else "none")


@rule("scatter_add")
@along_dimensions
def scatter_add(g: GraphWriter, call: Call, x: Value, dim: int, index: Value, values: Value) -> str:
    """X with values added at indices along a dimension."""
    return g.ScatterElements(x, index, _updates(g, call, index, values), axis=dim, reduction="add")


@rule("scatter_reduce")
@along_dimensions
def scatter_reduce(
    g: GraphWriter,
    call: Call,
    x: Value,
    dim: int,
    index: Value,
    values: Value,
    reduce: str,
    *,
    include_self: bool = True,
) -> str:
    """The sum, product, mean or extremum of what is at indices along a dimension, with x's own element or without."""
    reduction = _REDUCTIONS[reduce]
    if "float" not in call.dtype and not include_self:
        raise ModelError("include_self=False is for floating-point numbers only")
    start: str = x
    if not include_self:
        neutral = g.Expand(g.constant(_NEUTRAL[reduction], call.dtype), g.Shape(index))
        start = g.ScatterElements(x, index, neutral, axis=dim)
    reduced = g.ScatterElements(start, index, _updates(g, call, index, values), axis=dim, reduction=reduction)
    if reduce != "mean":
        return reduced
    ones = g.Expand(g.constant(1, call.dtype), g.Shape(index))
    before = g.Expand(g.constant(int(include_self), call.dtype), g.Shape(x))
    count = g.ScatterElements(before, index, ones, axis=dim, reduction="add")
    return g.Div(reduced, g.Max(count, g.constant(1, call.dtype)))


def _updates(g: GraphWriter, call: Call, index: Value, values: Value | float) -> str:
    """What is put at ``index``: aten takes more values than indices, and numbers."""
    if not isinstance(values, Value):
        return g.Expand(cast(g, values, call.dtype), g.Shape(index))
    if values.shape == index.shape:
        return values
    if not values.shape:
        return g.Expand(values, g.Shape(index))
    rank = len(index.shape)
    return g.Slice(values, [0] * rank, g.Shape(index), list(range(rank)))


@rule("index", "_unsafe_index")
def index(g: GraphWriter, call: Call, x: Value, indices: Sequence[Value | None]) -> str:
    """Elements of x at indices along some dimensions.

    What they are indexed to stands in place of these dimensions where they are neighbours, else in front.
    """
    at = _Indexed.of(g, x, indices)
    if at.first is None:
        return g.Gather(at.in_front(g, x), at.flat, axis=0)
    return g.Gather(at.in_place(g, x, at.first), at.flat, axis=at.first)


@rule("index_put", "_unsafe_index_put")
def index_put(
    g: GraphWriter, call: Call, x: Value, indices: Sequence[Value | None], values: Value, accumulate: bool = False
) -> str:
    """X with values put at, or added to, indices along some dimensions."""
    masks = [each for each in indices if each is not None and each.dtype == "bool"]
    if masks:
        return _put_by_mask(g, x, indices, values, accumulate)
    at = _Indexed.of(g, x, indices)
    target = at.in_front(g, x)
    first, rank = at.first or 0, len(at.order) - at.count
    ends = [x.shape[dim] for dim in at.order[at.count :]]
    shapes = extents(g, ends[:first]), g.Shape(at.flat), extents(g, ends[first:])
    full = g.Expand(values, g.Concat(*shapes, axis=0))
    block = list(range(first, first + at.width))
    ahead = [*block, *(dim for dim in range(rank + at.width) if dim not in block)]
    updates = g.Transpose(full, perm=ahead) if ahead != sorted(ahead) else full
    put = g.ScatterND(target, g.Unsqueeze(at.flat, [-1]), updates, reduction="add" if accumulate else "none")
    split = reshaped(g, put, [x.shape[dim] for dim in at.order])
    back = [at.order.index(dim) for dim in range(len(at.order))]
    return g.Transpose(split, perm=back) if back != sorted(back) else split


def _put_by_mask(g: GraphWriter, x: Value, indices: Sequence[Value | None], values: Value, accumulate: bool) -> str:
    """X with values where one boolean mask says so: the same for all places, or the next one for each."""
    dims = [dim for dim, index in enumerate(indices) if index is not None]
    mask = indices[dims[0]]
    if len(dims) != 1 or mask is None:
        raise ModelError("an assignment by a boolean mask and other indices is not supported: use torch.where")
    after = len(x.shape) - dims[0] - len(mask.shape)  # dimensions of x behind those of the mask
    chosen = g.Unsqueeze(mask, list(range(-after, 0))) if after else str(mask)
    given = Value(cast(g, values, x.dtype), values.shape, x.dtype)
    if all(extent == 1 for extent in values.shape[: max(0, len(values.shape) - after)]):
        put = reshaped(g, given, values.shape[max(0, len(values.shape) - after) :] if after else ())
    elif dims[0] == 0 and len(values.shape) == 1 + after:
        flags = cast(g, Value(g.Reshape(mask, [-1]), (), "bool"), "int64")
        order = g.Max(g.Sub(g.CumSum(flags, 0), 1), 0)  # which of the values is a place's, where the mask holds
        put = reshaped(g, g.Gather(given, order, axis=0), x.shape)
    else:
        raise ModelError(
            "an assignment by a boolean mask behind the first dimension must put the same value at all places: "
            "write torch.where(mask, values, x), with values in the shape of x"
        )
    return g.Where(chosen, g.Add(x, put) if accumulate else put, x)


@dataclass(frozen=True)
class _Indexed:
    """Dimensions that are indexed by tensors, made one, in front.

    Attributes:
        order: the dimensions of x, the indexed ones in front.
        count: how many are indexed.
        first: the first of them, where they are neighbours.
        flat: one index into all of them together.
        width: how many dimensions that has.
    """

    order: list[int]
    count: int
    first: int | None
    flat: str
    width: int

    @staticmethod
    def of(g: GraphWriter, x: Value, indices: Sequence[Value | None]) -> _Indexed:
        given = [(dim, index) for dim, index in enumerate(indices) if index is not None]
        dims = [dim for dim, _ in given]
        order = [*dims, *(dim for dim in range(len(x.shape)) if dim not in dims)]
        width = max(len(index.shape) for _, index in given)
        first = dims[0] if dims == list(range(dims[0], dims[-1] + 1)) else None
        return _Indexed(order, len(dims), first, _flat(g, x, given), width)

    def in_place(self, g: GraphWriter, x: Value, first: int) -> str:
        """X with the indexed dimensions made one, where they are."""
        if self.count == 1:
            return x
        merged = _product(x.shape[first : first + self.count])
        return reshaped(g, x, (*x.shape[:first], merged, *x.shape[first + self.count :]))

    def in_front(self, g: GraphWriter, x: Value) -> str:
        """X with the indexed dimensions made one, in front."""
        ahead = g.Transpose(x, perm=self.order) if self.order != sorted(self.order) else str(x)
        if self.count == 1:
            return ahead
        shape = [x.shape[dim] for dim in self.order]
        return reshaped(g, ahead, (_product(shape[: self.count]), *shape[self.count :]))


def _flat(g: GraphWriter, x: Value, given: Sequence[tuple[int, Value]]) -> str:
    """One index into all indexed dimensions; negative ones count from the end."""
    flat = ""
    for dim, each in given:
        if each.dtype == "bool":
            raise ModelError(_BY_MASK)
        index = cast(g, each, "int64")
        if len(given) == 1:
            return index
        extent = _number(g, x.shape[dim])
        from_start = g.Mod(g.Add(index, extent), extent)
        flat = g.Add(g.Mul(flat, extent), from_start) if flat else from_start
    return flat


def _number(g: GraphWriter, extent: Extent) -> str | int:
    return g.Mul(g.batch(), extent.times) if isinstance(extent, Batched) else extent


def _product(shape: Sequence[Extent]) -> Extent:
    """The extent of dimensions made one, of which one at most may depend on the batch."""
    times = math.prod(extent.times if isinstance(extent, Batched) else extent for extent in shape)
    batched = sum(isinstance(extent, Batched) for extent in shape)
    if batched > 1:
        raise ModelError("two dimensions that both depend on the batch are indexed together")
    return Batched(times) if batched else times
