"""The extents of a convolution, and of the one that goes back from its output to its input."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lamina.models.graph.values import Extent, static
from lamina.models.graph.writer import GraphWriter


@dataclass(frozen=True)
class Geometry:
    """Extents of a convolution; tuples are over its spatial dimensions.

    Attributes:
        inputs: channels of the input.
        outputs: channels of the output.
        image: extents of the input.
        result: extents of the output.
        kernel: extents of the kernel.
        stride: step between two positions of the kernel.
        padding: zeros on either side of the input.
        dilation: step between two taps of the kernel.
        groups: into which the channels are divided.
    """

    inputs: int
    outputs: int
    image: tuple[int, ...]
    result: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    @property
    def width(self) -> int:
        """Input channels that a tap sees."""
        return self.inputs // self.groups

    @property
    def is_depthwise(self) -> bool:
        """Whether each channel is convolved by itself, with one kernel."""
        return self.groups == self.inputs == self.outputs

    @property
    def is_reversible(self) -> bool:
        """Whether the way back is a convolution: no stride or dilation, no wide margin, one group or depthwise."""
        simple = {*self.stride, *self.dilation} == {1} and (self.groups == 1 or self.is_depthwise)
        return simple and all(padding < kernel for padding, kernel in zip(self.padding, self.kernel, strict=True))

    @property
    def is_plain(self) -> bool:
        """Whether it is reversible, with several taps and one group."""
        return self.is_reversible and self.groups == 1 and math.prod(self.kernel) > 1

    @property
    def kernel_shape(self) -> tuple[int, ...]:
        """(O, C / groups, ...)."""
        return (self.outputs, self.width, *self.kernel)

    @property
    def attributes(self) -> dict[str, object]:
        """The attributes as ONNX's Conv and ConvTranspose name them."""
        return {
            "kernel_shape": self.kernel,
            "strides": self.stride,
            "pads": self.padding * 2,
            "dilations": self.dilation,
            "group": self.groups,
        }

    @property
    def backwards(self) -> Geometry:
        """The convolution from the output to the input, where it is reversible."""
        return replace(
            self,
            inputs=self.outputs,
            outputs=self.inputs,
            image=self.result,
            result=self.image,
            padding=tuple(kernel - 1 - padding for kernel, padding in zip(self.kernel, self.padding, strict=True)),
        )

    @property
    def rest(self) -> list[int]:
        """Elements at the end of the input that no position of the kernel reaches."""
        extents = zip(self.image, self.result, self.stride, self.dilation, self.kernel, self.padding, strict=True)
        return [
            image + 2 * padding - dilation * (kernel - 1) - 1 - stride * (result - 1)
            for image, result, stride, dilation, kernel, padding in extents
        ]


def geometry_of(
    x: Sequence[Extent],
    weight: Sequence[Extent],
    result: Sequence[Extent],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Geometry:
    """The geometry of a convolution of x (N, C, ...) with weight (O, C / groups, ...) to result (N, O, ...)."""
    inputs, *image = static(x[1:])
    outputs, _, *kernel = static(weight)

    def every(extents: Sequence[int]) -> tuple[int, ...]:
        return tuple(extents) if len(extents) == len(kernel) else tuple(extents) * len(kernel)

    return Geometry(
        inputs=inputs,
        outputs=outputs,
        image=tuple(image),
        result=tuple(static(result[2:])),
        kernel=tuple(kernel),
        stride=every(stride),
        padding=every(padding),
        dilation=every(dilation),
        groups=groups,
    )


def turned(g: GraphWriter, weight: str, geometry: Geometry) -> str:
    """The kernel (O, C, ...) turned round, (C, O, ...); a depthwise one is turned channel by channel."""
    rank = len(geometry.kernel)
    ahead = weight if geometry.groups > 1 else g.Transpose(weight, perm=[1, 0, *range(2, 2 + rank)])
    if set(geometry.kernel) == {1}:
        return ahead
    beyond = [-extent - 1 for extent in geometry.kernel]
    return g.Slice(ahead, [-1] * rank, beyond, list(range(2, 2 + rank)), [-1] * rank)


def times(g: GraphWriter, kernel: str, factors: Sequence[str], rank: int) -> str:
    """The kernel (O, ...) of that rank times factors (O,)."""
    for factor in factors:
        kernel = g.Mul(kernel, g.Reshape(factor, [-1, *[1] * (rank - 1)]))
    return kernel
