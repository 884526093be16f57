"""FedAvgM: the server moves with momentum. Use it where cohorts are small and unlike each other.

Hsu, Qi and Brown, "Measuring the Effects of Non-Identical Data Distribution for Federated Visual Classification" (arXiv
1909.06335):

    m = beta m + Delta          x = x + lr m
"""

from __future__ import annotations

import numpy as np

from lamina.coordinator.algorithms.server_optimiser import Rates, ServerOptimiser
from lamina.coordinator.folds.exact import Doubles
from lamina.coordinator.folds.fold import Vectors


def start(size: int, tau: float) -> Vectors:
    """No momentum, (1, size)."""
    return np.zeros((1, size), np.float32)


def step(delta: Doubles, memory: Vectors, rates: Rates) -> tuple[Doubles, Vectors]:
    """See `ServerOptimiser.step`."""
    momentum = rates.beta * memory[0].astype(np.float64) + delta
    return rates.rate * momentum, momentum[None].astype(np.float32)


ALGORITHM = ServerOptimiser("fedavgm", 1.0, start, step)
