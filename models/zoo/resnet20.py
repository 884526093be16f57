"""ResNet20 for 32x32 colour images, as in the experiments of FedLAMA and EmbracingFL.

Source: He et al. 2016, "Deep residual learning for image recognition" (arXiv 1512.03385), section 4.2. Two things are
as in those experiments, and not as in the paper: the first block of *every* stage has a 1x1 projection with a norm on
its shortcut, and the second norm of each block starts at zero, so each block starts as its shortcut.
"""

from __future__ import annotations

from torch import Tensor, nn

from lamina.models.definition import Definition
from lamina.models.initial import start_glorot
from lamina.models.norms import MakeNorm, norm_named

WIDTHS = (16, 32, 64)
BLOCKS_PER_STAGE = 3


class Residual(nn.Module):
    """Two 3x3 convolutions around a shortcut.

    Args:
        inputs: channels in.
        outputs: channels out.
        stride: of the first convolution and of the projection.
        projected: whether a 1x1 convolution stands on the shortcut.
        norm: makes a norm for a number of channels.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, projected: bool, norm: MakeNorm) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm1 = norm(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = norm(outputs)
        self.projection: nn.Conv2d | None = None
        if projected:
            self.projection = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.projection_norm = norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H/stride, W/stride)."""
        y = self.norm1(self.conv1(x)).relu()
        y = self.norm2(self.conv2(y))
        shortcut = x if self.projection is None else self.projection_norm(self.projection(x))
        return (y + shortcut).relu()  # type: ignore[no-any-return]  # torch's modules return Any


class ResNet20(nn.Module):
    """A convolution, three stages of three residual blocks, a dense layer.

    Args:
        channels: of the images.
        classes: number of classes.
        norm: makes a norm for a number of channels.
    """

    def __init__(self, channels: int, classes: int, norm: MakeNorm) -> None:
        super().__init__()
        self.conv0 = nn.Conv2d(channels, WIDTHS[0], 3, padding=1, bias=False)
        self.norm0 = norm(WIDTHS[0])
        self.stage1 = _stage(WIDTHS[0], WIDTHS[0], 1, norm)
        self.stage2 = _stage(WIDTHS[0], WIDTHS[1], 2, norm)
        self.stage3 = _stage(WIDTHS[1], WIDTHS[2], 2, norm)
        self.classifier = nn.Linear(WIDTHS[2], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes)."""
        x = self.norm0(self.conv0(x)).relu()  # (N, 3, 32, 32) -> (N, 16, 32, 32)
        x = self.stage1(x)  # -> (N, 16, 32, 32)
        x = self.stage2(x)  # -> (N, 32, 16, 16)
        x = self.stage3(x)  # -> (N, 64, 8, 8)
        return self.classifier(x.mean((2, 3)))  # type: ignore[no-any-return]  # torch's modules return Any


def build(*, channels: int = 3, size: int = 32, classes: int = 10, norm: str = "batch") -> Definition:
    """The network for square images, with three sub-models: everything, the last six blocks, the last three.

    Args:
        channels: of the images.
        size: of the images, in pixels; the last stage sees a quarter of it.
        classes: number of classes.
        norm: ``batch``, or ``group``.

    Raises:
        ModelError: there is no such norm.
    """
    module = ResNet20(channels, classes, norm_named(norm, "resnet20"))
    start_glorot(module)
    for part in module.modules():
        if isinstance(part, Residual):
            nn.init.zeros_(part.norm2.weight)  # type: ignore[arg-type]  # a norm's weight is a tensor
    return Definition("resnet20", module, (channels, size, size), classes, cuts=("stage2.0", "stage3.0"))


def _stage(inputs: int, outputs: int, stride: int, norm: MakeNorm) -> nn.Sequential:
    first = Residual(inputs, outputs, stride, True, norm)
    rest = [Residual(outputs, outputs, 1, False, norm) for _ in range(BLOCKS_PER_STAGE - 1)]
    return nn.Sequential(first, *rest)
