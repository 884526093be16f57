"""A training step in torch, of a whole network or of the layers from a cut on, for comparison with ours.

The layers from a cut on are torch's own operators, taken from the exported forward pass: what eager mode would run,
less the calls of modules.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from lamina.models.definition import Definition
from lamina.models.graph.anatomy import dissect
from lamina.models.graph.sections import CutPoint, end, starts
from lamina.models.graph.tracing import TracedForward, trace
from lamina.models.spec import ModelSpec

Array = NDArray[Any]
Step = Callable[[], float]
HYPERPARAMETERS = {"lr": 0.01, "momentum": 0.9, "weight_decay": 1e-4}


def torch_step(
    definition: Definition, spec: ModelSpec, cut: int, x: Array, y: Array, *, cached: bool, compiled: bool
) -> Step:
    """A step of SGD on one batch; calling it returns the loss before the step.

    Args:
        definition: the network; it stays as it is.
        spec: its layers.
        cut: first layer that is trained.
        x: samples (B, ...).
        y: their classes (B,).
        cached: whether the frozen layers before the cut run once, now, or at every step.
        compiled: whether by ``torch.compile``, or in eager mode.
    """
    samples, labels = torch.from_numpy(x), torch.from_numpy(y)
    frozen, trained = copy.deepcopy(_behind(definition, spec, cut) if cut else (None, definition.module.train()))
    run = cast(Callable[[Tensor], Tensor], torch.compile(trained) if compiled else trained)
    optimiser = torch.optim.SGD(trained.parameters(), **HYPERPARAMETERS)  # type: ignore[arg-type]  # by their names
    boundary = samples if frozen is None else _without_gradient(frozen, samples)

    def step() -> float:
        entering = boundary if cached or frozen is None else _without_gradient(frozen, samples)
        optimiser.zero_grad()
        loss = F.cross_entropy(run(entering), labels)
        loss.backward()  # type: ignore[no-untyped-call]  # torch's own
        optimiser.step()
        return loss.item()

    return step


def _without_gradient(module: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return cast(Tensor, module(x))


@cache  # to trace a recurrent network takes long
def _behind(definition: Definition, spec: ModelSpec, cut: int) -> tuple[nn.Module, nn.Module]:
    """The layers before the cut in inference mode, and those from it on."""
    inference, training = (trace(definition, training=mode) for mode in (False, True))
    frozen = _section(inference, starts(inference, spec)[0], starts(inference, spec)[cut])
    return frozen, _section(training, starts(training, spec)[cut], end(training))


def _section(forward: TracedForward, start: CutPoint, stop: CutPoint) -> fx.GraphModule:
    """The operators between two points as a module of the activation at the first."""
    graph, root = fx.Graph(), nn.Module()
    boundary = graph.placeholder("x")
    copies = {start.activation: boundary}

    def of(operator: fx.Node) -> fx.Node:
        if operator not in copies:
            copies[operator] = _copied(operator)
        return copies[operator]

    def _copied(operator: fx.Node) -> fx.Node:
        if operator.op == "placeholder":
            name = forward.tensors[operator].replace(".", "_")
            _register(root, name, forward.values[forward.tensors[operator]])
            return graph.get_attr(name)
        if operator.target is torch.ops.aten.sym_size.int and operator.args[0] not in copies:
            return graph.call_method("size", (boundary, 0))  # of the batch: no other extent is symbolic
        return graph.node_copy(operator, of)

    anchored = dissect(forward).anchored
    for operator in forward.operators[start.index : stop.index]:
        if operator in anchored:
            of(operator)
    graph.output(of(stop.activation))
    return fx.GraphModule(root, graph)


def _register(root: nn.Module, name: str, tensor: Tensor) -> None:
    if isinstance(tensor, nn.Parameter):
        root.register_parameter(name, tensor)
    else:
        root.register_buffer(name, tensor)


def random_batch(definition: Definition, size: int) -> tuple[Array, Array]:
    """Samples and classes for a network, the same ones every time."""
    rng = np.random.default_rng(0)
    shape = (size, *definition.input_shape)
    is_float = definition.input_dtype == "float32"
    x = rng.standard_normal(shape, np.float32) if is_float else rng.integers(0, 1000, shape)
    return x, rng.integers(0, definition.classes, size)
