"""Foretells the next day of a sensor, hour by hour: the value in the middle, and one it is seldom below and above."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lamina.models.tasks.regression import Regression

HOURS, AHEAD = 48, 24
QUANTILES = (0.1, 0.5, 0.9)


class Forecaster(nn.Module):
    """What follows two days of readings, (N, 48, 1): (N, 24, 1, 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.hours = nn.Linear(HOURS, 48)
        self.shape = nn.Linear(48, 32)
        self.quantiles = nn.Linear(32, AHEAD * len(QUANTILES))

    def forward(self, x: Tensor) -> Tensor:
        """The quantiles of the next day."""
        level = x[:, -24:].mean(dim=1, keepdim=True)  # (N, 1, 1): sensors differ in it, and days do
        hidden = torch.relu(self.shape(torch.relu(self.hours((x - level).flatten(1)))))
        return self.quantiles(hidden).reshape(-1, AHEAD, 1, len(QUANTILES)) + level.unsqueeze(-1)


def build() -> nn.Module:
    """The network, and what it learns."""
    module = Forecaster()
    module.input_shape, module.task = (HOURS, 1), Regression(quantiles=QUANTILES)
    return module
