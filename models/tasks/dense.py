"""A class for each place of a sample, as in segmentation: targets (N, H, W) are class indices, outputs (N, C, H, W)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lamina.models.targets import TargetSpec
from lamina.models.tasks.base import LearningTask, Metric, NetworkFacts, Objective
from lamina.models.tasks.classes import class_weight, overlap_by_class, right, weighted_cross_entropy


@dataclass(frozen=True)
class Dense(LearningTask):
    """A class for each place.

    Attributes:
        ignored: a target of this value counts for nothing; ``None``: all count.
        class_weights: what each class weighs in the loss; empty: all the same.
    """

    name = "dense"
    losses = ("cross_entropy",)
    ignored: int | None = None
    class_weights: tuple[float, ...] = ()

    def objective(self, network: NetworkFacts, loss: str) -> Objective:
        """See `LearningTask`."""
        shape = network.output_shape
        if len(shape) < 2:
            raise network.error(f"logits (N, classes, ...) for each place are wanted, and it returns {shape} a sample")
        return of_places(self, network, 1, shape[0], shape[1:])


def of_places(task: Dense, network: NetworkFacts, dim: int, classes: int, shape: tuple[int, ...]) -> Objective:
    """The objective of a task whose logits have their classes along ``dim``."""
    weights, ignored = task.class_weights, task.ignored
    if weights and len(weights) != classes:
        raise network.error(f"class_weights are {classes} numbers, one a class, and {len(weights)} are given")

    def loss_of(logits: Tensor, y: Tensor) -> Tensor:
        return weighted_cross_entropy(logits, y, dim, ignored, weights)

    return Objective(
        target=TargetSpec(task.name, "int64", shape, classes, ignored, weights),
        loss=loss_of,
        loss_name="cross_entropy",
        weight=lambda y: class_weight(y, ignored, weights).double().sum(),
        metrics={
            "accuracy": Metric(lambda outputs, y: right(outputs, y, dim, ignored), better="higher"),
            "mean_iou": Metric(lambda outputs, y: overlap_by_class(outputs, y, dim, ignored), better="higher"),
        },
        judge="mean_iou",
    )
