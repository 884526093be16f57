"""All active devices' networks as one, along a leading dimension: the backend for networks of small dense operators.

A step of a small network costs more in calls than in arithmetic; here a call serves the whole cohort. Dense layers
become batched products, convolutions grouped ones (`torch.func.vmap` sees to both). Devices that train from the same
cut are stacked together. Networks with running statistics, and narrow ones, are left to the other backends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call, grad_and_value, vmap

from lamina.emulation.readers.raw import Array
from lamina.emulation.simulator import fedprox
from lamina.emulation.simulator.backends.run_arrays import RunArrays, private_arrays
from lamina.emulation.simulator.backends.task_runner import TaskRunner
from lamina.emulation.simulator.backends.tasks import EvaluationTask, RunTask, TaskResult, TaskSettings, TrainingTask
from lamina.emulation.simulator.rows import KERNELS, TRAINED, layer_offsets, marks, places
from lamina.emulation.simulator.samples import Augmentation, batches
from lamina.models.definition import load_definition
from lamina.models.spec import ModelSpec

Gradient = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, tuple[Tensor, Tensor]]]
"""From frozen (m, n0), trained (m, n1), x (m, B, ...) and y (m, B) to gradient (m, n1), and losses and rights (m,)."""


class Stack:
    """See the module.

    Args:
        runner: its settings, arrays and data are used, and it judges.
    """

    name = "stack"

    def __init__(self, runner: TaskRunner) -> None:
        self._runner = runner
        self._gradients: dict[int, Gradient] = {}

    @property
    def arrays(self) -> RunArrays:
        """The arrays that hold the states."""
        return self._runner.arrays

    def carry_out(self, tasks: Sequence[RunTask]) -> list[TaskResult]:
        """Do all of them; outcomes in the order of the tasks."""
        outcomes: dict[int, TaskResult] = {
            index: self._runner.carry_out(task) for index, task in enumerate(tasks) if isinstance(task, EvaluationTask)
        }
        groups: dict[tuple[int, int, float], list[tuple[int, TrainingTask]]] = {}
        for index, task in enumerate(tasks):
            if isinstance(task, TrainingTask):
                groups.setdefault((task.variant, task.steps, task.lr), []).append((index, task))
        for group in groups.values():
            done = self._train([task for _, task in group])
            outcomes.update({index: outcome for (index, _), outcome in zip(group, done, strict=True)})
        return [outcomes[index] for index in range(len(tasks))]

    def _train(self, tasks: list[TrainingTask]) -> list[TaskResult]:
        """Devices of one variant, together."""
        common, arrays, first = self._runner.common, self.arrays, tasks[0]
        start = layer_offsets(common.spec)[common.variants[first.variant].cut]
        slots = [task.slot for task in tasks]
        states = np.stack([arrays.entering(task.slot, task.takes) for task in tasks])
        rows = torch.from_numpy(states).to(common.device)  # (m, row_size)
        momentum = torch.from_numpy(arrays.momentum[slots, start:]).to(common.device)
        momentum[[index for index, task in enumerate(tasks) if task.forgets]] = 0.0
        frozen, trained = rows[:, :start], rows[:, start:]
        anchors = np.stack([arrays.anchor(slot, common.personal) for slot in slots]) if common.personal else arrays.base
        base = torch.from_numpy(anchors).to(common.device)[..., start:].expand_as(trained)
        decay = torch.from_numpy(marks(common.spec, KERNELS)[start:]).to(common.device) * common.weight_decay
        kept = torch.from_numpy(marks(common.spec, TRAINED)[start:]).to(common.device)
        shifts = [task.shift[start:] for task in tasks if task.shift is not None]
        shift = torch.from_numpy(np.stack(shifts)).to(common.device) if shifts else None
        gradient_of = self._gradient(first.variant)
        losses, rights = [], []
        for x, y in self._batches(tasks):  # (m, B, ...), (m, B)
            gradient, (loss, right) = gradient_of(frozen, trained, x, y)
            losses.append(loss)
            rights.append(right)
            gradient = torch.addcmul(gradient, trained, decay)
            fedprox.pull(gradient, trained, base, common.mu, kept)
            gradient = gradient if shift is None else gradient + shift
            momentum = momentum * common.momentum + gradient
            trained = trained.sub(momentum, alpha=first.lr)
        arrays.rows[slots] = torch.cat((frozen, trained), dim=1).cpu().numpy()
        arrays.momentum[slots, start:] = momentum.cpu().numpy()
        seen = first.steps * common.batch_size
        mean_losses, right_counts = torch.stack(losses).mean(0), torch.stack(rights).sum(0)  # (m,)
        return [
            TaskResult(float(loss) * seen, int(right), seen)
            for loss, right in zip(mean_losses, right_counts, strict=True)
        ]

    def _batches(self, tasks: list[TrainingTask]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield, for every step, the samples of all devices."""
        common = self._runner.common
        order = np.stack(
            [
                batches(common.seed, task.device, task.round, common.held[task.device], task.steps, common.batch_size)
                for task in tasks
            ]
        )  # (m, steps, B)
        seen = order[0].size
        changes = [Augmentation(common.seed, task.device, task.round, seen) for task in tasks] if common.augment else []

        def augment(x: Array) -> Array:
            return np.stack([change.apply(part) for change, part in zip(changes, x, strict=True)])

        for step in range(order.shape[1]):
            yield self._runner.batch(order[:, step], augment if changes else None)

    def _gradient(self, variant: int) -> Gradient:
        if variant not in self._gradients:
            common = self._runner.common
            self._gradients[variant] = _gradient_of(common, common.variants[variant].cut)
        return self._gradients[variant]


@contextmanager
def stacking(common: TaskSettings, slots: int, data: Sequence[Array]) -> Iterator[Stack]:
    """A stack over arrays of its own; arguments as those of `private_arrays`."""
    yield Stack(TaskRunner(common, private_arrays(slots, layer_offsets(common.spec)[-1], data)))


def _gradient_of(common: TaskSettings, cut: int) -> Gradient:
    spec = common.spec
    module: Any = load_definition(common.model, seed=common.seed).module.to(common.device).train()
    start = layer_offsets(spec)[cut]

    def loss_of(trained: Tensor, frozen: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        logits = functional_call(module, _tensors(spec, frozen, trained, start), (x,))  # (B, classes)
        loss = F.cross_entropy(logits, y)
        return loss, (loss.detach(), (logits.argmax(1) == y).sum())

    with_gradient = vmap(grad_and_value(loss_of, has_aux=True))

    def gradient(frozen: Tensor, trained: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        found, (_, seen) = with_gradient(trained, frozen, x, y)
        return found, seen

    return gradient


def _tensors(spec: ModelSpec, frozen: Tensor, trained: Tensor, start: int) -> dict[str, Tensor]:
    """The named tensors of one device. ``split`` gives them, because its gradient is one concatenation."""
    listing = list(places(spec))
    before = [tensor for tensor, place in listing if place.start < start]
    after = [tensor for tensor, place in listing if place.start >= start]
    named: dict[str, Tensor] = {}
    for tensors, row in ((before, frozen), (after, trained)):
        parts = torch.split(row, [tensor.size for tensor in tensors]) if tensors else ()
        named |= {tensor.name: part.view(tensor.shape) for tensor, part in zip(tensors, parts, strict=True)}
    return named
