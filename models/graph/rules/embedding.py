"""Rules for look-ups by index, and their gradients."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lamina.models.errors import ModelError
from lamina.models.graph.registry import rule
from lamina.models.graph.rules.elementwise import cast
from lamina.models.graph.values import Call, Value, reshaped, static
from lamina.models.graph.writer import ELEMENT_TYPES, GraphWriter


@rule("embedding")
def embedding(
    g: GraphWriter,
    call: Call,
    weight: Value,
    indices: Value,
    padding_idx: int = -1,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> str:
    """Rows of the weight (V, E) at indices."""
    return g.Gather(weight, indices, axis=0)


@rule("embedding_dense_backward")
def embedding_backward(
    g: GraphWriter,
    call: Call,
    dy: Value,
    indices: Value,
    num_weights: int,
    padding_idx: int,
    scale_grad_by_freq: bool,
) -> str:
    """Gradient (V, E): the rows of dy, added up where their indices are the same."""
    if scale_grad_by_freq:
        raise ModelError("scale_grad_by_freq is not supported")
    rows, width = static(call.shape)
    at = g.Reshape(indices, [-1, 1])
    updates = g.Reshape(dy, [-1, width])
    if padding_idx >= 0:
        updates = g.Where(g.Equal(at, padding_idx), 0.0, updates)
    zeros = g.Expand(0.0, [rows, width])
    return g.ScatterND(zeros, at, updates, reduction="add")


@rule("scatter")
def scatter(g: GraphWriter, call: Call, x: Value, dim: int, index: Value, value: Value | float) -> str:
    """X with a number, or values, at indices along a dimension."""
    updates = value if isinstance(value, Value) else g.Expand(cast(g, value, call.dtype), g.Shape(index))
    return g.ScatterElements(x, index, updates, axis=dim)


@rule("scatter_add")
def scatter_add(g: GraphWriter, call: Call, x: Value, dim: int, index: Value, values: Value) -> str:
    """X with values added at indices along a dimension."""
    return g.ScatterElements(x, index, values, axis=dim, reduction="add")


@rule("index", "_unsafe_index")
def index(g: GraphWriter, call: Call, x: Value, indices: Sequence[Value | None]) -> str:
    """Elements of x at indices along one dimension, or along several neighbouring ones."""
    if any(index is not None and index.dtype == "bool" for index in indices):
        raise ModelError(
            "how many elements a boolean mask chooses is known only when it is run: "
            "write torch.where(mask, x, 0), or multiply by the mask"
        )
    first, count, at = _flat_index(g, x, indices)
    return g.Gather(_merged(g, x, first, count), at, axis=first)


@rule("index_put", "_unsafe_index_put")
def index_put(
    g: GraphWriter, call: Call, x: Value, indices: Sequence[Value | None], values: Value, accumulate: bool = False
) -> str:
    """X with values put at, or added to, indices along one dimension, or along several neighbouring ones.

    A boolean mask chooses elements, too: its values stand in the place of those that it chooses.
    """
    if any(index is not None and index.dtype == "bool" for index in indices):
        return _put_where(g, x, indices, values, accumulate)
    first, count, at = _flat_index(g, x, indices)
    rank, width = len(x.shape) - count + 1, len(indices[first].shape)  # type: ignore[union-attr]  # _flat_index saw it
    to_front = [first, *(dim for dim in range(rank) if dim != first)]
    back = [to_front.index(dim) for dim in range(rank)]
    target = g.Transpose(_merged(g, x, first, count), perm=to_front)
    block = list(range(first, first + width))
    ahead = [*block, *(dim for dim in range(rank - 1 + width) if dim not in block)]
    full = g.Expand(values, g.Concat(g.Shape(x, end=first), g.Shape(at), g.Shape(x, start=first + count), axis=0))
    updates = g.Transpose(full, perm=ahead)
    put = g.ScatterND(target, g.Unsqueeze(at, [-1]), updates, reduction="add" if accumulate else "none")
    return reshaped(g, g.Transpose(put, perm=back), x.shape)


def _put_where(g: GraphWriter, x: Value, indices: Sequence[Value | None], values: Value, accumulate: bool) -> str:
    """X with values where one boolean mask says so; they must be the same for all that it chooses."""
    dims = [dim for dim, index in enumerate(indices) if index is not None]
    mask = indices[dims[0]]
    if len(dims) != 1 or mask is None:
        raise ModelError("an assignment by a boolean mask and other indices is not supported: use torch.where")
    after = len(x.shape) - dims[0] - len(mask.shape)  # dimensions of x behind those of the mask
    if len(values.shape) > after and any(extent != 1 for extent in values.shape[: len(values.shape) - after]):
        raise ModelError(
            "an assignment by a boolean mask must put the same value at all places that the mask chooses: "
            "write torch.where(mask, values, x), with values in the shape of x"
        )
    chosen = g.Unsqueeze(mask, list(range(-after, 0))) if after else mask
    put = reshaped(g, values, values.shape[max(0, len(values.shape) - after) :] if after else ())
    return g.Where(chosen, g.Add(x, put) if accumulate else put, x)


def _flat_index(g: GraphWriter, x: Value, indices: Sequence[Value | None]) -> tuple[int, int, str]:
    """The first indexed dimension, how many there are, and one index into all of them."""
    dims = [dim for dim, index in enumerate(indices) if index is not None]
    if dims != list(range(dims[0], dims[-1] + 1)):
        raise ModelError(f"dimensions {dims} are indexed by tensors; they must be neighbours")
    flat = ""
    for dim in dims:
        index = g.Cast(indices[dim], to=ELEMENT_TYPES["int64"])
        if len(dims) == 1:
            return dims[0], 1, index
        (extent,) = static([x.shape[dim]])
        from_start = g.Mod(g.Add(index, extent), extent)  # negative indices count from the end
        flat = g.Add(g.Mul(flat, extent), from_start) if flat else from_start
    return dims[0], len(dims), flat


def _merged(g: GraphWriter, x: Value, first: int, count: int) -> str:
    """X with ``count`` dimensions from ``first`` on made one."""
    if count == 1:
        return x
    merged = math.prod(static(x.shape[first : first + count]))
    return reshaped(g, x, (*x.shape[:first], merged, *x.shape[first + count :]))
