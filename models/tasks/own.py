"""Targets as the user says, for a loss and metrics of the user's own, which are functions of torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from lamina.models.errors import ModelError
from lamina.models.targets import TargetSpec
from lamina.models.tasks.base import LearningTask, Metric, MetricFunction, NetworkFacts, Objective, samples


@dataclass(frozen=True)
class Own(LearningTask):
    """Any targets; it goes with ``module.loss = f(outputs, targets)``.

    Attributes:
        target_shape: of one sample's target; ``None``: that of its output.
        target_dtype: ``float32``, or ``int64`` for class indices.
        classes: how many classes, where targets are class indices.
        ignored: a target of this value counts for nothing: the loss must leave it out.
    """

    name = "own"
    losses = ()
    target_shape: tuple[int, ...] | None = None
    target_dtype: Literal["float32", "int64"] = "float32"
    classes: int = 0
    ignored: int | None = None

    def objective(self, network: NetworkFacts, loss: str) -> Objective:
        """See `LearningTask`."""
        shape = network.output_shape if self.target_shape is None else self.target_shape
        classes = self.classes or network.classes
        if self.target_dtype == "int64" and not classes:
            raise network.error("targets of int64 are class indices: say how many classes there are")
        classes = classes if self.target_dtype == "int64" else 0
        return Objective(
            target=TargetSpec(self.name, self.target_dtype, tuple(shape), classes, self.ignored),
            loss=_no_loss,
            loss_name="",
            weight=samples,
        )


def _no_loss(outputs: Any, y: Tensor) -> Tensor:
    raise ModelError("task = 'own' needs a loss: module.loss = f(outputs, targets)")


def with_own(
    plain: Objective, network: NetworkFacts, loss: Callable[..., Any] | None, metrics: Mapping[str, MetricFunction]
) -> Objective:
    """An objective with the user's loss in place of its own, and the user's metrics beside its own.

    The figure by which the best model is chosen is the first metric with an attribute ``higher_is_better``, true or
    false; else that of the task, or the loss where the loss is the user's.
    """
    if loss is not None:
        whole = plain.target.ignored is None and not plain.target.weights
        plain = replace(
            plain,
            loss=lambda outputs, y: _scalar(network, loss, outputs, y),
            loss_name=name_of(loss),
            weight=samples if whole else plain.weight,
            judge="loss" if not plain.metrics else plain.judge,
        )
    if clash := sorted(metrics.keys() & plain.figures.keys()):
        raise network.error(f"the task has a metric {clash[0]!r} already: give yours another name")
    own = {name: _metric(network, name, function) for name, function in metrics.items()}
    judge = next((name for name, metric in own.items() if metric.better), plain.judge)
    return replace(plain, metrics={**plain.metrics, **own}, judge=judge)


def name_of(function: Callable[..., Any]) -> str:
    """A function's name, for people."""
    return str(getattr(function, "__name__", type(function).__name__))[:64]


def _metric(network: NetworkFacts, name: str, function: MetricFunction) -> Metric:
    higher = getattr(function, "higher_is_better", None)

    def sums_and_counts(outputs: Any, y: Tensor) -> tuple[Tensor, Tensor]:
        returned = function(outputs, y)
        if not isinstance(returned, tuple | list) or len(returned) != 2:
            raise network.error(
                f"metric {name} must return (sums, counts), such as (error.abs().sum(), error.numel()), and returns "
                f"a {type(returned).__name__}"
            )
        sums, counts = (_tensor(network, name, part, y) for part in returned)
        if sums.dim() > 1 or (counts.dim() and counts.shape != sums.shape):
            raise network.error(
                f"metric {name}: sums must be a number or a vector, and counts a number or a vector as long; they have "
                f"the shapes {tuple(sums.shape)} and {tuple(counts.shape)}"
            )
        return sums, counts.expand(sums.shape) if counts.shape != sums.shape else counts

    return Metric(sums_and_counts, better="" if higher is None else "higher" if higher else "lower")


def _tensor(network: NetworkFacts, name: str, part: Any, y: Tensor) -> Tensor:
    """A sum or count as a tensor; a number may be a multiple of the batch size, which only a run knows."""
    if isinstance(part, Tensor):
        return part
    if isinstance(part, torch.SymInt):
        return samples(y) * int(part // y.shape[0])
    if isinstance(part, int | float):
        return torch.full((), float(part), dtype=torch.float64)
    raise network.error(f"metric {name} must return tensors or numbers, and returns a {type(part).__name__}")


def _scalar(network: NetworkFacts, loss: Callable[..., Any], outputs: Any, y: Tensor) -> Tensor:
    value = loss(outputs, y)
    if not isinstance(value, Tensor) or value.numel() != 1:
        what = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise network.error(f"loss {name_of(loss)} must return one number, the mean over the batch, and returns {what}")
    return value.reshape(())
