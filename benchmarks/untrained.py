"""Agents whose local steps take no time, several in a process: what a device costs besides its training.

    python -m benchmarks.untrained agents.json

Everything else about them is real: session, link, bundle, codec, chunks. Their updates are noise of a size that
training makes, the same in every round.
"""

from __future__ import annotations

import sys
import zlib

import numpy as np
from numpy.typing import NDArray

from lamina.broker.wire.messages import RoundPlan
from lamina.edge_agent.session.events import Outcome
from lamina.edge_agent.training.assignment import Assignment
from lamina.edge_agent.training.input_side import Stop
from lamina.edge_agent.training.learner import Learner
from lamina.emulation.host import main
from lamina.models.arrays import Vector

PROGRAM = (sys.executable, "-m", "benchmarks.untrained")
_SIZE = 1e-3  # standard deviation of an update's elements


class Untrained(Learner):
    """Takes values, gives updates, and does nothing in between."""

    def __init__(self, assignment: Assignment) -> None:
        self._begin(assignment)
        random = np.random.default_rng(zlib.crc32(assignment.cache_folder.parent.name.encode()))
        self._updates = [noise(random, layer.vector_size) for layer in assignment.manifest.spec.layers]

    def train(
        self, plan: RoundPlan, device: str, *, reset: tuple[int, ...], afresh: bool, stop: Stop = lambda: False
    ) -> Outcome:
        """Return at once."""
        return Outcome(steps=plan.local_steps, loss=1.0, accuracy=0.5, step_s=0.0, forward_s=0.0)

    def update(self, layer: int) -> Vector:
        """The layer's, for ever."""
        return self._updates[layer].copy()

    def vectors(self) -> dict[str, Vector]:
        """Nothing to restore."""
        return {}


def noise(random: np.random.Generator, size: int) -> NDArray[np.float32]:
    """An update of so many elements."""
    return random.normal(scale=_SIZE, size=size).astype(np.float32)


def digit() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """One sample of 1x8x8."""
    return np.zeros((1, 1, 8, 8), np.float32), np.zeros(1, np.int64)


def image() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """One sample of 3x32x32."""
    return np.zeros((1, 3, 32, 32), np.float32), np.zeros(1, np.int64)


if __name__ == "__main__":
    sys.exit(main(Untrained))
