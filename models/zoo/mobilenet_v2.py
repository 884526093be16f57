"""MobileNetV2 for 32x32 colour images.

Source: Sandler et al. 2018, "MobileNetV2: Inverted Residuals and Linear Bottlenecks" (arXiv 1801.04381), table 2. As is
usual for images of this size, the first convolution and the second stage keep the resolution; all else is the paper's.
"""

from __future__ import annotations

from torch import Tensor, nn

from lamina.models.definition import Definition
from lamina.models.initial import start_he
from lamina.models.norms import MakeNorm, norm_named

# Expansion, channels, blocks, and the stride of the first one.
STAGES = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
FIRST_CHANNELS = 32
LAST_CHANNELS = 1280
MULTIPLE = 8  # of channels, whatever the width


class InvertedResidual(nn.Module):
    """Wide inside, narrow between: expand, filter each channel by itself, project back without an activation.

    Args:
        inputs: channels in.
        outputs: channels out.
        stride: of the filter.
        expansion: channels inside, over ``inputs``; 1 leaves the expanding convolution out.
        norm: makes a norm for a number of channels.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int, norm: MakeNorm) -> None:
        super().__init__()
        inside = inputs * expansion
        self.expand = _convolution(inputs, inside, 1, norm) if expansion > 1 else nn.Identity()
        self.filter = _convolution(inside, inside, 3, norm, stride=stride, groups=inside)
        self.project = nn.Conv2d(inside, outputs, 1, bias=False)
        self.project_norm = norm(outputs)
        self.has_shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H/stride, W/stride)."""
        y: Tensor = self.project_norm(self.project(self.filter(self.expand(x))))
        return x + y if self.has_shortcut else y


class MobileNetV2(nn.Module):
    """A convolution, seven stages of inverted residuals, a 1x1 convolution, a dense layer.

    Args:
        classes: number of classes.
        width: multiplier of the channels.
        norm: makes a norm for a number of channels.
    """

    def __init__(self, classes: int, width: float, norm: MakeNorm) -> None:
        super().__init__()
        stages: list[nn.Sequential] = []
        first = channels = scaled(FIRST_CHANNELS, width)
        for expansion, base, count, stride in STAGES:
            outputs = scaled(base, width)
            strides = (stride, *[1] * (count - 1))
            inputs = (channels, *[outputs] * (count - 1))
            stages.append(
                nn.Sequential(
                    *(
                        InvertedResidual(each, outputs, step, expansion, norm)
                        for each, step in zip(inputs, strides, strict=True)
                    )
                )
            )
            channels = outputs
        last = scaled(LAST_CHANNELS, max(1.0, width))
        self.first = _convolution(3, first, 3, norm)
        self.stages = nn.ModuleList(stages)
        self.last = _convolution(channels, last, 1, norm)
        self.classifier = nn.Linear(last, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes)."""
        x = self.first(x)  # (N, 3, 32, 32) -> (N, 32, 32, 32)
        for stage in self.stages:  # -> 16, 24 at 32x32; 32 at 16x16; 64, 96 at 8x8; 160, 320 at 4x4
            x = stage(x)
        x = self.last(x)  # -> (N, 1280, 4, 4)
        return self.classifier(x.mean((2, 3)))  # type: ignore[no-any-return]  # torch's modules return Any


def build(*, classes: int = 10, width: float = 1.0, norm: str = "batch") -> Definition:
    """The network for x (N, 3, 32, 32), with three sub-models: everything, the last four stages, the last two.

    Args:
        classes: number of classes.
        width: multiplier of the channels, which stay multiples of 8; the last convolution never has fewer than 1,280.
        norm: ``batch``, or ``group``.

    Raises:
        ModelError: there is no such norm.
    """
    module = MobileNetV2(classes, width, norm_named(norm, "mobilenet_v2"))
    start_he(module)
    nn.init.normal_(module.classifier.weight, std=0.01)
    return Definition("mobilenet_v2", module, (3, 32, 32), classes, cuts=("stages.3", "stages.5"))


def scaled(channels: int, width: float) -> int:
    """Channels times width, rounded to a multiple of 8, and never down by more than a tenth."""
    rounded = max(MULTIPLE, int(channels * width + MULTIPLE / 2) // MULTIPLE * MULTIPLE)
    return rounded if rounded >= 0.9 * channels * width else rounded + MULTIPLE


def _convolution(
    inputs: int, outputs: int, kernel: int, norm: MakeNorm, *, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """A convolution with a norm and a rectifier that saturates at 6."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, norm(outputs), nn.ReLU6())
