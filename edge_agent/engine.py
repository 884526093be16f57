"""What does a device ask of an inference engine? To train a sub-model step by step, and to run frozen pieces forward.

The learner knows an engine by this seam alone; `edge_agent.trainer` has the one that boards use. Another one has the
methods of `Engine`, and passes the tests that are in `tests/test_engine.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from models.manifest import FileEntry, Manifest, SubModel
from models.values import Vector

AUTO = "auto"
"""The engine's setting that leaves it to what is installed."""

PathOf = Callable[[FileEntry], Path]
"""Where a file of the bundle lies."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one step tells of its batch, before the step.

    Attributes:
        loss: mean over the batch.
        correct: samples classified right.
    """

    loss: float
    correct: int


class SubModelTrainer(Protocol):
    """Trains the layers from a cut onwards, one step a call."""

    @property
    def parameters(self) -> Vector:
        """The trained layers' parameters now, (P,): to read and write; the next step leaves this array behind."""

    @property
    def statistics(self) -> Vector:
        """The trained layers' statistics now, (S,), perhaps empty: as `parameters`."""

    @property
    def optimiser_state(self) -> dict[str, Vector]:
        """The optimiser's vectors now, by name, each (P,): as `parameters`."""

    @property
    def vectors(self) -> dict[str, Vector]:
        """All of them, by name: as `parameters`."""

    def step(self, x: NDArray[Any], y: NDArray[np.int64], hyperparameters: Mapping[str, float]) -> StepResult:
        """One step of the optimiser on one batch.

        Args:
            x: (B, ...) the activations at the cut, or the samples, C-contiguous; any B.
            y: (B,) class indices.
            hyperparameters: the graph's, by name; those not named take their default.

        Raises:
            ModelError: the graph lacks a hyperparameter of that name.
            ValueError: the batch does not fit the graph.
        """


class FrozenPiece(Protocol):
    """A frozen piece of the network."""

    def __call__(self, x: NDArray[Any]) -> Vector:
        """The activations (B, ...) that leave the piece, for those or the samples (B, ...) that enter it."""


class Engine(Protocol):
    """Makes trainers and frozen pieces out of a bundle's files."""

    @property
    def name(self) -> str:
        """Its name and version, for the operator."""

    def graph(self, sub_model: SubModel) -> FileEntry:
        """Which of the sub-model's training graphs it takes.

        Raises:
            ModelError: it can take none of them.
        """

    def warm_up(self) -> None:
        """Allocate what the first use costs, so that it counts as idle, not as training."""

    def trainer(self, manifest: Manifest, cut: int, path: PathOf, *, threads: int = 1) -> SubModelTrainer:
        """A trainer of the layers from ``cut`` onwards, whose vectors are zeros.

        Args:
            manifest: of the bundle.
            cut: first layer to train.
            path: where a file of the bundle lies.
            threads: processor cores that a step may use.

        Raises:
            ModelError: the graph can't be loaded, or is not what the manifest says.
        """

    def forward(self, graph: Path, values: Mapping[str, Vector], *, threads: int = 1) -> FrozenPiece:
        """A frozen piece.

        Args:
            graph: from ``x`` to ``boundary``; its values are external initialisers.
            values: exactly those that the graph names. They are not copied; leave them unchanged while the piece lives.
            threads: processor cores that it may use.

        Raises:
            ModelError: the graph can't be loaded with these values.
        """
