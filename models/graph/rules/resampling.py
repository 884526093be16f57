"""Rules for operators that resample images: average pooling, upsampling, padding by repetition, and their gradients.

Each is linear and works on one dimension after the other, so it is a product with a constant matrix for each dimension,
and its gradient is the product with the transposed matrices. The matrix is what torch's own operator makes of the
identity.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lamina.models.errors import ModelError
from lamina.models.graph.registry import rule
from lamina.models.graph.rules.pooling import spread
from lamina.models.graph.values import Call, Value, static
from lamina.models.graph.writer import GraphWriter

# A one-dimensional operator, of (1, C, L).
Resample = Callable[[Tensor], Tensor]

_NO_DIVISOR = "divisor_override is not supported"


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
    """The average over each window.

    Which windows there are at the end, with ceil_mode, and by what they are divided, torch and ONNX see differently.
    """
    if ceil_mode:
        ways = _averages(x, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)
        return _resampled(g, x, static(x.shape[2:]), ways)
    if divisor_override is not None:
        raise ModelError(_NO_DIVISOR)
    rank = len(x.shape) - 2
    return g.AveragePool(
        x,
        kernel_shape=spread(kernel_size, rank),
        strides=spread(stride or kernel_size, rank),
        pads=spread(padding, rank) * 2,
        count_include_pad=int(count_include_pad),
    )


@rule("avg_pool2d_backward", "avg_pool3d_backward")
def avg_pool_backward(
    g: GraphWriter,
    call: Call,
    dy: Value,
    x: Value,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> str:
    """Gradient of the average over windows."""
    ways = _averages(x, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)
    return _gradient(g, dy, static(x.shape[2:]), ways)


@rule("_adaptive_avg_pool2d")
def adaptive_avg_pool(g: GraphWriter, call: Call, x: Value, output_size: object) -> str:
    """The average over as many windows as the output has elements."""
    return _resampled(g, x, static(x.shape[2:]), [_adaptive(extent) for extent in static(call.shape[2:])])


@rule("_adaptive_avg_pool2d_backward")
def adaptive_avg_pool_backward(g: GraphWriter, call: Call, dy: Value, x: Value) -> str:
    """Its gradient."""
    return _gradient(g, dy, static(x.shape[2:]), [_adaptive(extent) for extent in static(dy.shape[2:])])


@rule("upsample_nearest1d", "upsample_nearest2d")
def upsample_nearest(g: GraphWriter, call: Call, x: Value, output_size: object, *scales: object) -> str:
    """The nearest element."""
    return _resampled(g, x, static(x.shape[2:]), [_nearest(extent) for extent in static(call.shape[2:])])


@rule("upsample_nearest1d_backward", "upsample_nearest2d_backward")
def upsample_nearest_backward(g: GraphWriter, call: Call, dy: Value, *sizes: object) -> str:
    """Its gradient."""
    return _gradient(g, dy, static(call.shape[2:]), [_nearest(extent) for extent in static(dy.shape[2:])])


@rule("upsample_linear1d", "upsample_bilinear2d")
def upsample_linear(
    g: GraphWriter, call: Call, x: Value, output_size: object, align_corners: bool, *scales: object
) -> str:
    """Between the nearest elements."""
    ways = [_linear(extent, align_corners) for extent in static(call.shape[2:])]
    return _resampled(g, x, static(x.shape[2:]), ways)


@rule("upsample_linear1d_backward", "upsample_bilinear2d_backward")
def upsample_linear_backward(
    g: GraphWriter,
    call: Call,
    dy: Value,
    output_size: object,
    input_size: object,
    align_corners: bool,
    *scales: object,
) -> str:
    """Its gradient."""
    ways = [_linear(extent, align_corners) for extent in static(dy.shape[2:])]
    return _gradient(g, dy, static(call.shape[2:]), ways)


@rule("reflection_pad1d", "reflection_pad2d", "replication_pad1d", "replication_pad2d")
def pad_by_repetition(g: GraphWriter, call: Call, x: Value, padding: Sequence[int]) -> str:
    """X with a margin of its own elements; ``padding`` begins with the last dimension."""
    return _resampled(g, x, static(x.shape[2:]), _paddings(call, padding))


@rule(
    "reflection_pad1d_backward",
    "reflection_pad2d_backward",
    "replication_pad1d_backward",
    "replication_pad2d_backward",
)
def pad_by_repetition_backward(g: GraphWriter, call: Call, dy: Value, x: Value, padding: Sequence[int]) -> str:
    """Its gradient."""
    return _gradient(g, dy, static(x.shape[2:]), _paddings(call, padding))


def _averages(
    x: Value,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> list[Resample]:
    """The average over windows along each spatial dimension of x."""
    if divisor_override is not None:
        raise ModelError(_NO_DIVISOR)
    rank = len(x.shape) - 2

    def pool(kernel: int, step: int, margin: int) -> Resample:
        return lambda x: F.avg_pool1d(x, kernel, step, margin, ceil_mode, count_include_pad)

    windows = zip(spread(kernel_size, rank), spread(stride or kernel_size, rank), spread(padding, rank), strict=True)
    return [pool(*window) for window in windows]


def _adaptive(extent: int) -> Resample:
    return lambda x: F.adaptive_avg_pool1d(x, extent)


def _nearest(extent: int) -> Resample:
    return lambda x: F.interpolate(x, extent, mode="nearest")


def _linear(extent: int, align_corners: bool) -> Resample:
    return lambda x: F.interpolate(x, extent, mode="linear", align_corners=align_corners)


def _paddings(call: Call, padding: Sequence[int]) -> list[Resample]:
    mode = "reflect" if call.packet.startswith("reflection") else "replicate"

    def pad(before: int, after: int) -> Resample:
        return lambda x: F.pad(x, (before, after), mode=mode)

    pairs = list(zip(padding[0::2], padding[1::2], strict=True))
    return [pad(before, after) for before, after in reversed(pairs)]


def _resampled(g: GraphWriter, x: str, extents: Sequence[int], ways: Sequence[Resample]) -> str:
    """X (N, C, ...) with ``ways[d]`` applied to its spatial dimension d."""
    matrices = [_matrix(way, extent) for way, extent in zip(ways, extents, strict=True)]
    return _times(g, x, extents, matrices)


def _gradient(g: GraphWriter, dy: str, extents: Sequence[int], ways: Sequence[Resample]) -> str:
    """The gradient of `_resampled` for an input of ``extents``."""
    matrices = [_matrix(way, extent).T for way, extent in zip(ways, extents, strict=True)]
    return _times(g, dy, [len(matrix) for matrix in matrices], matrices)


def _matrix(way: Resample, extent: int) -> Tensor:
    """The matrix by which a row is multiplied from the right."""
    return way(torch.eye(extent)[None])[0]


def _times(g: GraphWriter, x: str, extents: Sequence[int], matrices: Sequence[Tensor]) -> str:
    """X (N, C, ...) times a matrix for each spatial dimension, of these extents."""
    *earlier, last = (None if torch.equal(matrix, torch.eye(len(matrix))) else matrix for matrix in matrices)
    if last is not None:
        x = g.MatMul(x, g.constant(last.numpy(), "float32"))
    if earlier and earlier[-1] is not None:
        x = g.MatMul(g.constant(earlier[-1].T.numpy(), "float32"), x)
    if len(earlier) > 1 and earlier[0] is not None:  # the first of three, before planes that are flat for a while
        planes = g.MatMul(g.constant(earlier[0].T.numpy(), "float32"), g.Reshape(x, [0, 0, extents[0], -1]))
        x = g.Reshape(planes, [0, 0, 0, *(matrix.shape[1] for matrix in matrices[1:])])
    return x
