"""Rules for convolutions and their gradients."""

from __future__ import annotations

from collections.abc import Sequence

from lamina.models.graph.registry import rule
from lamina.models.graph.rules.blocked import blocked_convolution, blocked_input_gradient, fits_blocks
from lamina.models.graph.rules.geometry import Geometry, geometry_of, times, turned
from lamina.models.graph.rules.kernel_gradient import kernel_gradient
from lamina.models.graph.values import Call, Value
from lamina.models.graph.writer import GraphWriter

# A convolution of stride 1 is a Conv, or with its kernel turned round a ConvTranspose. For 16 to 32 channels the latter
# takes 0.8 of the time on one thread, and 1.2 on two; from 64 channels on they are equals, but for the turning.
_FEW_CHANNELS, _MANY_CHANNELS = 16, 64


@rule("convolution")
def convolution(
    g: GraphWriter,
    call: Call,
    x: Value,
    weight: Value,
    bias: Value | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> str:
    """The convolution of x (N, C, ...) with weight (O, C / groups, ...).

    A transposed one is the gradient of another convolution, from x to the result: its weight is (C, O / groups, ...).
    """
    if transposed:
        geometry = geometry_of(call.shape, weight.shape, x.shape, stride, padding, dilation, groups)
        if any(rest >= stride for rest, stride in zip(geometry.rest, geometry.stride, strict=True)):
            return _widely_padded(g, x, weight, bias, geometry)
        return g.ConvTranspose(x, weight, bias, output_padding=geometry.rest, **geometry.attributes)
    geometry = geometry_of(x.shape, weight.shape, call.shape, stride, padding, dilation, groups)
    if fits_blocks(g, geometry):
        return blocked_convolution(g, x, weight, bias, geometry)
    if g.serial and geometry.is_plain and _FEW_CHANNELS <= geometry.inputs < _MANY_CHANNELS:
        return g.ConvTranspose(x, turned(g, weight, geometry), bias, **geometry.backwards.attributes)
    return g.Conv(x, weight, bias, **geometry.attributes)


@rule("convolution_backward")
def convolution_backward(
    g: GraphWriter,
    call: Call,
    dy: Value,
    x: Value,
    weight: Value,
    bias_sizes: object,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    mask: Sequence[bool],
) -> tuple[str | None, ...]:
    """Gradients of x, weight and bias.

    A norm after the convolution says what dy was before it was multiplied by a factor for each channel. Then the kernel
    is multiplied, and its gradient, which are smaller.
    """
    over = [dim for dim in range(len(dy.shape)) if dim != 1]
    dbias = g.ReduceSum(dy, over, keepdims=0) if mask[2] else None
    if transposed:
        geometry = geometry_of(dy.shape, weight.shape, x.shape, stride, padding, dilation, groups)
        dx = g.Conv(dy, weight, **geometry.attributes) if mask[0] else None
        if dx and any(rest >= stride for rest, stride in zip(geometry.rest, geometry.stride, strict=True)):
            spatial = list(range(2, len(x.shape)))  # positions in the padding of the output have no input
            dx = g.Slice(dx, [0] * len(spatial), list(geometry.result), spatial)
        return dx, kernel_gradient(g, x, dy, geometry) if mask[1] else None, dbias
    geometry = geometry_of(x.shape, weight.shape, dy.shape, stride, padding, dilation, groups)
    unscaled, *factors = g.recall(dy) or (dy,)
    dx = _input_gradient(g, unscaled, weight, factors, geometry) if mask[0] else None
    dkernel = times(g, kernel_gradient(g, unscaled, x, geometry), factors, len(weight.shape)) if mask[1] else None
    return dx, dkernel, dbias


def _widely_padded(g: GraphWriter, x: str, weight: str, bias: str | None, geometry: Geometry) -> str:
    """A transposed convolution whose output padding exceeds the stride, which ONNX Runtime refuses.

    Output padding takes away from the margin at the end, and what is left of it are zeros, before the bias.
    """
    ends = [max(0, margin - rest) for margin, rest in zip(geometry.padding, geometry.rest, strict=True)]
    zeros = [max(0, rest - margin) for margin, rest in zip(geometry.padding, geometry.rest, strict=True)]
    attributes = geometry.attributes | {"pads": [*geometry.padding, *ends]}
    bare = g.Pad(g.ConvTranspose(x, weight, **attributes), [0] * (2 + len(zeros) + 2) + zeros)
    if bias is None:
        return bare
    return g.Add(bare, g.Reshape(bias, [-1, *[1] * len(zeros)]))


def _input_gradient(g: GraphWriter, dy: str, weight: str, factors: Sequence[str], geometry: Geometry) -> str:
    """Gradient of x: dy, convolved backwards with the weight times the factors."""
    if geometry.is_reversible and fits_blocks(g, geometry.backwards):
        return blocked_input_gradient(g, dy, weight, factors, geometry)
    scaled = times(g, weight, factors, len(geometry.kernel_shape))
    if geometry.is_plain and not g.serial:
        return g.Conv(dy, turned(g, scaled, geometry), **geometry.backwards.attributes)
    return g.ConvTranspose(dy, scaled, output_padding=geometry.rest, **geometry.attributes)
