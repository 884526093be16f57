"""How does a convolution whose kernel changes at every step run in ONNX Runtime's blocked layout?

In that layout the channels of a pixel lie side by side in blocks, as many as fit a vector register of the processor: 16
with AVX-512, 8 with AVX2. Convolutions in it take about 0.6 of the time. ONNX Runtime goes over to it by itself, but
for constant kernels only. Its operators (domain ``com.microsoft.nchwc``) take any kernel, provided that the graph
arranges it in blocks, which for so small a tensor costs little.

The size of a block is the processor's, so a graph with such operators fits some processors only, and some versions of
ONNX Runtime: a bundle has it beside one of standard operators, and a device finds out which of them serves it
(`edge_agent.tuning`).
"""

from __future__ import annotations

from models.graph.rules.geometry import Geometry
from models.graph.writer import BLOCKED_DOMAIN, GraphWriter


def fits_blocks(g: GraphWriter, geometry: Geometry) -> bool:
    """Whether a convolution can be written so: in whole blocks of channels, or from fewer channels than a block has."""
    if not g.block or len(geometry.kernel) != 2 or geometry.outputs % g.block:
        return False
    if geometry.groups > 1:
        return geometry.is_depthwise
    return geometry.inputs % g.block == 0 or geometry.inputs < g.block


def blocked_convolution(g: GraphWriter, x: str, kernel: str, bias: str | None, geometry: Geometry) -> str:
    """The convolution of x (N, C, H, W) with kernel (O, C / groups, ...)."""
    arranged = _arranged(g, kernel, geometry)
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
    rows = g.Reshape(kernel, [outer, g.block, geometry.width // g.block, g.block, taps])
    return g.Reshape(g.Transpose(rows, perm=[0, 2, 4, 3, 1]), list(geometry.kernel_shape))


def _blocked(g: GraphWriter, operator: str, *inputs: str | None, **attributes: object) -> str:
    return g.many(operator, 1, *inputs, domain=BLOCKED_DOMAIN, **attributes)[0]
