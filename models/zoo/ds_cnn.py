"""DS-CNN, the small network that spots keywords in a second of speech.

Source: Zhang et al. 2017, "Hello Edge: Keyword Spotting on Microcontrollers" (arXiv 1711.07128), the smallest DS-CNN of
table 4, which is also the keyword spotter of MLPerf Tiny. A sample is 49 frames of 10 cepstral coefficients (MFCC). The
convolutions have no biases here, which their batch norms would cancel.
"""

from __future__ import annotations

from torch import Tensor, nn

from lamina.models.definition import Definition
from lamina.models.initial import start_he
from lamina.models.norms import MakeNorm, norm_named

SEPARABLE_BLOCKS = 4


class Separable(nn.Module):
    """A 3x3 convolution of each channel by itself, then a 1x1 convolution that mixes the channels.

    Args:
        channels: in and out.
        norm: makes a norm for a number of channels.
    """

    def __init__(self, channels: int, norm: MakeNorm) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.depthwise_norm = norm(channels)
        self.pointwise = nn.Conv2d(channels, channels, 1, bias=False)
        self.pointwise_norm = norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) to the same shape."""
        x = self.depthwise_norm(self.depthwise(x)).relu()
        return self.pointwise_norm(self.pointwise(x)).relu()  # type: ignore[no-any-return]  # torch's modules return Any


class DsCnn(nn.Module):
    """A convolution over time and frequency, four separable ones, a dense layer.

    Args:
        classes: number of keywords, with silence and unknown words.
        width: channels of every convolution.
        norm: makes a norm for a number of channels.
    """

    def __init__(self, classes: int, width: int, norm: MakeNorm) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, width, (10, 4), stride=2, padding=(5, 1), bias=False)
        self.norm = norm(width)
        self.blocks = nn.Sequential(*(Separable(width, norm) for _ in range(SEPARABLE_BLOCKS)))
        self.classifier = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes) of frames and coefficients (N, 1, 49, 10)."""
        x = self.norm(self.conv(x)).relu()  # (N, 1, 49, 10) -> (N, 64, 25, 5)
        x = self.blocks(x)  # -> (N, 64, 25, 5)
        return self.classifier(x.mean((2, 3)))  # type: ignore[no-any-return]  # torch's modules return Any


def build(*, classes: int = 12, width: int = 64, norm: str = "batch") -> Definition:
    """The network for x (N, 1, 49, 10), with three sub-models: everything, the last two blocks, the last one.

    Args:
        classes: number of classes.
        width: channels of every convolution.
        norm: ``batch``, or ``group``.

    Raises:
        ModelError: there is no such norm.
    """
    module = DsCnn(classes, width, norm_named(norm, "ds_cnn"))
    start_he(module)
    return Definition("ds_cnn", module, (1, 49, 10), classes, cuts=("blocks.2", "blocks.3"))
