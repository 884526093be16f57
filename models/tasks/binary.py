"""Yes or no: targets (N,) are 0 or 1, the output is one logit a sample."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from lamina.models.targets import TargetSpec
from lamina.models.tasks.base import LearningTask, Metric, NetworkFacts, Objective, samples, total


@dataclass(frozen=True)
class Binary(LearningTask):
    """Yes or no.

    Attributes:
        class_weights: what a no and what a yes weighs in the loss; empty: the same.
    """

    name = "binary"
    losses = ("binary_cross_entropy",)
    class_weights: tuple[float, ...] = ()

    def objective(self, network: NetworkFacts, loss: str) -> Objective:
        """See `LearningTask`."""
        if network.output_shape not in ((), (1,)):
            raise network.error(f"one logit a sample says yes or no, and it returns {network.output_shape}")
        if self.class_weights and len(self.class_weights) != 2:
            raise network.error("class_weights are two numbers here: what a no weighs, and what a yes weighs")
        return Objective(
            target=TargetSpec(self.name, classes=2, weights=self.class_weights),
            loss=self._loss,
            loss_name=loss,
            weight=lambda y: self._weights(y).double().sum(),
            metrics={
                "accuracy": Metric(lambda outputs, y: (right(outputs, y), samples(y)), better="higher"),
                "precision": Metric(lambda outputs, y: (_both(outputs, y), total(_said(outputs))), better="higher"),
                "recall": Metric(lambda outputs, y: (_both(outputs, y), total(y)), better="higher"),
                "f1": Metric(
                    lambda outputs, y: (2 * _both(outputs, y), total(_said(outputs)) + total(y)), better="higher"
                ),
            },
            judge="accuracy",
            correct=right,
        )

    def _weights(self, y: Tensor) -> Tensor:
        no, yes = self.class_weights or (1.0, 1.0)
        return no + (yes - no) * y.float()

    def _loss(self, logits: Tensor, y: Tensor) -> Tensor:
        flat = logits.reshape(-1)
        losses = F.binary_cross_entropy_with_logits(flat, y.to(flat.dtype), reduction="none")
        if not self.class_weights:
            return losses.mean()
        weights = self._weights(y).to(flat.dtype)
        return (losses * weights).sum() / weights.sum().clamp_min(1e-12)


def right(logits: Tensor, y: Tensor) -> Tensor:
    """How many samples are on the right side of 0."""
    return (_said(logits) == y).sum()


def _said(logits: Tensor) -> Tensor:
    return (logits.reshape(-1) > 0).long()


def _both(logits: Tensor, y: Tensor) -> Tensor:
    return total(_said(logits) * y)
