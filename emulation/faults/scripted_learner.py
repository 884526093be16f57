"""A learner whose training is a fixed function of values, device and round, and takes virtual time.

It keeps what a real one keeps: local values that drift from the global ones, a momentum, and a frozen input side whose
values matter. So a device that takes a wrong value, forgets its drift, or trains a round twice, ends in other bits.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np

from lamina.broker.wire.messages import RoundPlan
from lamina.edge_agent.session.events import Outcome
from lamina.edge_agent.training.assignment import Assignment
from lamina.edge_agent.training.input_side import Stop
from lamina.edge_agent.training.learner import Learner
from lamina.emulation.faults.virtual_time import spend
from lamina.models.arrays import Vector

_LR, _MOMENTUM = np.float32(0.1), np.float32(0.5)


class ScriptedLearner(Learner):
    """See `lamina.edge_agent.training.learner.Learner`; ``pace_s`` says how long a step takes now."""

    pace_s: Callable[[], float] = staticmethod(lambda: 0.1)

    def __init__(self, assignment: Assignment) -> None:
        self._begin(assignment)
        layers = assignment.manifest.spec.layers
        sizes = {layer: spec.vector_size for layer, spec in enumerate(layers) if layer >= assignment.cut}
        self._mine = {layer: np.zeros(size, np.float32) for layer, size in sizes.items()}
        self._momentum = {layer: np.zeros(size, np.float32) for layer, size in sizes.items()}

    def train(
        self, plan: RoundPlan, device: str, *, reset: tuple[int, ...], afresh: bool, stop: Stop = lambda: False
    ) -> Outcome | None:
        """The plan's steps towards targets that only this device has in this round."""
        for layer in reset:
            if layer >= self._cut:
                self._mine[layer][...] = self.held(layer)
        if afresh:
            for momentum in self._momentum.values():
                momentum[...] = 0
        frozen = np.float32(sum(float(self.held(layer).sum()) for layer in range(self._cut)))
        for step in range(plan.steps_of(device)):
            spend(self.pace_s())
            if stop():
                return None
            for layer, mine in self._mine.items():
                gradient = mine - target(device, plan.round, step, layer, len(mine)) + frozen * np.float32(1e-3)
                self._momentum[layer] *= _MOMENTUM
                self._momentum[layer] += gradient
                mine -= _LR * self._momentum[layer]
        return Outcome(steps=plan.steps_of(device), loss=1.0, accuracy=0.5, step_s=0.1, forward_s=0.0)

    def update(self, layer: int) -> Vector:
        """Local minus global value."""
        return self._mine[layer] - self.held(layer)

    def vectors(self) -> dict[str, Vector]:
        """All that the device knows, in place."""
        for layer, spec in enumerate(self._spec.layers):
            if self._global[layer] is None:
                self._global[layer] = np.zeros(spec.vector_size, np.float32)
        return {
            **{f"global.{layer}": self.held(layer) for layer in range(len(self._spec.layers))},
            **{f"mine.{layer}": vector for layer, vector in self._mine.items()},
            **{f"momentum.{layer}": vector for layer, vector in self._momentum.items()},
        }

    def close(self) -> None:
        """There is nothing to give back."""


def target(device: str, round_: int, step: int, layer: int, size: int) -> Vector:
    """What a device pulls a layer towards, (size,)."""
    rng = np.random.Generator(np.random.PCG64([zlib.crc32(device.encode()), round_, step, layer]))
    return rng.standard_normal(size, dtype=np.float32)


def paced(pace_s: Callable[[], float]) -> type[ScriptedLearner]:
    """A learner whose steps take as long as ``pace_s`` says when each begins."""
    return type("PacedLearner", (ScriptedLearner,), {"pace_s": staticmethod(pace_s)})
