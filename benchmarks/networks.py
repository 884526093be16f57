"""Networks that are in wide use, for the benchmarks alone: a convolution with many channels is another thing than one
of the zoo's, which are small.

They are those of the papers, for images of 64x64. What draws random numbers in training (dropout, stochastic depth) is
left out, so that two engines can be held to the same loss.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lamina.models.definition import Definition
from lamina.models.initial import start_he
from lamina.models.zoo.mobilenet_v2 import scaled

IMAGE = (3, 64, 64)
# ResNet18: channels and stride of each stage of two blocks.
RESNET_STAGES = ((64, 1), (128, 2), (256, 2), (512, 2))
# EfficientNet-B0: expansion, channels, blocks, stride of the first, kernel.
EFFICIENTNET_STAGES = (
    *((1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3)),
    *((6, 112, 3, 1, 5), (6, 192, 4, 2, 5), (6, 320, 1, 1, 3)),
)
# MobileNetV3-small: kernel, channels inside, channels out, whether squeezed, whether hard swish, stride.
MOBILENET_BLOCKS = (
    *((3, 16, 16, True, False, 2), (3, 72, 24, False, False, 2), (3, 88, 24, False, False, 1)),
    *((5, 96, 40, True, True, 2), (5, 240, 40, True, True, 1), (5, 240, 40, True, True, 1)),
    *((5, 120, 48, True, True, 1), (5, 144, 48, True, True, 1)),
    *((5, 288, 96, True, True, 2), (5, 576, 96, True, True, 1), (5, 576, 96, True, True, 1)),
)


class BasicBlock(nn.Module):
    """Two convolutions beside a shortcut.

    Args:
        inputs: channels in.
        outputs: channels out.
        stride: of the first convolution.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = convolution(inputs, outputs, 3, stride, activation=nn.ReLU())
        self.second = convolution(outputs, outputs, 3)
        is_same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if is_same else convolution(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H/stride, W/stride)."""
        return torch.relu(self.second(self.first(x)) + self.shortcut(x))


class Squeeze(nn.Module):
    """Weighs each channel by what all of them hold on the whole (squeeze and excitation).

    Args:
        channels: that are weighed.
        between: channels in which the weights are computed.
        inner: the activation there.
        gate: what makes weights.
    """

    def __init__(self, channels: int, between: int, inner: nn.Module, gate: nn.Module) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, between, 1), nn.Conv2d(between, channels, 1)
        self.inner, self.gate = inner, gate

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same."""
        weights: Tensor = self.gate(self.up(self.inner(self.down(x.mean((2, 3), keepdim=True)))))
        return x * weights


class InvertedResidual(nn.Module):
    """Expand, filter each channel by itself, weigh the channels, project back.

    Args:
        inputs: channels in.
        inside: channels between.
        outputs: channels out.
        kernel: of the filter.
        stride: of the filter.
        activation: after expanding and filtering.
        squeeze: weighs the channels, if it is there.
    """

    def __init__(
        self,
        inputs: int,
        inside: int,
        outputs: int,
        kernel: int,
        stride: int,
        activation: type[nn.Module],
        squeeze: nn.Module | None,
    ) -> None:
        super().__init__()
        self.expand = convolution(inputs, inside, 1, activation=activation()) if inside != inputs else nn.Identity()
        self.filter = convolution(inside, inside, kernel, stride, groups=inside, activation=activation())
        self.squeeze = squeeze or nn.Identity()
        self.project = convolution(inside, outputs, 1)
        self.has_shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H/stride, W/stride)."""
        y: Tensor = self.project(self.squeeze(self.filter(self.expand(x))))
        return x + y if self.has_shortcut else y


def resnet18(*, classes: int = 10) -> Definition:
    """ResNet18 (He et al. 2015, arXiv 1512.03385, table 1)."""
    first = nn.Sequential(convolution(3, 64, 7, 2, activation=nn.ReLU()), nn.MaxPool2d(3, 2, 1))
    blocks: list[nn.Module] = []
    inputs = 64
    for outputs, stride in RESNET_STAGES:
        blocks += [BasicBlock(inputs, outputs, stride), BasicBlock(outputs, outputs, 1)]
        inputs = outputs
    return _network("resnet18", [first, *blocks], [nn.Linear(inputs, classes)], classes)


def efficientnet_b0(*, classes: int = 10) -> Definition:
    """EfficientNet-B0 (Tan and Le 2019, arXiv 1905.11946, table 1)."""
    blocks: list[nn.Module] = [convolution(3, 32, 3, 2, activation=nn.SiLU())]
    inputs = 32
    for expansion, outputs, count, first_stride, kernel in EFFICIENTNET_STAGES:
        for stride in (first_stride, *[1] * (count - 1)):
            inside = inputs * expansion
            squeeze = Squeeze(inside, inputs // 4, nn.SiLU(), nn.Sigmoid())
            blocks.append(InvertedResidual(inputs, inside, outputs, kernel, stride, nn.SiLU, squeeze))
            inputs = outputs
    blocks.append(convolution(inputs, 1280, 1, activation=nn.SiLU()))
    return _network("efficientnet_b0", blocks, [nn.Linear(1280, classes)], classes)


def mobilenet_v3_small(*, classes: int = 10) -> Definition:
    """MobileNetV3-small (Howard et al. 2019, arXiv 1905.02244, table 2)."""
    blocks: list[nn.Module] = [convolution(3, 16, 3, 2, activation=nn.Hardswish())]
    inputs = 16
    for kernel, inside, outputs, squeezed, swish, stride in MOBILENET_BLOCKS:
        squeeze = Squeeze(inside, scaled(inside, 0.25), nn.ReLU(), nn.Hardsigmoid()) if squeezed else None
        activation = nn.Hardswish if swish else nn.ReLU
        blocks.append(InvertedResidual(inputs, inside, outputs, kernel, stride, activation, squeeze))
        inputs = outputs
    blocks.append(convolution(inputs, 6 * inputs, 1, activation=nn.Hardswish()))
    head = [nn.Linear(6 * inputs, 1024), nn.Hardswish(), nn.Linear(1024, classes)]
    return _network("mobilenet_v3_small", blocks, head, classes)


def convolution(
    inputs: int, outputs: int, kernel: int, stride: int = 1, *, groups: int = 1, activation: nn.Module | None = None
) -> nn.Sequential:
    """A convolution with a batch norm, and perhaps an activation."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), *([activation] if activation else []))


def _network(name: str, blocks: Sequence[nn.Module], head: Sequence[nn.Module], classes: int) -> Definition:
    """Blocks, the mean over positions, and dense layers, with cuts at the middle and before the last eighth."""
    body = nn.Sequential(*blocks)
    module = nn.Sequential()
    module.add_module("body", body)
    module.add_module("pool", nn.AdaptiveAvgPool2d(1))
    module.add_module("flatten", nn.Flatten())
    module.add_module("head", nn.Sequential(*head))
    start_he(module)
    count = len(blocks)
    return Definition(name, module, IMAGE, classes, cuts=(f"body.{count // 2}", f"body.{count - max(1, count // 8)}"))
