"""FedAdam: every parameter has a rate of its own. Use it where layers need that (embeddings, for instance).

Reddi et al., "Adaptive Federated Optimization" (ICLR 2021, arXiv 2003.00295, Algorithm 2):

    m = beta1 m + (1 - beta1) Delta
    v = beta2 v + (1 - beta2) Delta^2, from v = tau^2          x = x + lr m / (sqrt(v) + tau)
"""

from __future__ import annotations

import numpy as np

from lamina.coordinator.algorithms.server_optimiser import Rates, ServerOptimiser
from lamina.coordinator.folds.exact import Doubles
from lamina.coordinator.folds.fold import Vectors


def start(size: int, tau: float) -> Vectors:
    """No momentum, and v = tau^2: (2, size)."""
    return np.stack([np.zeros(size, np.float32), np.full(size, tau**2, np.float32)])


def step(delta: Doubles, memory: Vectors, rates: Rates) -> tuple[Doubles, Vectors]:
    """See `ServerOptimiser.step`."""
    before = memory.astype(np.float64)
    momentum = rates.beta * before[0] + (1 - rates.beta) * delta
    second_moment = rates.beta2 * before[1] + (1 - rates.beta2) * np.square(delta)
    move = rates.rate * momentum / (np.sqrt(second_moment) + rates.tau)
    return move, np.stack([momentum, second_moment]).astype(np.float32)


ALGORITHM = ServerOptimiser("fedadam", 0.01, start, step)
