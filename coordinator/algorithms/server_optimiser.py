"""A server optimiser takes steps with a memory of its own, in place of taking each average as it is.

The change that an aggregation brings to a layer, Delta = average - value, takes the place of a negative gradient. A
layer's memory moves when the layer is aggregated; the Delta of a relaxed layer spans more steps, and is larger. The
discrepancy is measured about the average, not about where the step leads. Running statistics are no parameters: they
take the average's value as it is.

Reddi et al., "Adaptive Federated Optimization" (ICLR 2021, arXiv 2003.00295, Algorithm 2) give the frame. As there,
nothing corrects the bias of the start. Arithmetic is float64; memory is kept in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from lamina.coordinator.folds.exact import Doubles
from lamina.coordinator.folds.fold import Vectors
from lamina.models.arrays import Vector


class Rates(Protocol):
    """The numbers of the table ``[server]``."""

    @property
    def rate(self) -> float:
        """The server's learning rate."""

    @property
    def beta(self) -> float:
        """Share of the momentum that stays, in [0, 1)."""

    @property
    def beta2(self) -> float:
        """Share of the second moment that stays, in [0, 1)."""

    @property
    def tau(self) -> float:
        """How little change counts as little; the larger, the more like FedAvgM."""


@dataclass(frozen=True, slots=True)
class ServerOptimiser:
    """An optimiser by its name, as ``server.optimiser`` gives it.

    Attributes:
        name: of the optimiser.
        lr: the learning rate where ``server.lr`` is left out.
        start: the memory of a layer of so many parameters before its first step, float32 (k, size), given tau.
        step: from Delta, float64 (size,), the memory and the rates: how far the parameters move, float64 (size,), and
            the next memory. It leaves what it is given as it is.
    """

    name: str
    lr: float
    start: Callable[[int, float], Vectors]
    step: Callable[[Doubles, Vectors, Rates], tuple[Doubles, Vectors]]


def moved(
    optimiser: ServerOptimiser, rates: Rates, value: Vector, average: Vector, memory: Vectors
) -> tuple[Vector, Vectors]:
    """A layer's next value, and its memory then.

    Args:
        optimiser: takes the step.
        rates: of the step.
        value: the layer's value that the updates started at, float32 (vector_size,).
        average: `Aggregate.value`, of the same shape.
        memory: of the layer, (k, size).
    """
    size = memory.shape[1]
    if value.shape != average.shape or size > value.size:
        raise ValueError(f"a value {value.shape}, an average {average.shape} and a memory of {size} do not fit")
    step, after = optimiser.step(average[:size].astype(np.float64) - value[:size], memory, rates)
    result = average.copy()
    result[:size] = value[:size] + step  # in float64, rounded to float32 once
    return result, after.astype(np.float32)
