"""One class a sample: targets (N,) are class indices, outputs (N, classes) are logits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lamina.models.targets import SINGLE_LABEL, TargetSpec
from lamina.models.tasks.base import LearningTask, Metric, NetworkFacts, Objective, samples
from lamina.models.tasks.classes import class_weight, recall_by_class, weighted_cross_entropy


@dataclass(frozen=True)
class SingleLabel(LearningTask):
    """One class a sample.

    Attributes:
        class_weights: what each class weighs in the loss, as in ``torch.nn.CrossEntropyLoss``; empty: all the same.
    """

    name = SINGLE_LABEL
    losses = ("cross_entropy", "smoothed_cross_entropy", "binary_cross_entropy", "squared_error")
    class_weights: tuple[float, ...] = ()

    def objective(self, network: NetworkFacts, loss: str) -> Objective:
        """See `LearningTask`."""
        classes = network.classes
        if not isinstance(network.outputs, Tensor) or network.output_shape != (classes,):
            raise network.error(f"its module must return logits (N, {classes}), and returns {network.shown}")
        function, weight = LOSSES[loss], samples
        if self.class_weights:
            if loss != "cross_entropy" or len(self.class_weights) != classes:
                raise network.error(f"class_weights are {classes} numbers, and go with the loss cross_entropy")
            function, weight = self._weighted, self._weight
        return Objective(
            target=TargetSpec(self.name, classes=classes, weights=self.class_weights),
            loss=function,
            loss_name=loss,
            weight=weight,
            metrics={
                "accuracy": Metric(lambda outputs, y: (most_likely(outputs, y), samples(y)), better="higher"),
                "balanced_accuracy": Metric(lambda outputs, y: recall_by_class(outputs, y, 1), better="higher"),
            },
            judge="accuracy",
            correct=most_likely,
        )

    def _weighted(self, logits: Tensor, y: Tensor) -> Tensor:
        return weighted_cross_entropy(logits, y, 1, None, self.class_weights)

    def _weight(self, y: Tensor) -> Tensor:
        return class_weight(y, None, self.class_weights).double().sum()


def most_likely(logits: Tensor, y: Tensor) -> Tensor:
    """How many samples' largest logit is that of their class."""
    return (logits.argmax(1) == y).sum()


def _smoothed_cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """A tenth of the weight goes to all classes alike (Szegedy et al. 2016, section 7)."""
    return F.cross_entropy(logits, y, label_smoothing=0.1)


def _binary_cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """The binary cross entropy of a logit for each class that is judged by itself."""
    return F.binary_cross_entropy_with_logits(logits, _one_hot(logits, y))


def _squared_error(logits: Tensor, y: Tensor) -> Tensor:
    """The squared error of the outputs, against 1 for the class and 0 for the others; it is averaged over the classes,
    too.
    """
    return F.mse_loss(logits, _one_hot(logits, y))


def _one_hot(logits: Tensor, y: Tensor) -> Tensor:
    """What the logits should say, (N, classes): 1 in the column of y."""
    return (y.unsqueeze(1) == torch.arange(logits.shape[1])).to(logits.dtype)


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": F.cross_entropy,
    "smoothed_cross_entropy": _smoothed_cross_entropy,
    "binary_cross_entropy": _binary_cross_entropy,
    "squared_error": _squared_error,
}
