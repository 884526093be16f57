"""Several labels a sample: targets (N, K) are 0 or 1 for each, or between; outputs (N, K) are logits."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from lamina.models.targets import TargetSpec
from lamina.models.tasks.base import LearningTask, Metric, NetworkFacts, Objective, count, samples, total


@dataclass(frozen=True)
class MultiLabel(LearningTask):
    """Several labels a sample, each by itself.

    Attributes:
        class_weights: what each label weighs in the loss; empty: all the same.
    """

    name = "multi_label"
    losses = ("binary_cross_entropy",)
    class_weights: tuple[float, ...] = ()

    def objective(self, network: NetworkFacts, loss: str) -> Objective:
        """See `LearningTask`."""
        shape = network.output_shape
        if not shape:
            raise network.error("a logit for each label is wanted (N, K), and it returns one a sample")
        if self.class_weights and (len(shape) != 1 or len(self.class_weights) != shape[0]):
            raise network.error(f"class_weights are as many numbers as labels, and its outputs are {shape}")
        return Objective(
            target=TargetSpec(self.name, "float32", shape, largest=1.0),
            loss=self._loss,
            loss_name=loss,
            weight=samples,
            metrics={
                "accuracy": Metric(lambda outputs, y: (total(_said(outputs) == _true(y)), count(y)), better="higher"),
                "exact_match": Metric(_exact, better="higher"),
                "f1": Metric(_f1, better="higher"),
            },
            judge="f1",
        )

    def _loss(self, logits: Tensor, y: Tensor) -> Tensor:
        losses = F.binary_cross_entropy_with_logits(logits, y, reduction="none")
        if not self.class_weights:
            return losses.mean()
        weighted = [losses[:, index] * weight for index, weight in enumerate(self.class_weights)]
        return sum(each.mean() for each in weighted) / max(sum(self.class_weights), 1e-12)  # type: ignore[return-value]


def _said(logits: Tensor) -> Tensor:
    return logits > 0


def _true(y: Tensor) -> Tensor:
    return y > 0.5


def _exact(logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    wrong = (_said(logits) != _true(y)).double().reshape(logits.shape[0], -1).sum(1)
    return total(wrong < 0.5), samples(y)


def _f1(logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    said, true = _said(logits), _true(y)
    return 2 * total(said & true), total(said) + total(true)
