"""The interface of an inference engine: it trains a sub-model step by step, and runs frozen pieces forward.

The learner knows an engine by this seam alone; `training.trainer` has the one that boards use. Another one has the
methods of `Engine`, and passes the tests that are in `tests/test_engine.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from numpy.typing import NDArray

from lamina.models.arrays import Vector
from lamina.models.manifest import FileEntry, Manifest, SubModel

AUTO = "auto"
"""The engine's setting that leaves it to what is installed."""

STANDARD = "standard"
"""The form of a training graph that every engine runs."""

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


@dataclass(frozen=True, slots=True)
class ExecutionMode:
    """How a training graph is run: in which form, on how many threads, and how these wait.

    Attributes:
        form: of the graph: `STANDARD`, or one of the sub-model's own.
        threads: that a step uses.
        spinning: whether threads wait for work actively while a step runs. That is faster on cores that have nothing
            else to do, and slower on others; between steps they sleep.
    """

    form: str = STANDARD
    threads: int = 1
    spinning: bool = False

    def __str__(self) -> str:
        on = f"{self.threads} thread" if self.threads == 1 else f"{self.threads} threads"
        return f"{self.form} on {on}{', spinning' if self.spinning else ''}"


class Resident(Protocol):
    """A sub-model's vectors, which the engine reads and writes."""

    @property
    def parameters(self) -> Vector:
        """The trained layers' parameters now, (P,): to read and write; the next step leaves this array behind."""

    @property
    def statistics(self) -> Vector:
        """The trained layers' statistics now, (S,), perhaps empty: as `parameters`."""

    @property
    def optimiser_state(self) -> dict[str, Vector]:
        """The optimiser's vectors now, by name, each (P,) or (1,): as `parameters`."""

    @property
    def anchor(self) -> Vector | None:
        """What FedProx pulls towards, (P,), to write; ``None`` where the bundle has no such term."""

    @property
    def vectors(self) -> dict[str, Vector]:
        """All of them, by name: as `parameters`."""


@runtime_checkable
class SubModelTrainer(Resident, Protocol):
    """Trains the layers from a cut onwards, one step a call."""

    def step(self, x: NDArray[Any], y: NDArray[Any], hyperparameters: Mapping[str, float]) -> StepResult:
        """One step of the optimiser on one batch.

        Args:
            x: (B, ...) the activations at the cut, or the samples, C-contiguous; any B.
            y: (B, ...) targets, as the task takes them.
            hyperparameters: the graph's, by name; those not named take their default.

        Raises:
            ModelError: the graph lacks a hyperparameter of that name.
            ValueError: the batch does not fit the graph.
        """


class InParts(Resident, Protocol):
    """Trains the layers from a cut onwards, each step in micro-batches."""

    def gather(self, x: NDArray[Any], y: NDArray[Any], share: float) -> StepResult:
        """Forward and backward on a micro-batch.

        Args:
            x: (b, ...) as for `SubModelTrainer.step`.
            y: (b, ...) targets, as the task takes them.
            share: of the batch.

        Raises:
            ValueError: the micro-batch does not fit the graph.
        """

    def update(self, hyperparameters: Mapping[str, float]) -> None:
        """One step of the optimiser by what was gathered, which is then forgotten.

        Args:
            hyperparameters: as for `SubModelTrainer.step`.

        Raises:
            ModelError: the graph lacks a hyperparameter of that name.
        """


class FrozenPiece(Protocol):
    """A frozen piece of the network."""

    def __call__(self, x: NDArray[Any]) -> Vector:
        """The activations (B, ...) that leave the piece, for those or the samples (B, ...) that enter it."""


class RunnableGraph(Protocol):
    """Any graph that is run forward only."""

    def __call__(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """All outputs by name, for inputs by name; inputs that the graph lacks are passed over."""


class Engine(Protocol):
    """Makes trainers and frozen pieces out of a bundle's files."""

    @property
    def name(self) -> str:
        """The engine's name and version, for the operator."""

    def suited(self, sub_model: SubModel) -> SubModel:
        """The sub-model with those of its graphs that the engine takes.

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

    def parts_trainer(
        self, manifest: Manifest, cut: int, path: PathOf, *, threads: int = 1, checkpoints: bool = False
    ) -> InParts:
        """A trainer of the layers from ``cut`` onwards in micro-batches; otherwise as `trainer`.

        With ``checkpoints`` the forward pass is computed again for the backward pass, to keep less of it.

        Raises:
            ModelError: the bundle has no graphs for it, or the engine can't; and as `trainer`.
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

    def graph(self, graph: Path, values: Mapping[str, Vector], *, threads: int = 1) -> RunnableGraph:
        """A graph that is run forward only.

        Args:
            graph: its values are external initialisers.
            values: those that the graph names, and maybe others. They are not copied; leave them unchanged.
            threads: processor cores that it may use.

        Raises:
            ModelError: the graph can't be loaded with these values.
        """
