"""What if the coordinator, too, takes steps with momentum? Server optimisers over one layer: FedAvgM and FedAdam.

The change that an aggregation brings to a layer, Delta = aggregate - value, takes the place of a negative gradient:

    FedAvgM   m = beta m + Delta                                         x = x + lr m
    FedAdam   m = beta1 m + (1 - beta1) Delta
              v = beta2 v + (1 - beta2) Delta^2, from v = tau^2          x = x + lr m / (sqrt(v) + tau)

Hsu, Qi and Brown, "Measuring the Effects of Non-Identical Data Distribution for Federated Visual Classification" (arXiv
1909.06335); Reddi et al., "Adaptive Federated Optimization" (ICLR 2021, arXiv 2003.00295, Algorithm 2). As there,
nothing corrects the bias of the start.

Use FedAvgM where cohorts are small and unlike each other, FedAdam where layers need rates of their own (embeddings, for
instance). With FedLAMA a layer's state moves when the layer is aggregated; the Delta of a relaxed layer spans more
steps, and is larger. Running statistics are no parameters: they take the aggregate's value as it is.

Pure functions: what they are given stays as it is. Arithmetic is float64; state is kept in float32.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lamina.coordinator.folds.exact import Doubles
from lamina.coordinator.folds.fold import Vector


@dataclass(frozen=True, slots=True, eq=False)
class MomentumState:
    """FedAvgM's memory of a layer.

    Attributes:
        momentum: m, float32, shape (size,): parameters only.
    """

    momentum: Vector


@dataclass(frozen=True, slots=True, eq=False)
class AdamState:
    """FedAdam's memory of a layer.

    Attributes:
        momentum: m, float32, shape (size,): parameters only.
        second_moment: v, of the same shape.
    """

    momentum: Vector
    second_moment: Vector


def fedavgm_start(size: int) -> MomentumState:
    """The state of a layer of ``size`` parameters before its first aggregation."""
    return MomentumState(np.zeros(size, np.float32))


def fedavgm(
    value: Vector, aggregate: Vector, state: MomentumState, *, lr: float = 1.0, beta: float = 0.9
) -> tuple[Vector, MomentumState]:
    """One step of FedAvgM; with ``lr=1`` and ``beta=0`` it gives the aggregate.

    Args:
        value: the layer's value that the updates started at, float32 (vector_size,).
        aggregate: `Aggregate.value`, of the same shape.
        state: of the layer, after its last aggregation.
        lr: the server's learning rate.
        beta: share of the momentum that stays, in [0, 1).

    Returns:
        the layer's next value, and its next state.
    """
    delta = _delta(value, aggregate, state.momentum.size)
    momentum = beta * state.momentum.astype(np.float64) + delta
    return _moved(value, aggregate, lr * momentum), MomentumState(momentum.astype(np.float32))


def fedadam_start(size: int, *, tau: float = 1e-3) -> AdamState:
    """The state of a layer of ``size`` parameters before its first aggregation; ``tau`` as in `fedadam`."""
    return AdamState(np.zeros(size, np.float32), np.full(size, tau**2, np.float32))


def fedadam(
    value: Vector,
    aggregate: Vector,
    state: AdamState,
    *,
    lr: float = 0.01,
    beta1: float = 0.9,
    beta2: float = 0.99,
    tau: float = 1e-3,
) -> tuple[Vector, AdamState]:
    """One step of FedAdam.

    Args:
        value: the layer's value that the updates started at, float32 (vector_size,).
        aggregate: `Aggregate.value`, of the same shape.
        state: of the layer, after its last aggregation.
        lr: the server's learning rate: about how far a parameter moves in one aggregation.
        beta1: share of the momentum that stays, in [0, 1).
        beta2: share of the second moment that stays, in [0, 1).
        tau: how little change counts as little; the larger, the more like FedAvgM.

    Returns:
        the layer's next value, and its next state.
    """
    delta = _delta(value, aggregate, state.momentum.size)
    momentum = beta1 * state.momentum.astype(np.float64) + (1 - beta1) * delta
    second_moment = beta2 * state.second_moment.astype(np.float64) + (1 - beta2) * np.square(delta)
    step = lr * momentum / (np.sqrt(second_moment) + tau)
    next_state = AdamState(momentum.astype(np.float32), second_moment.astype(np.float32))
    return _moved(value, aggregate, step), next_state


def _delta(value: Vector, aggregate: Vector, size: int) -> Doubles:
    """Delta over the parameters, float64 (size,)."""
    if value.shape != aggregate.shape or size > value.size:
        raise ValueError(f"a value {value.shape}, an aggregate {aggregate.shape} and a state of {size} do not fit")
    return aggregate[:size].astype(np.float64) - value[:size]


def _moved(value: Vector, aggregate: Vector, step: Doubles) -> Vector:
    """``value`` with its parameters moved by ``step``, and the aggregate's statistics."""
    moved = aggregate.copy()
    moved[: step.size] = value[: step.size] + step  # in float64, rounded to float32 once
    return moved
