"""A task is carried out by torch, on networks that stay loaded; each process has one runner.

The arithmetic of a step is that of the boards' training graphs (`lamina.models.graph.optimisers`):

    m = momentum m + gradient + weight_decay x   (the last term on kernels only)
    x = x - lr m
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lamina.emulation.readers.raw import Array
from lamina.emulation.simulator import fedprox
from lamina.emulation.simulator.backends.network import Network
from lamina.emulation.simulator.backends.run_arrays import RunArrays
from lamina.emulation.simulator.backends.tasks import (
    EvaluationTask,
    RunTask,
    TaskResult,
    TaskSettings,
    TrainingTask,
    Variant,
)
from lamina.emulation.simulator.research.width import narrowed, positions
from lamina.emulation.simulator.rows import KERNELS, TRAINED, choose, marks
from lamina.emulation.simulator.samples import Augmentation, batches
from lamina.models.definition import load_definition
from lamina.models.spec import ModelSpec


class LoadedVariant:
    """A variant's network, and how its row lies in the whole one.

    Attributes:
        network: of the variant.
        spec: of that network.
        place: where its row stands in the whole row: everywhere, or at indices.
        decay: weight decay of every element, from the first trained one on.
        trained: 1 for parameters, 0 for statistics, over the same elements.
    """

    def __init__(self, common: TaskSettings, variant: Variant) -> None:
        definition = load_definition(common.model, seed=common.seed)
        self.spec: ModelSpec = common.spec
        self.place: Any = slice(None)
        module = definition.module
        if variant.ratio < 1:
            narrow = narrowed(definition, common.spec, variant.ratio)
            module, self.spec, self.place = narrow.module, narrow.spec, positions(common.spec, narrow.spec)
        self.network = Network(module, self.spec, variant.cut, common.device)
        start = self.network.start
        self.decay = torch.from_numpy(marks(self.spec, KERNELS)[start:] * np.float32(common.weight_decay))
        self.trained = torch.from_numpy(marks(self.spec, TRAINED)[start:])
        self.decay, self.trained = self.decay.to(common.device), self.trained.to(common.device)

    @property
    def narrow(self) -> bool:
        """Whether the variant's row is a part of the whole one."""
        return not isinstance(self.place, slice)

    def place_from(self, start: int) -> Any:
        """Return where the elements of the variant's row from ``start`` on stand in the whole row."""
        return self.place[start:] if self.narrow else slice(start, None)


class TaskRunner:
    """Carries out tasks, one after another.

    Args:
        common: of the run.
        arrays: where states and data are.
    """

    def __init__(self, common: TaskSettings, arrays: RunArrays) -> None:
        self.common = common
        self.arrays = arrays
        self._loaded: dict[int, LoadedVariant] = {}

    def carry_out(self, task: RunTask) -> TaskResult:
        """Do it; a training leaves the device's new state in its slot."""
        return self._train(task) if isinstance(task, TrainingTask) else self._judge(task)

    def batch(self, indices: Array, augment: Callable[[Array], Array] | None) -> tuple[Tensor, Tensor]:
        """Samples and labels, where the network computes."""
        x = self.arrays.x_train[indices]
        x = x if augment is None else augment(x)
        return self.moved(x), self.moved(self.arrays.y_train[indices])

    def loaded(self, variant: int) -> LoadedVariant:
        """The network of a variant, loaded once."""
        if variant not in self._loaded:
            self._loaded[variant] = LoadedVariant(self.common, self.common.variants[variant])
        return self._loaded[variant]

    def _train(self, task: TrainingTask) -> TaskResult:
        common, arrays, loaded = self.common, self.arrays, self.loaded(task.variant)
        network, start = loaded.network, loaded.network.start
        state = arrays.entering(task.slot, task.takes)
        network.row.copy_(torch.from_numpy(state[loaded.place]))
        momentum = self._momentum(task, loaded)
        base = (
            self.moved(arrays.anchor(task.slot, common.personal)[loaded.place])[start:]
            if common.mu
            else network.row[start:]
        )
        order = batches(common.seed, task.device, task.round, common.held[task.device], task.steps, common.batch_size)
        augment = Augmentation(common.seed, task.device, task.round, order.size).apply if common.augment else None
        shift = None if task.shift is None else self.moved(task.shift[loaded.place])[start:]
        losses, rights = [], []
        for indices in order:
            loss, right = network.accumulate(*self.batch(indices, augment))
            losses.append(loss)
            rights.append(right)
            self.step(loaded, momentum, base, task.lr, shift)
        if loaded.narrow:
            arrays.rows[task.slot] = state  # where it covers nothing, a narrow device has the global values
        arrays.rows[task.slot][loaded.place] = network.row.cpu().numpy()
        arrays.momentum[task.slot][loaded.place_from(start)] = momentum.cpu().numpy()
        mean_loss, right_count = float(torch.stack(losses).mean()), int(torch.stack(rights).sum())
        return TaskResult(mean_loss * order.size, right_count, order.size)

    def _momentum(self, task: TrainingTask, loaded: LoadedVariant) -> Tensor:
        """Momentum of the trained elements; it may be the run's own memory."""
        start = loaded.network.start
        if task.forgets:
            return torch.zeros(len(loaded.network.row) - start, device=self.common.device)
        return self.moved(self.arrays.momentum[task.slot][loaded.place_from(start)])

    def step(
        self, loaded: LoadedVariant, momentum: Tensor, base: Tensor, lr: float, shift: Tensor | None = None
    ) -> None:
        """One step of SGD by the network's gradient, in place.

        Args:
            loaded: the network.
            momentum: of the elements from the first trained one on.
            base: their last global values, for FedProx.
            lr: learning rate.
            shift: what is added to the gradient.
        """
        start = loaded.network.start
        values, gradient = loaded.network.row[start:], loaded.network.gradient[start:]
        if self.common.weight_decay:
            gradient.addcmul_(values, loaded.decay)
        fedprox.pull(gradient, values, base, self.common.mu, loaded.trained)
        if shift is not None:
            gradient.add_(shift)
        momentum.mul_(self.common.momentum).add_(gradient)
        values.sub_(momentum, alpha=lr)

    def _judge(self, task: EvaluationTask) -> TaskResult:
        arrays, network = self.arrays, self.loaded(0).network
        state = arrays.base if task.own is None else arrays.base.copy()
        if task.own is not None:
            choose(state, self.common.personal, task.own)
        network.row.copy_(torch.from_numpy(state))
        samples = slice(task.start, task.stop)
        right, loss = network.judge(self.moved(arrays.x_test[samples]), self.moved(arrays.y_test[samples]))
        return TaskResult(loss, right, task.stop - task.start)

    def moved(self, array: Array) -> Tensor:
        """A tensor of an array, where the network computes. On the CPU it may share the array's memory."""
        shared = array if array.flags.writeable else array.copy()  # torch warns of memory that it may not write to
        return torch.from_numpy(shared).to(self.common.device)
