"""A layer's next value is its average, or a step towards it, as the table ``[server]`` says."""

from __future__ import annotations

from lamina.coordinator.algorithms.catalogue import named
from lamina.coordinator.algorithms.server_optimiser import ServerOptimiser, moved
from lamina.coordinator.settings import Server
from lamina.models.arrays import Vector


def next_value(
    server: Server, value: Vector, average: Vector, memory: Vector | None, size: int
) -> tuple[Vector, Vector | None]:
    """A layer's next value, and what is remembered of it then.

    Args:
        server: the settings.
        value: global until now, (vector_size,).
        average: of the cohort's values, (vector_size,).
        memory: what this function returned for the layer the last time; ``None`` the first time. That of another
            optimiser is passed over.
        size: parameters of the layer.
    """
    if server.optimiser == "none":
        return average, None
    optimiser = named(ServerOptimiser, server.optimiser, "server.optimiser")
    before = optimiser.start(size, server.tau)
    if memory is not None and memory.size == before.size:
        before = memory.reshape(before.shape)
    result, after = moved(optimiser, server, value, average, before)
    return result, after.ravel()
