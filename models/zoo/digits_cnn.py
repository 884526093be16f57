"""A small network for the 8x8 handwritten digits that come with scikit-learn: it learns in seconds on any board.

Four choices make it fit for a fleet of unequal devices with skewed labels:

- The convolutions have nearly all activations, the dense layers most parameters (64%). So cuts save much memory, and
  even the smallest sub-model trains most of the network: capacities at batch 32 are 1, 0.30 and 0.18.
- It pools before the third convolution, so the activations that enter the later sub-models are small. At full size
  they, and the frozen convolutions that make them, would take more memory than training those convolutions, too.
- There is no norm. On a device with few classes, batch statistics describe those classes only, so the running averages
  of a batch norm, averaged over the devices, fit nobody. Three convolutions with He's initial values need no norm;
  group norm would be safe, too, and would cost every step a pass over the largest activations.
- There is no dropout: at 52,298 parameters it only slows.
"""

from __future__ import annotations

from torch import Tensor, nn

from lamina.models.definition import Definition
from lamina.models.initial import start_he


class DigitsCnn(nn.Module):
    """Three convolutions and two dense layers.

    Args:
        classes: number of classes.
        width: channels of every convolution.
        hidden: outputs of the first dense layer.
    """

    def __init__(self, classes: int, width: int, hidden: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.conv3 = nn.Conv2d(width, width, 3, padding=1)
        self.hidden = nn.Linear(width * 4 * 4, hidden)
        self.classifier = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes) of pixels between 0 and 1."""
        x = self.conv1(x).relu()  # (N, 1, 8, 8) -> (N, 32, 8, 8)
        x = self.pool(self.conv2(x).relu())  # -> (N, 32, 4, 4)
        x = self.conv3(x).relu()  # -> (N, 32, 4, 4)
        x = self.hidden(x.flatten(1)).relu()  # (N, 512) -> (N, 64)
        return self.classifier(x)  # type: ignore[no-any-return]  # torch's modules return Any


def build(*, classes: int = 10, width: int = 32, hidden: int = 64) -> Definition:
    """The network for x (N, 1, 8, 8), with three sub-models: everything, from ``conv3``, the dense layers."""
    module = DigitsCnn(classes, width, hidden)
    start_he(module)
    return Definition("digits_cnn", module, (1, 8, 8), classes, cuts=("conv3", "hidden"))
