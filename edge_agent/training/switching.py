"""Trainers that change, between two steps, to another mode of execution, as a comparison of the modes says.

A session is opened for a mode when its turn comes, and closed when another one's does: memory holds one at a time. The
vectors go from one to the next, so that training goes on as if nothing had happened, but for rounding.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from lamina.edge_agent.training.comparison import Comparison
from lamina.edge_agent.training.engine import ExecutionMode, InParts, Resident, StepResult, SubModelTrainer
from lamina.models.arrays import Vector
from lamina.models.errors import ModelError

Clock = Callable[[], float]
_Made = TypeVar("_Made", bound=Resident)


class _Switching(Generic[_Made]):
    """A trainer in the mode that a comparison says.

    Args:
        make: opens a trainer in a mode.
        comparison: of the modes.
        improved: is told when another mode has become the best.
        clock: in seconds.
    """

    def __init__(
        self,
        make: Callable[[ExecutionMode], _Made],
        comparison: Comparison[ExecutionMode],
        improved: Callable[[Comparison[ExecutionMode]], None],
        clock: Clock = time.perf_counter,
    ) -> None:
        self._make, self._comparison, self._improved, self._clock = make, comparison, improved, clock
        self._mode = self._best = comparison.best
        self._trainer = make(self._mode)

    @property
    def parameters(self) -> Vector:
        """See `Resident`."""
        return self._trainer.parameters

    @property
    def statistics(self) -> Vector:
        """See `Resident`."""
        return self._trainer.statistics

    @property
    def optimiser_state(self) -> dict[str, Vector]:
        """See `Resident`."""
        return self._trainer.optimiser_state

    @property
    def anchor(self) -> Vector | None:
        """See `Resident`."""
        return self._trainer.anchor

    @property
    def vectors(self) -> dict[str, Vector]:
        """See `Resident`."""
        return self._trainer.vectors

    def _changed(self) -> float:
        """Change to the mode whose turn it is: seconds that it took, 0 where it is the same."""
        began, before = self._clock(), self._mode
        while self._comparison.way != self._mode:
            self._try(self._comparison.way)
        return self._clock() - began if self._mode != before else 0.0

    def _try(self, mode: ExecutionMode) -> None:
        """Change to a mode; where it can't be opened and is not the best, it is not tried again."""
        vectors, anchor = self._trainer.vectors, self._trainer.anchor
        del self._trainer  # first: there may not be room for two
        try:
            self._trainer = self._make(mode)
        except ModelError:
            if mode == self._comparison.best:
                raise
            self._comparison.failed(mode)
            self._trainer = self._make(self._comparison.best)
        for name, vector in self._trainer.vectors.items():
            vector[...] = vectors[name]
        if anchor is not None and self._trainer.anchor is not None:
            self._trainer.anchor[...] = anchor
        self._mode = self._comparison.way

    def _took(self, seconds: float, samples: int, changing_s: float) -> None:
        """Count a step; by the sample, since batches may differ."""
        self._comparison.took(seconds / samples, changing_s / samples)
        if self._comparison.best != self._best:
            self._best = self._comparison.best
            self._improved(self._comparison)


class SwitchingTrainer(_Switching[SubModelTrainer]):
    """Takes whole steps; see `SubModelTrainer`."""

    def step(self, x: NDArray[Any], y: NDArray[np.int64], hyperparameters: Mapping[str, float]) -> StepResult:
        """See `SubModelTrainer.step`."""
        changing_s, began = self._changed(), self._clock()
        result = self._trainer.step(x, y, hyperparameters)
        self._took(self._clock() - began, len(y), changing_s)
        return result


class SwitchingInParts(_Switching[InParts]):
    """Takes steps in micro-batches, and changes between two steps; see `InParts`."""

    _seconds = _changing_s = 0.0
    _samples = 0

    def gather(self, x: NDArray[Any], y: NDArray[np.int64], share: float) -> StepResult:
        """See `InParts.gather`."""
        if not self._samples:
            self._changing_s = self._changed()
        began = self._clock()
        result = self._trainer.gather(x, y, share)
        self._seconds, self._samples = self._seconds + self._clock() - began, self._samples + len(y)
        return result

    def update(self, hyperparameters: Mapping[str, float]) -> None:
        """See `InParts.update`."""
        began = self._clock()
        self._trainer.update(hyperparameters)
        self._took(self._seconds + self._clock() - began, max(1, self._samples), self._changing_s)
        self._seconds, self._samples, self._changing_s = 0.0, 0, 0.0
