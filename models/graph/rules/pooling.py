"""Rules for pooling, and their gradients."""

from __future__ import annotations

import math
from collections.abc import Sequence

from models.errors import ModelError
from models.graph.registry import rule
from models.graph.values import Call, Value, reshaped, static
from models.graph.writer import GraphWriter


@rule("max_pool2d_with_indices", "max_pool3d_with_indices")
def max_pool(
    g: GraphWriter,
    call: Call,
    x: Value,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    ceil_mode: bool = False,
) -> tuple[str, ...]:
    """The largest element in each window, and its index, flat over its image and channel."""
    rank = len(x.shape) - 2
    kernel = spread(kernel_size, rank)
    y, flat = g.many(
        "MaxPool",
        2,
        x,
        kernel_shape=kernel,
        strides=spread(stride, rank) if stride else kernel,
        pads=spread(padding, rank) * 2,
        dilations=spread(dilation, rank),
        ceil_mode=int(ceil_mode),
    )
    indices = g.Mod(flat, math.prod(static(x.shape[2:])))
    g.remember(indices, flat)  # ONNX's index is flat over the whole tensor, which is what the gradient needs
    return y, indices


@rule("max_pool2d_with_indices_backward", "max_pool3d_with_indices_backward")
def max_pool_backward(
    g: GraphWriter,
    call: Call,
    dy: Value,
    x: Value,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
    indices: Value,
) -> str:
    """Each element of dy at the index of its window's largest element."""
    rank = len(x.shape) - 2
    windows = zip(spread(stride or kernel_size, rank), spread(kernel_size, rank), strict=True)
    overlap = any(step < extent for step, extent in windows)
    size = g.Size(x)
    zeros = g.Expand(0.0, g.Reshape(size, [1]))
    if not g.recall(indices):
        raise ModelError("the indices are not those of a pooling in the same step")
    at, updates = g.Reshape(*g.recall(indices), [-1]), g.Reshape(dy, [-1])
    flat = g.ScatterElements(zeros, at, updates, axis=0, reduction="add" if overlap else "none")
    return g.Reshape(flat, g.Shape(x))


@rule("adaptive_max_pool2d_backward")
def adaptive_max_pool_backward(g: GraphWriter, call: Call, dy: Value, x: Value, indices: Value) -> str:
    """The same for as many windows as the output has elements, with indices flat over an image and channel."""
    planes = g.Reshape(g.Mul(x, 0.0), [0, 0, -1])
    at, updates = g.Reshape(indices, [0, 0, -1]), g.Reshape(dy, [0, 0, -1])
    return reshaped(g, g.ScatterElements(planes, at, updates, axis=2, reduction="add"), x.shape)


@rule("avg_pool2d", "avg_pool3d")
def avg_pool(
    g: GraphWriter,
    call: Call,
    x: Value,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> str:
    """The average over each window."""
    if divisor_override is not None:
        raise ModelError("divisor_override is not supported")
    rank = len(x.shape) - 2
    return g.AveragePool(
        x,
        kernel_shape=spread(kernel_size, rank),
        strides=spread(stride or kernel_size, rank),
        pads=spread(padding, rank) * 2,
        ceil_mode=int(ceil_mode),
        count_include_pad=int(count_include_pad),
    )


def spread(extents: Sequence[int], rank: int) -> list[int]:
    """One extent a dimension, where aten may give one for all."""
    return list(extents) * rank if len(extents) == 1 else list(extents)
