"""Learns how machines vibrate when all is well, by reproducing it: what it can't reproduce is an anomaly."""

from __future__ import annotations

import torch
from torch import Tensor, nn

SAMPLES = 64


class Autoencoder(nn.Module):
    """A stretch of vibration, (N, 64), through eight numbers and back."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.narrow = nn.Linear(SAMPLES, 32), nn.Linear(32, 8)
        self.wide, self.last = nn.Linear(8, 32), nn.Linear(32, SAMPLES)

    def forward(self, x: Tensor) -> Tensor:
        """The stretch once more."""
        code = self.narrow(torch.tanh(self.first(x)))
        return self.last(torch.tanh(self.wide(code)))


def build() -> nn.Module:
    """The network, and what it learns."""
    module = Autoencoder()
    module.input_shape, module.task = (SAMPLES,), "reconstruction"
    return module
