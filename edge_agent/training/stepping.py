"""Makes a step of a batch: at once, or micro-batch by micro-batch where memory can't hold it.

In parts, each sample of the batch weighs what it does at once. So the gradients, and the step, are those of the
whole batch, but for batch norm: it sees a micro-batch at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lamina.edge_agent.training.engine import InParts, StepResult, SubModelTrainer

Read: TypeAlias = Callable[[NDArray[np.int64]], tuple[NDArray[Any], NDArray[Any]]]
"""What enters the trained layers for samples (B,), and their targets: (B, ...), (B, ...)."""

Weigh: TypeAlias = Callable[[NDArray[np.int64]], float]
"""How much samples (B,) weigh in the mean over a batch: their number, unless some targets weigh more or nothing."""

Step: TypeAlias = Callable[[NDArray[np.int64], Mapping[str, float]], StepResult]
"""Takes one step on samples (B,), with these hyperparameters."""


def at_once(trainer: SubModelTrainer, read: Read) -> Step:
    """Steps on whole batches."""
    return lambda batch, hyperparameters: trainer.step(*read(batch), hyperparameters)


def in_parts(trainer: InParts, read: Read, micro_batch: int, weigh: Weigh = len) -> Step:
    """Steps on batches of which ``micro_batch`` samples at most are in memory at once.

    The parts are of equal size, or differ by a sample: a batch norm could do nothing with a single one that is left.
    """

    def step(batch: NDArray[np.int64], hyperparameters: Mapping[str, float]) -> StepResult:
        loss, correct = 0.0, 0
        parts = np.array_split(batch, -(-len(batch) // micro_batch))
        weights = [weigh(some) for some in parts]
        total = sum(weights)
        for some, weight in zip(parts, weights, strict=True):
            share = weight / total if total else 0.0
            result = trainer.gather(*read(some), share)
            loss, correct = loss + share * result.loss, correct + result.correct
        trainer.update(hyperparameters)
        return StepResult(loss, correct)

    return step
