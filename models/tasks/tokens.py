"""A label or a token a step, as in tagging or predicting the next one: targets (N, T), outputs (N, T, classes).

A step that is padded has the index to ignore for its target: it counts neither in the loss nor in a metric.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from lamina.models.tasks.base import Metric, NetworkFacts, Objective
from lamina.models.tasks.classes import counted, right, weighted_cross_entropy
from lamina.models.tasks.dense import Dense, of_places


@dataclass(frozen=True)
class TokenLabels(Dense):
    """A class for each step.

    Attributes:
        ignored: a step with this target counts for nothing.
        class_weights: what each class weighs in the loss; empty: all the same.
    """

    name = "tokens"
    ignored: int | None = -100

    def objective(self, network: NetworkFacts, loss: str) -> Objective:
        """See `LearningTask`."""
        shape = network.output_shape
        if len(shape) < 2:
            raise network.error(f"logits (N, steps, classes) are wanted, and it returns {shape} a sample")
        dim = len(shape)
        plain = of_places(self, network, dim, shape[-1], shape[:-1])

        def surprise(logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            steps = counted(y, self.ignored).double().sum()
            return weighted_cross_entropy(logits, y, dim, self.ignored, ()).double() * steps, steps

        metrics = {
            "accuracy": Metric(lambda outputs, y: right(outputs, y, dim, self.ignored), better="higher"),
            "perplexity": Metric(surprise, "exp", better="lower"),
        }
        return replace(plain, metrics=metrics, judge="accuracy")
