"""Rules for max pooling, and its gradients. Average pooling is linear: see `lamina.models.graph.rules.resampling`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

import numpy as np
import numpy.typing as npt

from lamina.models.errors import ModelError
from lamina.models.graph.registry import rule
from lamina.models.graph.rules.ranks import with_a_batch
from lamina.models.graph.values import Call, Value, reshaped, static
from lamina.models.graph.writer import GraphWriter


@rule("max_pool2d_with_indices", "max_pool3d_with_indices")
@with_a_batch
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
        pads=[*spread(padding, rank), *_margins_at_end(x, call, kernel, stride, padding, dilation)],
        dilations=spread(dilation, rank),
    )
    indices = g.Mod(flat, math.prod(static(x.shape[2:])))
    g.remember(indices, flat)  # ONNX's index is flat over the whole tensor, which is what the gradient needs
    return y, indices


@rule("max_pool2d_with_indices_backward", "max_pool3d_with_indices_backward")
@with_a_batch
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


@rule("adaptive_max_pool2d", "adaptive_max_pool3d")
@with_a_batch
def adaptive_max_pool(g: GraphWriter, call: Call, x: Value, output_size: object) -> tuple[str, str]:
    """The largest element in as many windows as the output has elements, and its index in its image and channel.

    Windows may overlap and have different extents. They are looked up in one table, the last element repeated where a
    window has fewer.
    """
    table = _windows(static(x.shape[2:]), static(call.shape[2:]))  # (windows, elements)
    windows = g.Gather(g.Reshape(x, [0, 0, -1]), g.constant(table, "int64"), axis=2)  # (N, C, windows, elements)
    largest = g.ReduceMax(windows, [3], keepdims=0)
    chosen = g.ArgMax(windows, axis=3, keepdims=0)  # (N, C, windows)
    flat = g.Add(g.constant(np.arange(len(table)) * table.shape[1], "int64"), chosen)
    indices = g.Gather(g.constant(table.reshape(-1), "int64"), flat, axis=0)
    return reshaped(g, largest, call.shape), reshaped(g, indices, call.shape)


@rule("adaptive_max_pool2d_backward", "adaptive_max_pool3d_backward")
@with_a_batch
def adaptive_max_pool_backward(g: GraphWriter, call: Call, dy: Value, x: Value, indices: Value) -> str:
    """The same for as many windows as the output has elements, with indices flat over an image and channel."""
    planes = g.Reshape(g.Mul(x, 0.0), [0, 0, -1])
    at, updates = g.Reshape(indices, [0, 0, -1]), g.Reshape(dy, [0, 0, -1])
    return reshaped(g, g.ScatterElements(planes, at, updates, axis=2, reduction="add"), x.shape)


def _margins_at_end(
    x: Value, call: Call, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> list[int]:
    """Return margins as wide as the last window needs them: which windows there are at the end, with ceil_mode, is
    torch's decision.
    """
    rank = len(kernel)
    strides, margins, reaches = spread(stride or kernel, rank), spread(padding, rank), spread(dilation, rank)
    return [
        max(0, step * (results - 1) + reach * (size - 1) + 1 - extent - margin)
        for extent, results, size, step, margin, reach in zip(
            static(x.shape[2:]), static(call.shape[2:]), kernel, strides, margins, reaches, strict=True
        )
    ]


def _windows(extents: Sequence[int], results: Sequence[int]) -> npt.NDArray[np.int64]:
    """The places of every window's elements, flat over the image: (windows, elements of the largest)."""
    ranges = [
        [range(at * extent // count, -((at + 1) * extent // -count)) for at in range(count)]
        for extent, count in zip(extents, results, strict=True)
    ]
    steps = [math.prod(extents[dim + 1 :]) for dim in range(len(extents))]
    windows = [
        [sum(place * step for place, step in zip(places, steps, strict=True)) for places in product(*window)]
        for window in product(*ranges)
    ]
    most = max(map(len, windows))
    return np.array([window + window[-1:] * (most - len(window)) for window in windows])


def spread(extents: Sequence[int], rank: int) -> list[int]:
    """One extent a dimension, where aten may give one for all."""
    return list(extents) * rank if len(extents) == 1 else list(extents)
