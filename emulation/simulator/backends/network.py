"""Trains rows with torch: a network whose tensors are views of one flat row, and gradients likewise.

Loading a device's state is then one copy, and a step of SGD a few operations on whole rows, whatever the number of
tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lamina.emulation.simulator.rows import layer_offsets, places
from lamina.models.metrics import Sums
from lamina.models.spec import ModelSpec
from lamina.models.tasks.base import Objective


class Network:
    """A module over a row.

    Args:
        module: it is taken over; its values are lost.
        spec: of the module.
        first: index of the first layer to be trained. Those before it run forward only, their norms in inference mode.
        device: torch's name of where to compute.
        objective: what is learnt; ``None``: one label a sample, by cross entropy.

    Attributes:
        row: the state, (row_size,); write here to load a device.
        gradient: of the loss, (row_size,); 0 where nothing is trained.
        start: of the first trained layer in the row.
    """

    def __init__(
        self,
        module: nn.Module,
        spec: ModelSpec,
        first: int = 0,
        device: str = "cpu",
        objective: Objective | None = None,
    ) -> None:
        self._objective = objective
        offsets = layer_offsets(spec)
        self.start = offsets[first]
        self.row = torch.zeros(offsets[-1], device=device)
        self.gradient = torch.zeros(offsets[-1], device=device)
        self._module = module.to(device)
        self._frozen = _put_on_rows(self._module, spec, self.row, self.gradient, self.start)

    def accumulate(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Set `gradient` for one batch; running statistics move.

        Args:
            x: (B, *input_shape).
            y: targets, (B, ...).

        Returns:
            the mean loss, and how many samples are right, 0 in a task where none is right or wrong; 0-d.
        """
        self._to_train()
        self.gradient[self.start :].zero_()
        outputs = self._module(_channels_last(x))
        loss, right = loss_and_right(self._objective, outputs, y)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        return loss.detach(), right

    def add(self, x: Tensor, loss_of: Callable[[Tensor], Tensor]) -> None:
        """Add to `gradient` that of another loss, a function of the logits for ``x``; running statistics move."""
        self._to_train()
        loss_of(self._module(_channels_last(x))).backward()  # type: ignore[no-untyped-call]

    @torch.inference_mode()
    def logits(self, x: Tensor) -> Tensor:
        """Return the logits (B, classes) for x (B, *input_shape), in inference mode."""
        self._module.eval()
        logits: Tensor = self._module(_channels_last(x))
        return logits

    @torch.inference_mode()
    def judge(self, x: Tensor, y: Tensor) -> tuple[int, float]:
        """How many samples are classified rightly, and the sum of their losses, in inference mode."""
        logits = self.logits(x)
        loss = F.cross_entropy(logits, y, reduction="sum")
        return int((logits.argmax(1) == y).sum()), float(loss)

    @torch.inference_mode()
    def figures(self, x: Tensor, y: Tensor) -> tuple[Sums, Sums]:
        """Sums and counts of the objective's metrics, in inference mode."""
        if self._objective is None:
            raise ValueError("one label a sample is judged by `judge`")
        self._module.eval()
        outputs = self._module(_channels_last(x))
        pairs = [metric.function(outputs, y) for metric in self._objective.figures.values()]
        sums, counts = (
            np.concatenate([torch.as_tensor(pair[place]).double().reshape(-1).cpu().numpy() for pair in pairs])
            for place in (0, 1)
        )
        return sums, counts

    def _to_train(self) -> None:
        self._module.train()
        for part in self._frozen:
            part.eval()


def loss_and_right(objective: Objective | None, outputs: Any, y: Tensor) -> tuple[Tensor, Tensor]:
    """The mean loss of a batch, and how many samples are right."""
    if objective is None:  # logits (B, classes)
        return F.cross_entropy(outputs, y), (outputs.detach().argmax(1) == y).sum()
    loss = objective.loss(outputs, y)
    if objective.correct is None:
        return loss, torch.zeros((), dtype=torch.int64, device=loss.device)
    return loss, objective.correct(outputs.detach(), y)


def _put_on_rows(module: nn.Module, spec: ModelSpec, row: Tensor, gradient: Tensor, start: int) -> list[nn.Module]:
    """Make the module's tensors views of ``row``; the modules that stand before ``start`` entirely."""
    trained: dict[nn.Module, bool] = {}
    for parameter in module.parameters():
        parameter.requires_grad_(False)  # what the spec leaves out is a constant
    for tensor, place in places(spec):
        path, _, name = tensor.name.rpartition(".")
        owner = module.get_submodule(path)
        view = row[place].view(tensor.shape)
        if tensor.kind == "statistic":
            owner._buffers[name] = view
        else:
            parameter = getattr(owner, name)
            parameter.data = view
            if place.start >= start:
                parameter.requires_grad_(True)
                parameter.grad = gradient[place].view(tensor.shape)
        trained[owner] = trained.get(owner, False) or place.start >= start
    return [owner for owner, is_trained in trained.items() if not is_trained]


def _channels_last(x: Tensor) -> Tensor:
    """Images with their channels last in memory.

    Measured for a training step in one thread, against channels first: with batch norms 1.2 times as fast (ResNet20)
    and 1.4 times (MobileNetV2); without norms (digits, LEAF and depthwise networks) 0.98 to 1.02 times.
    """
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x
