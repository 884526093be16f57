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

from lamina.models.graph.registry import rule
from lamina.models.graph.rules.pooling import spread
from lamina.models.graph.rules.ranks import with_a_batch
from lamina.models.graph.values import Call, Value, static
from lamina.models.graph.writer import GraphWriter

_PADS = [f"{kind}_pad{rank}d" for kind in ("reflection", "replication") for rank in (1, 2, 3)]
_NEAREST = [f"{kind}{rank}d" for kind in ("upsample_nearest", "_upsample_nearest_exact") for rank in (1, 2, 3)]
_INTERPOLATING = ["upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d", "upsample_bicubic2d"]
_INTERPOLATING += [f"_upsample_{kind}2d_aa" for kind in ("bilinear", "bicubic", "lanczos")]

# What serves along one dimension, by what the operator's name holds; what has two dimensions only serves for itself.
_ALONG = {
    "nearest_exact": "_upsample_nearest_exact1d",
    "nearest": "upsample_nearest1d",
    "upsample_linear": "upsample_linear1d",
    "upsample_trilinear": "upsample_linear1d",
    "upsample_bilinear": "upsample_linear1d",
}

# A one-dimensional operator, of (1, C, L).
Resample = Callable[[Tensor], Tensor]

_NO_DIVISOR = "divisor_override is not supported"


@rule("avg_pool2d", "avg_pool3d")
@with_a_batch
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
    if ceil_mode or divisor_override is not None:
        ways = _averages(x, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)
        return _resampled(g, x, static(x.shape[2:]), ways)
    rank = len(x.shape) - 2
    return g.AveragePool(
        x,
        kernel_shape=spread(kernel_size, rank),
        strides=spread(stride or kernel_size, rank),
        pads=spread(padding, rank) * 2,
        count_include_pad=int(count_include_pad),
    )


@rule("avg_pool2d_backward", "avg_pool3d_backward")
@with_a_batch
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


@rule("_adaptive_avg_pool2d", "_adaptive_avg_pool3d")
@with_a_batch
def adaptive_avg_pool(g: GraphWriter, call: Call, x: Value, output_size: object) -> str:
    """The average over as many windows as the output has elements."""
    return _resampled(g, x, static(x.shape[2:]), [_adaptive(extent) for extent in static(call.shape[2:])])


@rule("_adaptive_avg_pool2d_backward", "_adaptive_avg_pool3d_backward")
@with_a_batch
def adaptive_avg_pool_backward(g: GraphWriter, call: Call, dy: Value, x: Value) -> str:
    """The gradient of that."""
    return _gradient(g, dy, static(x.shape[2:]), [_adaptive(extent) for extent in static(dy.shape[2:])])


@rule(*_NEAREST)
def nearest(g: GraphWriter, call: Call, x: Value, output_size: object, *scales: float | None) -> str:
    """The nearest element."""
    return _resampled(g, x, static(x.shape[2:]), _upsampling(call.packet, static(call.shape[2:]), scales))


@rule(*(f"{name}_backward" for name in _NEAREST))
def nearest_backward(
    g: GraphWriter, call: Call, dy: Value, output_size: object, input_size: object, *scales: float | None
) -> str:
    """The gradient of that."""
    ways = _upsampling(call.packet, static(dy.shape[2:]), scales)
    return _gradient(g, dy, static(call.shape[2:]), ways)


@rule(*_INTERPOLATING)
def interpolated(
    g: GraphWriter, call: Call, x: Value, output_size: object, align_corners: bool, *scales: float | None
) -> str:
    """Between the nearest elements, by straight lines or by cubic ones."""
    ways = _upsampling(call.packet, static(call.shape[2:]), scales, align_corners)
    return _resampled(g, x, static(x.shape[2:]), ways)


@rule(*(f"{name}_backward" for name in _INTERPOLATING))
def interpolated_backward(
    g: GraphWriter,
    call: Call,
    dy: Value,
    output_size: object,
    input_size: object,
    align_corners: bool,
    *scales: float | None,
) -> str:
    """The gradient of that."""
    ways = _upsampling(call.packet, static(dy.shape[2:]), scales, align_corners)
    return _gradient(g, dy, static(call.shape[2:]), ways)


@rule(*_PADS)
@with_a_batch
def pad_by_repetition(g: GraphWriter, call: Call, x: Value, padding: Sequence[int]) -> str:
    """X with a margin of its own elements; ``padding`` begins with the last dimension."""
    return _resampled(g, x, static(x.shape[2:]), _paddings(call, padding))


@rule(*(f"{pad}_backward" for pad in _PADS))
@with_a_batch
def pad_by_repetition_backward(g: GraphWriter, call: Call, dy: Value, x: Value, padding: Sequence[int]) -> str:
    """The gradient of that."""
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
    rank = len(x.shape) - 2

    def pool(kernel: int, step: int, margin: int, divisor: int) -> Resample:
        if divisor_override is None:
            return lambda x: F.avg_pool1d(x, kernel, step, margin, ceil_mode, count_include_pad)
        return lambda x: F.avg_pool2d(x.unsqueeze(2), (1, kernel), (1, step), (0, margin), ceil_mode, True, divisor)[
            :, :, 0
        ]

    # A divisor of the whole window stands with its first dimension.
    divisors = [divisor_override or 1, *[1] * (rank - 1)]
    steps, margins = spread(stride or kernel_size, rank), spread(padding, rank)
    return [pool(*window) for window in zip(spread(kernel_size, rank), steps, margins, divisors, strict=True)]


def _adaptive(extent: int) -> Resample:
    return lambda x: F.adaptive_avg_pool1d(x, extent)


def _upsampling(packet: str, extents: Sequence[int], scales: Sequence[float | None], *options: bool) -> list[Resample]:
    """An operator that resamples images, along each spatial dimension; what is one-dimensional of it serves."""
    name = packet.removesuffix("_backward")
    known = "" if name.endswith("_aa") else next((key for key in _ALONG if key in name), "")
    given = scales or [None] * len(extents)

    def way(extent: int, scale: float | None) -> Resample:
        if known:
            return lambda x: getattr(torch.ops.aten, _ALONG[known])(x, [extent], *options, scale)
        in_rows = getattr(torch.ops.aten, name)
        return lambda x: in_rows(x.unsqueeze(2), [1, extent], *options, None, scale).squeeze(2)

    return [way(extent, scale) for extent, scale in zip(extents, given, strict=True)]


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
