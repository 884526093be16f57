"""Takes a step by torch's own eager autograd, on the user's module as it is: what a training graph is compared with.

The module's values, gradients and modes are put back afterwards. In float64 a copy of the module is used, since a
conversion and back would replace its buffers.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from lamina.models.definition import Definition
from lamina.models.errors import ModelError
from lamina.models.graph.objectives import objective_of
from lamina.models.graph.tracing import mode_of, trace
from lamina.models.proof.draws import Replaying
from lamina.models.proof.judging import Array, Arrays
from lamina.models.spec import LayerSpec


@dataclass(frozen=True)
class Step:
    """What a step makes of a batch.

    Attributes:
        loss: mean over the batch.
        correct: samples that are right.
        gradients: of the trained tensors, by name.
        statistics: next values of the running statistics, by name.
    """

    loss: float
    correct: int
    gradients: Arrays
    statistics: Arrays

    def groups(self) -> tuple[Arrays, Arrays, Arrays]:
        """Loss, gradients and statistics: what is compared each with its like."""
        return {"loss": np.array(self.loss)}, self.gradients, self.statistics


def step(
    definition: Definition,
    layers: Sequence[LayerSpec],
    values: Mapping[str, NDArray[np.float32]],
    x: NDArray[Any],
    y: NDArray[Any],
    *,
    drawn: Sequence[Tensor] | None = (),
    dtype: torch.dtype = torch.float32,
) -> Step:
    """One step's forward and backward pass in training mode.

    Args:
        definition: the network.
        layers: those whose gradients and statistics are wanted.
        values: of the parameters and statistics, by name; tensors that are not there keep their own.
        x: samples (N, ...).
        y: targets, as the task takes them.
        drawn: what torch is to draw, in this order; ``None``: whatever its generator gives.
        dtype: float32 or float64.

    Raises:
        ModelError: torch draws other random numbers than ``drawn``.
        Exception: whatever the module raises.
    """
    module = definition.module if dtype == torch.float32 else copy.deepcopy(definition.module).to(dtype)
    samples = torch.from_numpy(x)
    samples = samples.to(dtype) if samples.is_floating_point() else samples
    objective = objective_of(definition)
    targets = _targets(y, dtype)
    trained = [tensor.name for layer in layers for tensor in layer.parameters]
    moving = [tensor.name for layer in layers for tensor in layer.statistics]
    with _default(dtype), kept(module), mode_of(module, training=True), torch.enable_grad():
        _set(module, values)
        for parameter in module.parameters():
            parameter.grad = None
        with Replaying(drawn) if drawn is not None else torch.random.fork_rng(devices=[]) as replaying:
            outputs = module(samples)
        value = objective.loss(outputs, targets)
        value.backward()  # type: ignore[no-untyped-call]  # torch's
        correct = int(objective.correct(outputs.detach(), targets)) if objective.correct else 0
        if replaying is not None and replaying.left:
            raise ModelError(f"the graph draws random numbers at {replaying.left} places more than torch does")
        gradients = {name: _gradient(module.get_parameter(name)) for name in trained}
        statistics = {name: _array(module.get_buffer(name)) for name in moving}
    return Step(value.item(), correct, gradients, statistics)


def outputs(
    definition: Definition,
    values: Mapping[str, NDArray[np.float32]],
    x: NDArray[Any],
    *,
    dtype: torch.dtype = torch.float32,
) -> list[Array]:
    """The module's outputs, each (N, ...), in inference mode.

    Raises:
        ModelError: the module draws random numbers.
        Exception: whatever the module raises.
    """
    module = definition.module if dtype == torch.float32 else copy.deepcopy(definition.module).to(dtype)
    samples = torch.from_numpy(x)
    samples = samples.to(dtype) if samples.is_floating_point() else samples
    with _default(dtype), kept(module), mode_of(module, training=False), torch.no_grad(), Replaying(()):
        _set(module, values)
        return [_array(output) for output in tree_leaves(module(samples))]


def figures(
    definition: Definition, results: Sequence[NDArray[Any]], y: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sums and counts of the task's metrics on outputs of the module, by torch.

    Raises:
        Exception: whatever a metric raises.
    """
    arranged = trace(definition, training=False).arranged([torch.from_numpy(result) for result in results])
    with torch.no_grad():
        metrics = objective_of(definition).figures.values()
        pairs = [metric.function(arranged, torch.from_numpy(y)) for metric in metrics]
    sums, counts = (
        np.concatenate([torch.as_tensor(pair[place]).double().reshape(-1).numpy() for pair in pairs])
        for place in (0, 1)
    )
    return sums, counts


def _targets(y: NDArray[Any], dtype: torch.dtype) -> Tensor:
    targets = torch.from_numpy(y)
    return targets.to(dtype) if targets.is_floating_point() else targets


@contextmanager
def _default(dtype: torch.dtype) -> Iterator[None]:
    """What the module makes without a type is to have this one."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def kept(module: nn.Module) -> Iterator[None]:
    """Inside, the module's tensors may change; afterwards they are what they were."""
    buffers = {part: dict(part._buffers) for part in module.modules()}
    values = [(tensor, tensor.detach().clone()) for tensor in (*module.parameters(), *module.buffers())]
    gradients = [(parameter, parameter.grad) for parameter in module.parameters()]
    try:
        yield
    finally:
        for part, own in buffers.items():
            part._buffers.update(own)
        with torch.no_grad():
            for tensor, value in values:
                tensor.copy_(value)
        for parameter, gradient in gradients:
            parameter.grad = gradient


def _set(module: nn.Module, values: Mapping[str, NDArray[np.float32]]) -> None:
    own = dict(module.named_parameters()) | dict(module.named_buffers())
    with torch.no_grad():
        for name, value in values.items():
            own[name].copy_(torch.from_numpy(value))


def _gradient(parameter: nn.Parameter) -> Array:
    return np.zeros(tuple(parameter.shape)) if parameter.grad is None else _array(parameter.grad)


def _array(tensor: Tensor) -> Array:
    known = tensor.new_zeros(tensor.shape) if tensor._is_zerotensor() else tensor  # zeros that torch has not written
    return known.detach().numpy().copy()
