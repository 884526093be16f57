"""What a task is made of: targets, a loss, and metrics, each of which adds up over samples and devices.

A loss is a mean over the batch, with a weight by which means over several batches are joined. A metric returns a sum
and a count: sums and counts of any number of batches, or devices, are added, and only then divided.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from lamina.models.errors import ModelError
from lamina.models.metrics import Better, Finish
from lamina.models.targets import TargetSpec

Outputs = Any
"""What the module returns: a tensor (N, ...), or a tuple or a dictionary of such."""

LossFunction = Callable[[Outputs, Tensor], Tensor]
MetricFunction = Callable[[Outputs, Tensor], tuple[Any, Any]]


@dataclass(frozen=True)
class Metric:
    """A figure by which the model is judged.

    Attributes:
        function: of outputs and targets, its sum and its count: numbers, or vectors of some for each class.
        finish: what becomes of the sum over the count, see `lamina.models.metrics`.
        better: whether a higher or a lower figure is the better one; empty: it isn't known.
    """

    function: MetricFunction
    finish: Finish = "mean"
    better: Better = ""


@dataclass(frozen=True, eq=False)
class Objective:
    """What one network is trained and judged by.

    Attributes:
        target: what the outputs are compared with.
        loss: of outputs and targets, the mean over the batch.
        loss_name: for people.
        weight: of targets, how much a batch weighs in a mean over several.
        metrics: by name, beside the loss.
        judge: name of the figure by which the best model is chosen: a metric's, or ``loss``.
        correct: of outputs and targets, how many samples are right; ``None`` where there is no such thing.
    """

    target: TargetSpec
    loss: LossFunction
    loss_name: str
    weight: Callable[[Tensor], Tensor]
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    judge: str = "loss"
    correct: Callable[[Outputs, Tensor], Tensor] | None = None

    @property
    def figures(self) -> dict[str, Metric]:
        """All metrics, the loss first."""
        return {"loss": Metric(self._loss_and_weight, better="lower"), **self.metrics}

    def _loss_and_weight(self, outputs: Outputs, y: Tensor) -> tuple[Tensor, Tensor]:
        weight = self.weight(y).double()
        return self.loss(outputs, y).double() * weight, weight


@dataclass(frozen=True)
class NetworkFacts:
    """What a task must know of the network that it is given to.

    Attributes:
        name: of the model, for errors.
        outputs: what the module returns: tensors without values, of N samples.
        classes: how many there are, as the definition says; 0 where it doesn't.
        input_shape: of one sample.
        input_dtype: of one sample.
        inputs: names of the inputs that a sample is joined of; empty: it is one array.
    """

    name: str
    outputs: Outputs
    classes: int
    input_shape: tuple[int, ...]
    input_dtype: str
    inputs: tuple[str, ...] = ()

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of the one output of a sample.

        Raises:
            ModelError: there are several.
        """
        if not isinstance(self.outputs, Tensor):
            raise self.error("several outputs need a loss of one's own: module.loss = f(outputs, targets)")
        return tuple(int(extent) for extent in self.outputs.shape[1:])

    @property
    def shown(self) -> str:
        """Shapes of the outputs, for a person."""
        return ", ".join(" x ".join(["N", *map(str, output.shape[1:])]) for output in tree_leaves(self.outputs))

    def error(self, what: str) -> ModelError:
        """The error that says so of this network."""
        return ModelError(f"model {self.name}: {what}")


class LearningTask(ABC):
    """A kind of task, with its options.

    Attributes:
        name: by which a definition may ask for it with its usual options.
        losses: names of the losses that it has; the first is the usual one.
    """

    name: ClassVar[str]
    losses: ClassVar[tuple[str, ...]]

    @abstractmethod
    def objective(self, network: NetworkFacts, loss: str) -> Objective:
        """What a network is trained and judged by.

        Args:
            network: it is to learn the task.
            loss: name of one of `losses`.

        Raises:
            ModelError: its outputs don't suit the task.
        """


def total(values: Tensor) -> Tensor:
    """The sum of all elements, in float64."""
    return values.double().sum()


def count(values: Tensor) -> Tensor:
    """The number of elements, in float64."""
    return torch.ones_like(values, dtype=torch.float64).sum()


def samples(y: Tensor) -> Tensor:
    """The number of samples in a batch, in float64."""
    return torch.ones_like(y.reshape(y.shape[0], -1)[:, 0], dtype=torch.float64).sum()
