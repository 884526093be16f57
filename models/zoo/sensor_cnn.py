"""A convolutional network over windows of sensor readings, such as a phone's while its owner walks or climbs stairs.

Source: Ronao and Cho 2016, "Human activity recognition with smartphone sensors using deep learning neural networks":
convolutions over time with wide kernels, each with a pooling. The default shapes are those of UCI's HAR recordings: 9
channels (acceleration with and without gravity, rotation), 2.56 s at 50 Hz, 6 activities. Two things are different: the
channels are as few as a small board can train, and there is a group norm, since one person's recordings have the
statistics of that person only.
"""

from __future__ import annotations

from torch import Tensor, nn

from lamina.models.definition import Definition
from lamina.models.initial import start_he
from lamina.models.norms import GROUPS

KERNEL = 9  # readings: 0.18 s


class SensorCnn(nn.Module):
    """Three convolutions over time and two dense layers.

    Args:
        channels: of a reading.
        length: readings in a window, a multiple of 8.
        width: channels of the first convolution; the others have twice as many.
        hidden: outputs of the first dense layer.
        classes: number of classes.
    """

    def __init__(self, channels: int, length: int, width: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.stage1 = _stage(channels, width)
        self.stage2 = _stage(width, 2 * width)
        self.stage3 = _stage(2 * width, 2 * width)
        self.hidden = nn.Linear(2 * width * (length // 8), hidden)
        self.classifier = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes)."""
        x = self.stage1(x)  # (N, 9, 128) -> (N, 32, 64)
        x = self.stage2(x)  # -> (N, 64, 32)
        x = self.stage3(x)  # -> (N, 64, 16)
        x = self.hidden(x.flatten(1)).relu()  # (N, 1024) -> (N, 64)
        return self.classifier(x)  # type: ignore[no-any-return]  # torch's modules return Any


def build(*, channels: int = 9, length: int = 128, width: int = 32, hidden: int = 64, classes: int = 6) -> Definition:
    """The network for x (N, channels, length), with three sub-models: everything, from ``stage3``, the dense layers."""
    module = SensorCnn(channels, length, width, hidden, classes)
    start_he(module)
    return Definition("sensor_cnn", module, (channels, length), classes, cuts=("stage3", "hidden"))


def _stage(inputs: int, outputs: int) -> nn.Sequential:
    conv = nn.Conv1d(inputs, outputs, KERNEL, padding=KERNEL // 2, bias=False)
    return nn.Sequential(conv, nn.GroupNorm(GROUPS, outputs), nn.ReLU(), nn.MaxPool1d(2))
