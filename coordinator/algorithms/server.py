"""What does the coordinator make of a layer's average? It takes it, or a step towards it, as ``[server]`` says.

The arithmetic is that of `algorithms.server_optimiser`. With FedLAMA a layer takes its step when it is aggregated, and
the discrepancy that its interval follows from is measured about the average, not about where the step leads.
"""

from __future__ import annotations

import numpy as np

from lamina.coordinator.algorithms.server_optimiser import (
    AdamState,
    MomentumState,
    fedadam,
    fedadam_start,
    fedavgm,
    fedavgm_start,
)
from lamina.coordinator.folds.fold import Vector
from lamina.coordinator.settings import Server

ServerMemory = MomentumState | AdamState


def without_memory(server: Server, size: int) -> ServerMemory | None:
    """What is remembered of a layer of ``size`` parameters before its first step; nothing without an optimiser."""
    match server.optimiser:
        case "none":
            return None
        case "fedavgm":
            return fedavgm_start(size)
        case "fedadam":
            return fedadam_start(size, tau=server.tau)


def step(server: Server, value: Vector, average: Vector, memory: ServerMemory) -> tuple[Vector, ServerMemory]:
    """A layer's next value, and what is remembered then.

    Args:
        server: the settings.
        value: global until now, (vector_size,).
        average: of the cohort's values, (vector_size,).
        memory: of the layer.
    """
    if isinstance(memory, MomentumState):
        return fedavgm(value, average, memory, lr=server.rate, beta=server.beta)
    return fedadam(value, average, memory, lr=server.rate, beta1=server.beta, beta2=server.beta2, tau=server.tau)


def to_vector(memory: ServerMemory) -> Vector:
    """The memory as one vector, to be kept on disk: (size,) for FedAvgM, (2 size,) for FedAdam."""
    if isinstance(memory, MomentumState):
        return memory.momentum
    return np.concatenate((memory.momentum, memory.second_moment))


def from_vector(server: Server, vector: Vector | None, size: int) -> ServerMemory | None:
    """What `to_vector` made, of a layer of ``size`` parameters; where it is another optimiser's, the beginning."""
    lengths = {"none": 0, "fedavgm": size, "fedadam": 2 * size}
    if vector is None or server.optimiser == "none" or len(vector) != lengths[server.optimiser]:
        return without_memory(server, size)
    return MomentumState(vector) if server.optimiser == "fedavgm" else AdamState(vector[:size], vector[size:])
