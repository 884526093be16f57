"""Convolutions whose kernel changes at every step, in ONNX Runtime's blocked layout.

In that layout the channels of a pixel lie side by side in blocks, as many as fit a vector register of the processor: 16
with AVX-512, 8 with AVX2. Convolutions in it take about 0.6 of the time. ONNX Runtime goes over to it by itself, but
for constant kernels only. Its operators (domain ``com.microsoft.nchwc``) take any kernel, provided that the graph
arranges it in blocks, which for so small a tensor costs little.

The size of a block is the processor's, so a graph with such operators fits some processors only, and some versions of
ONNX Runtime: a bundle has it beside one of standard operators, and a device finds out which of them serves it
(`lamina.edge_agent.training.tuning`).
"""

from __future__ import annotations

from collections.abc import Sequence

from lamina.models.graph.rules.geometry import Geometry, times, turned
from lamina.models.graph.writer import BLOCKED_DOMAIN, GraphWriter


def fits_blocks(g: GraphWriter, geometry: Geometry) -> bool:
    """Whether a convolution can be written so: in whole blocks of channels, or from fewer channels than a block has."""
    if not g.block or len(geometry.kernel) != 2 or geometry.outputs % g.block:
        return False
    if geometry.groups > 1:
        return geometry.is_depthwise
    return geometry.inputs % g.block == 0 or geometry.inputs < g.block


def blocked_convolution(g: GraphWriter, x: str, kernel: str, bias: str | None, geometry: Geometry) -> str:
    """The convolution of x (N, C, H, W) with kernel (O, C / groups, ...)."""
    return _convolved(g, x, _arranged(g, kernel, geometry), bias, geometry)


def blocked_input_gradient(g: GraphWriter, dy: str, kernel: str, factors: Sequence[str], geometry: Geometry) -> str:
    """The gradient of x, where the convolution is reversible and the way back fits blocks.

    Args:
        g: the graph.
        dy: gradient of the result, but for the factors.
        kernel: (O, C / groups, ...)
        factors: by which the kernel is multiplied first, (O,) each.
        geometry: of the convolution.
    """
    back = geometry.backwards
    if geometry.groups > 1 or back.inputs % g.block:
        scaled = times(g, kernel, factors, len(geometry.kernel_shape))
        return _convolved(g, dy, _arranged(g, turned(g, scaled, geometry), back), None, back)
    taps = geometry.kernel[0] * geometry.kernel[1]
    rows = times(g, _taps_outside(g, kernel, geometry), factors, 4)
    rows = g.Reshape(rows, [back.inputs // g.block, g.block, back.outputs // g.block, taps, g.block])
    arranged = g.Transpose(rows, perm=[2, 0, 3, 1, 4])
    if taps > 1:
        arranged = g.Gather(arranged, list(range(taps))[::-1], axis=2)  # turned round
    return _convolved(g, dy, g.Reshape(arranged, list(back.kernel_shape)), None, back)


def _convolved(g: GraphWriter, x: str, arranged: str, bias: str | None, geometry: Geometry) -> str:
    whole = geometry.groups > 1 or geometry.inputs % g.block == 0
    entering = _blocked(g, "ReorderInput", x) if whole else x
    result = _blocked(g, "Conv", entering, arranged, bias, **geometry.attributes)
    return _blocked(g, "ReorderOutput", result, channels=geometry.outputs)


def _arranged(g: GraphWriter, kernel: str, geometry: Geometry) -> str:
    """The kernel with its output channels in blocks innermost, and outside of them its input channels in blocks."""
    outer, taps = geometry.outputs // g.block, geometry.kernel[0] * geometry.kernel[1]
    if geometry.width % g.block:  # few input channels, or one: these stay as they are
        rows = g.Reshape(kernel, [outer, g.block, geometry.width * taps])
        return g.Reshape(g.Transpose(rows, perm=[0, 2, 1]), list(geometry.kernel_shape))
    rows = g.Reshape(_taps_outside(g, kernel, geometry), [outer, g.block, geometry.width * taps])
    return g.Reshape(g.Transpose(rows, perm=[0, 2, 1]), list(geometry.kernel_shape))


def _taps_outside(g: GraphWriter, kernel: str, geometry: Geometry) -> str:
    """The kernel as (O, C / block, taps, block).

    To arrange a kernel takes two steps, each of which moves one axis: ONNX Runtime does that in a third of the time
    that it takes to move several at once.
    """
    blocks, taps = geometry.width // g.block, geometry.kernel[0] * geometry.kernel[1]
    if taps == 1:
        return g.Reshape(kernel, [geometry.outputs, blocks, 1, g.block])
    moved = g.Transpose(g.Reshape(kernel, [-1, g.block, taps]), perm=[0, 2, 1])
    return g.Reshape(moved, [geometry.outputs, blocks, taps, g.block])


def _blocked(g: GraphWriter, operator: str, *inputs: str | None, **attributes: object) -> str:
    return g.many(operator, 1, *inputs, domain=BLOCKED_DOMAIN, **attributes)[0]
