"""FedYogi: FedAdam whose second moment moves by a bounded amount, so one large change does not shrink all later steps.

Reddi et al., "Adaptive Federated Optimization" (ICLR 2021, arXiv 2003.00295, Algorithm 2):

    m = beta1 m + (1 - beta1) Delta
    v = v - (1 - beta2) Delta^2 sign(v - Delta^2), from v = tau^2          x = x + lr m / (sqrt(v) + tau)

Use it where FedAdam is stable at first and then slows down: updates that are sparse, or unlike from cohort to cohort.
"""

from __future__ import annotations

import numpy as np

from lamina.coordinator.algorithms.fedadam import start
from lamina.coordinator.algorithms.server_optimiser import Rates, ServerOptimiser
from lamina.coordinator.folds.exact import Doubles
from lamina.coordinator.folds.fold import Vectors


def step(delta: Doubles, memory: Vectors, rates: Rates) -> tuple[Doubles, Vectors]:
    """See `ServerOptimiser.step`."""
    before, square = memory.astype(np.float64), np.square(delta)
    momentum = rates.beta * before[0] + (1 - rates.beta) * delta
    second_moment = before[1] - (1 - rates.beta2) * square * np.sign(before[1] - square)
    move = rates.rate * momentum / (np.sqrt(second_moment) + rates.tau)
    return move, np.stack([momentum, second_moment]).astype(np.float32)


ALGORITHM = ServerOptimiser("fedyogi", 0.01, start, step)
