"""Which task a definition has, from what its author wrote: a name or a task, a loss by name or function, metrics.

A loss says the task where the author doesn't: ``mse``, ``mae`` and ``huber`` are regression, and so is
``squared_error`` of a single output; ``binary_cross_entropy`` of a single output is yes or no.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lamina.models.errors import ModelError, did_you_mean
from lamina.models.tasks.base import LearningTask, MetricFunction, NetworkFacts, Objective
from lamina.models.tasks.binary import Binary
from lamina.models.tasks.dense import Dense
from lamina.models.tasks.multi_label import MultiLabel
from lamina.models.tasks.own import Own, with_own
from lamina.models.tasks.reconstruction import Reconstruction
from lamina.models.tasks.regression import Regression
from lamina.models.tasks.single_label import SingleLabel
from lamina.models.tasks.tokens import TokenLabels

TASKS: dict[str, type[LearningTask]] = {
    task.name: task for task in (SingleLabel, Binary, MultiLabel, Regression, Reconstruction, Dense, TokenLabels, Own)
}
USUAL_LOSS = "cross_entropy"
"""What a definition has for its loss where its author said nothing."""

_OF_ONE_OUTPUT = {"squared_error": (Regression, "mse"), "binary_cross_entropy": (Binary, "binary_cross_entropy")}
_OF_NUMBERS = {name: (Regression, name) for name in ("mse", "mae", "huber")}

Loss = str | Callable[..., Any]


def task_of(model: str, task: str | LearningTask, loss: Loss, classes: int) -> tuple[LearningTask, str]:
    """The task, and the name of its loss.

    Args:
        model: its name, for errors.
        task: as the author wrote it; empty: nothing.
        loss: as the author wrote it.
        classes: as the author wrote it; 0: nothing.

    Raises:
        ModelError: there is no such task, or no such loss of it.
    """
    if not callable(loss) and not isinstance(loss, str):
        raise ModelError(
            f"model {model}: a loss is a name, one of {', '.join(_all_losses())}, or a function of outputs and "
            f"targets, and this is a {type(loss).__name__}"
        )
    name = loss if isinstance(loss, str) else USUAL_LOSS
    if not task:
        inferred = _OF_NUMBERS if name in _OF_NUMBERS else _OF_ONE_OUTPUT if classes == 1 else {}
        if name in inferred:
            kind, name = inferred[name]
            return kind(), name
        task = Own() if callable(loss) and not classes else SingleLabel()
    chosen = _named(model, task) if isinstance(task, str) else task
    if not isinstance(chosen, LearningTask):
        raise ModelError(f"model {model}: task is one of {', '.join(TASKS)}, and not a {type(chosen).__name__}")
    if callable(loss):
        return chosen, next(iter(chosen.losses), "")
    if name == USUAL_LOSS and name not in chosen.losses:
        name = next(iter(chosen.losses), "")
    if chosen.losses and name not in chosen.losses:
        raise ModelError(f"model {model}: there is no loss {name!r}; {did_you_mean(name, chosen.losses)}")
    return chosen, name


def is_usual(task: LearningTask, loss: Loss, metrics: Mapping[str, MetricFunction]) -> bool:
    """Whether bundles say nothing of it: one label a sample, and nothing of the user's own."""
    return task == SingleLabel() and not callable(loss) and not metrics


def resolved(
    task: LearningTask, name: str, loss: Loss, metrics: Mapping[str, MetricFunction], network: NetworkFacts
) -> Objective:
    """The objective of a network.

    Raises:
        ModelError: its outputs don't suit its task.
    """
    plain = task.objective(network, name)
    return with_own(plain, network, loss if callable(loss) else None, metrics)


def _named(model: str, name: str) -> LearningTask:
    if name not in TASKS:
        raise ModelError(f"model {model}: there is no task {name!r}; {did_you_mean(name, TASKS)}")
    return TASKS[name]()


def _all_losses() -> list[str]:
    return list(dict.fromkeys(loss for task in TASKS.values() for loss in task.losses))
