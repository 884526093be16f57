"""Networks of a few dozen parameters, for simulations that end in a moment."""

import torch
from torch import Tensor, nn

from lamina.models.definition import Definition


class Convolutional(nn.Module):
    """Two convolutions with norms, and a classifier: has running statistics, and two cuts."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 8, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(8)
        self.classifier = nn.Linear(8 * 4, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(self.conv1(x)).relu()  # (N, 4, 4, 4)
        x = nn.functional.max_pool2d(self.norm2(self.conv2(x)).relu(), 2)  # (N, 8, 2, 2)
        return self.classifier(x.flatten(1))


def convolutional(*, classes: int = 3) -> Definition:
    return Definition("convolutional", Convolutional(classes), (1, 4, 4), classes)


def dense(*, classes: int = 3) -> Definition:
    module = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, classes))
    return Definition("dense", module, (1, 4, 4), classes)


def recurrent(*, classes: int = 3) -> Definition:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(4, 5, batch_first=True)
            self.classifier = nn.Linear(5, classes)

        def forward(self, x: Tensor) -> Tensor:
            y, _ = self.lstm(x.squeeze(1))
            return self.classifier(torch.amax(y, 1))

    return Definition("recurrent", Recurrent(), (1, 4, 4), classes)
