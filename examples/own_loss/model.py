"""Tells how much is needed, where too little costs more than too much: a loss and a metric of one's own."""

from __future__ import annotations

import torch
from torch import Tensor, nn

SHORTAGE = 3.0  # what a unit too little costs; a unit too much costs 1


def cost(outputs: Tensor, targets: Tensor) -> Tensor:
    """What each sample costs, (N,)."""
    lacking = targets - outputs
    return torch.where(lacking > 0, SHORTAGE * lacking, -lacking)


def mean_cost(outputs: Tensor, targets: Tensor) -> Tensor:
    """The loss: a mean over the batch."""
    return cost(outputs, targets).mean()


def total_cost(outputs: Tensor, targets: Tensor) -> tuple[Tensor, int]:
    """A metric: its sum and its count, which add up over batches and devices."""
    return cost(outputs, targets).sum(), targets.numel()


def shortages(outputs: Tensor, targets: Tensor) -> tuple[Tensor, int]:
    """Another: how often there is too little."""
    return (outputs < targets).sum(), targets.numel()


total_cost.higher_is_better = False  # the best round goes by it


class Demand(nn.Module):
    """A number, from ten."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(10, 24), nn.Linear(24, 16), nn.Linear(16, 1)

    def forward(self, x: Tensor) -> Tensor:
        """How much is needed, (N,)."""
        return self.last(torch.relu(self.second(torch.relu(self.first(x))))).squeeze(1)


def build() -> nn.Module:
    """The network, and what it learns."""
    module = Demand()
    module.input_shape, module.task = (10,), "regression"
    module.loss, module.metrics = mean_cost, {"cost": total_cost, "shortages": shortages}
    return module
