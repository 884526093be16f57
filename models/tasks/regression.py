"""Numbers: targets (N, ...) of any shape, as forecasts have it; outputs have the same, or a last axis of quantiles."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lamina.models.targets import TargetSpec
from lamina.models.tasks.base import (
    LearningTask,
    LossFunction,
    Metric,
    MetricFunction,
    NetworkFacts,
    Objective,
    count,
    samples,
    total,
)

_NOTHING = 1e-12  # what a batch weighs at least, in which everything is missing


@dataclass(frozen=True)
class Regression(LearningTask):
    """Numbers, also those of the future.

    Attributes:
        delta: of the loss ``huber``: up to this error it is squared, beyond it is linear.
        missing: whether targets may be NaN, which count for nothing.
        quantiles: that the last axis of the outputs stands for, in this order, with the loss ``quantile``.
    """

    name = "regression"
    losses = ("mse", "mae", "huber", "quantile")
    delta: float = 1.0
    quantiles: tuple[float, ...] = ()
    missing: bool = False

    def objective(self, network: NetworkFacts, loss: str) -> Objective:
        """See `LearningTask`."""
        shape = network.output_shape
        if self.quantiles or loss == "quantile":
            return self._of_quantiles(network)
        return Objective(
            target=TargetSpec(self.name, "float32", shape, missing=self.missing),
            loss=self._of_those_there(loss) if self.missing else self._losses()[loss],
            loss_name=loss,
            weight=there if self.missing else samples,
            metrics={
                "mse": Metric(squared_error, better="lower"),
                "rmse": Metric(squared_error, "root", better="lower"),
                "mae": Metric(absolute_error, better="lower"),
            },
        )

    def _of_those_there(self, loss: str) -> LossFunction:
        """The mean over the targets that are not missing; 0 where all are."""
        of_each: dict[str, LossFunction] = {
            "mse": lambda outputs, y: F.mse_loss(outputs, y, reduction="none"),
            "mae": lambda outputs, y: F.l1_loss(outputs, y, reduction="none"),
            "huber": lambda outputs, y: F.huber_loss(outputs, y, reduction="none", delta=self.delta),
        }

        def mean(outputs: Tensor, y: Tensor) -> Tensor:
            here = ~torch.isnan(y)
            losses = of_each[loss](outputs, torch.where(here, y, torch.zeros_like(y)))
            weight = here.to(outputs.dtype)
            return (weight * losses).sum() / weight.sum().clamp_min(_NOTHING)

        return mean

    def _losses(self) -> dict[str, LossFunction]:
        return {
            "mse": F.mse_loss,
            "mae": F.l1_loss,
            "huber": lambda outputs, y: F.huber_loss(outputs, y, delta=self.delta),
        }

    def _of_quantiles(self, network: NetworkFacts) -> Objective:
        shape = network.output_shape
        if not all(0 < quantile < 1 for quantile in self.quantiles) or not self.quantiles:
            raise network.error(
                "the loss quantile wants to know which: module.task = Regression(quantiles=(0.1, 0.5, 0.9)), each "
                "between 0 and 1"
            )
        if not shape or shape[-1] != len(self.quantiles):
            raise network.error(
                f"the last axis of its outputs must have {len(self.quantiles)} quantiles, and they are {shape}"
            )
        if self.missing:
            raise network.error("quantiles of numbers that may be missing are not told: leave the rows out")
        coverage = {f"coverage_{quantile:g}": Metric(_covered(place)) for place, quantile in enumerate(self.quantiles)}
        middle = min(range(len(self.quantiles)), key=lambda place: abs(self.quantiles[place] - 0.5))
        return Objective(
            target=TargetSpec(self.name, "float32", shape[:-1]),
            loss=self._pinball,
            loss_name="quantile",
            weight=samples,
            metrics={
                "mae": Metric(lambda outputs, y: absolute_error(outputs[..., middle], y), better="lower"),
                **coverage,
            },
        )

    def _pinball(self, outputs: Tensor, y: Tensor) -> Tensor:
        """The mean over samples and quantiles of max(q e, (q - 1) e), e being how far the target lies above."""
        losses = []
        for place, quantile in enumerate(self.quantiles):
            error = y - outputs[..., place]
            losses.append(torch.maximum(quantile * error, (quantile - 1) * error).mean())
        return torch.stack(losses).mean()


def squared_error(outputs: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The sum of squared errors, and how many there are; what is missing counts for nothing."""
    return total(_errors(outputs, y).square()), there(y)


def absolute_error(outputs: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The sum of absolute errors, and how many there are; what is missing counts for nothing."""
    return total(_errors(outputs, y).abs()), there(y)


def there(y: Tensor) -> Tensor:
    """How many targets are not missing."""
    return total(~torch.isnan(y))


def _errors(outputs: Tensor, y: Tensor) -> Tensor:
    """What the outputs lack to the targets; 0 where these are missing."""
    return torch.where(torch.isnan(y), torch.zeros_like(y), outputs - y)


def _covered(place: int) -> MetricFunction:
    """How many targets lie below one of the quantiles."""
    return lambda outputs, y: (total(y <= outputs[..., place]), count(y))
