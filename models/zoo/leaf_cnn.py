"""The convolutional network of LEAF's FEMNIST benchmark, for 28x28 grey images.

Source: Caldas et al. 2018, "LEAF: a benchmark for federated settings" (arXiv 1812.01097), whose reference model has two
5x5 convolutions of 32 and 64 channels, each with a 2x2 max-pooling, and a dense layer of 2,048. FEMNIST has 62 classes;
the default here is 10, as in MNIST and Fashion-MNIST.
"""

from __future__ import annotations

from torch import Tensor, nn

from lamina.models.definition import Definition
from lamina.models.initial import start_glorot


class LeafCnn(nn.Module):
    """Two convolutions and two dense layers; 99% of the parameters stand in the first dense layer.

    Args:
        classes: number of classes.
        hidden: outputs of the first dense layer.
    """

    def __init__(self, classes: int, hidden: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 5, padding=2)
        self.conv2 = nn.Conv2d(32, 64, 5, padding=2)
        self.pool = nn.MaxPool2d(2)
        self.hidden = nn.Linear(64 * 7 * 7, hidden)
        self.classifier = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes)."""
        x = self.pool(self.conv1(x).relu())  # (N, 1, 28, 28) -> (N, 32, 14, 14)
        x = self.pool(self.conv2(x).relu())  # -> (N, 64, 7, 7)
        x = self.hidden(x.flatten(1)).relu()  # (N, 3136) -> (N, 2048)
        return self.classifier(x)  # type: ignore[no-any-return]  # torch's modules return Any


def build(*, classes: int = 10, hidden: int = 2048) -> Definition:
    """The network for x (N, 1, 28, 28), with a cut before every layer.

    Glorot's initial values are those of the framework that LEAF's model was written in.
    """
    module = LeafCnn(classes, hidden)
    start_glorot(module)
    return Definition("leaf_cnn", module, (1, 28, 28), classes)
