"""What does the simulated server make of the layers' averages? What the coordinator does: `algorithms.server`."""

from __future__ import annotations

from collections.abc import Sequence

from lamina.coordinator.algorithms import server as coordinators
from lamina.coordinator.algorithms.server import ServerMemory
from lamina.coordinator.settings import Server
from lamina.emulation.simulator.rows import Row
from lamina.models.spec import ModelSpec

__all__ = ["ServerMemory", "step", "without_memory"]


def without_memory(server: Server, spec: ModelSpec) -> list[ServerMemory]:
    """What a server optimiser remembers of every layer before the first round; nothing without an optimiser."""
    memories = (coordinators.without_memory(server, size) for size in spec.sizes)
    return [memory for memory in memories if memory is not None]


def step(
    server: Server, layer: int, value: Row, average: Row, memory: Sequence[ServerMemory]
) -> tuple[Row, list[ServerMemory]]:
    """A layer's next value, and what is remembered then.

    Args:
        server: its settings.
        layer: index of the layer.
        value: global until now, (vector_size,).
        average: of the cohort's values, (vector_size,).
        memory: one entry a layer.
    """
    if not memory:
        return average, []
    moved, after = coordinators.step(server, value, average, memory[layer])
    return moved, [*memory[:layer], after, *memory[layer + 1 :]]
