"""How is one task carried out? By torch, on networks that stay loaded; one station a process.

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
from lamina.emulation.simulator.backends.arena import Arena
from lamina.emulation.simulator.backends.network import Network
from lamina.emulation.simulator.backends.tasks import Judging, Outcome, Recipe, Task, Training, Variant
from lamina.emulation.simulator.research.width import narrowed, positions
from lamina.emulation.simulator.rows import KERNELS, TRAINED, marks
from lamina.emulation.simulator.samples import Augmentation, batches
from lamina.models.definition import load_definition
from lamina.models.spec import ModelSpec


class Seat:
    """A variant's network, and how its row lies in the whole one.

    Attributes:
        network: of the variant.
        spec: of that network.
        place: where its row stands in the whole row: everywhere, or at indices.
        decay: weight decay of every element, from the first trained one on.
        trained: 1 for parameters, 0 for statistics, over the same elements.
    """

    def __init__(self, recipe: Recipe, variant: Variant) -> None:
        definition = load_definition(recipe.model, seed=recipe.seed)
        self.spec: ModelSpec = recipe.spec
        self.place: Any = slice(None)
        module = definition.module
        if variant.ratio < 1:
            narrow = narrowed(definition, recipe.spec, variant.ratio)
            module, self.spec, self.place = narrow.module, narrow.spec, positions(recipe.spec, narrow.spec)
        self.network = Network(module, self.spec, variant.cut, recipe.device)
        start = self.network.start
        self.decay = torch.from_numpy(marks(self.spec, KERNELS)[start:] * np.float32(recipe.weight_decay))
        self.trained = torch.from_numpy(marks(self.spec, TRAINED)[start:])
        self.decay, self.trained = self.decay.to(recipe.device), self.trained.to(recipe.device)

    @property
    def narrow(self) -> bool:
        """Its row is a part of the whole one."""
        return not isinstance(self.place, slice)

    def place_from(self, start: int) -> Any:
        """Where the elements of the variant's row from ``start`` on stand in the whole row."""
        return self.place[start:] if self.narrow else slice(start, None)


class Station:
    """Carries out tasks, one after another.

    Args:
        recipe: of the run.
        arena: where states and data are.
    """

    def __init__(self, recipe: Recipe, arena: Arena) -> None:
        self.recipe = recipe
        self.arena = arena
        self._seats: dict[int, Seat] = {}

    def carry_out(self, task: Task) -> Outcome:
        """Do it; a training leaves the device's new state in its slot."""
        return self._train(task) if isinstance(task, Training) else self._judge(task)

    def batch(self, indices: Array, augment: Callable[[Array], Array] | None) -> tuple[Tensor, Tensor]:
        """Samples and labels, where the network computes."""
        x = self.arena.x_train[indices]
        x = x if augment is None else augment(x)
        return self.moved(x), self.moved(self.arena.y_train[indices])

    def seat(self, variant: int) -> Seat:
        """The network of a variant, loaded once."""
        if variant not in self._seats:
            self._seats[variant] = Seat(self.recipe, self.recipe.variants[variant])
        return self._seats[variant]

    def _train(self, task: Training) -> Outcome:
        recipe, arena, seat = self.recipe, self.arena, self.seat(task.variant)
        network, start = seat.network, seat.network.start
        state = arena.entering(task.slot, task.takes)
        network.row.copy_(torch.from_numpy(state[seat.place]))
        momentum = self._momentum(task, seat)
        base = self.moved(arena.base[seat.place])[start:] if recipe.proximal else network.row[start:]
        order = batches(recipe.seed, task.device, task.round, recipe.held[task.device], task.steps, recipe.batch_size)
        augment = Augmentation(recipe.seed, task.device, task.round, order.size).apply if recipe.augment else None
        losses, rights = [], []
        for indices in order:
            loss, right = network.accumulate(*self.batch(indices, augment))
            losses.append(loss)
            rights.append(right)
            self.step(seat, momentum, base, task.lr)
        if seat.narrow:
            arena.rows[task.slot] = state  # where it covers nothing, a narrow device has the global values
        arena.rows[task.slot][seat.place] = network.row.cpu().numpy()
        arena.momentum[task.slot][seat.place_from(start)] = momentum.cpu().numpy()
        mean_loss, right_count = float(torch.stack(losses).mean()), int(torch.stack(rights).sum())
        return Outcome(mean_loss * order.size, right_count, order.size)

    def _momentum(self, task: Training, seat: Seat) -> Tensor:
        """Of the elements that are trained; it may be the arena's own memory."""
        start = seat.network.start
        if task.forgets:
            return torch.zeros(len(seat.network.row) - start, device=self.recipe.device)
        return self.moved(self.arena.momentum[task.slot][seat.place_from(start)])

    def step(self, seat: Seat, momentum: Tensor, base: Tensor, lr: float) -> None:
        """One step of SGD by the network's gradient, in place.

        Args:
            seat: the network.
            momentum: of the elements from the first trained one on.
            base: their last global values, for FedProx.
            lr: learning rate.
        """
        start = seat.network.start
        values, gradient = seat.network.row[start:], seat.network.gradient[start:]
        if self.recipe.weight_decay:
            gradient.addcmul_(values, seat.decay)
        fedprox.pull(gradient, values, base, self.recipe.proximal, seat.trained)
        momentum.mul_(self.recipe.momentum).add_(gradient)
        values.sub_(momentum, alpha=lr)

    def _judge(self, task: Judging) -> Outcome:
        arena, network = self.arena, self.seat(0).network
        network.row.copy_(torch.from_numpy(arena.base))
        samples = slice(task.start, task.stop)
        right, loss = network.judge(self.moved(arena.x_test[samples]), self.moved(arena.y_test[samples]))
        return Outcome(loss, right, task.stop - task.start)

    def moved(self, array: Array) -> Tensor:
        """A tensor of an array, where the network computes. On the CPU it may share the array's memory."""
        shared = array if array.flags.writeable else array.copy()  # torch warns of memory that it may not write to
        return torch.from_numpy(shared).to(self.recipe.device)
