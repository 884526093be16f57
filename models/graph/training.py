"""What does a device run to train from a cut onwards? One graph for a whole step: forward, loss, backward, optimiser.

Its inputs and outputs are those of `models.manifest.SubModel`. The trained layers run in training mode.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx
import torch
from torch import Tensor, fx

from models.definition import Definition
from models.graph.flattening import flatten, without_values
from models.graph.losses import Loss, loss_named
from models.graph.optimisers import Optimiser, Trained, optimiser_named
from models.graph.rules.random import SEED
from models.graph.sections import Point, end, is_random, run_section, starts
from models.graph.tracing import Forward, example, trace
from models.graph.translation import translate
from models.graph.values import Value
from models.graph.writer import GraphWriter
from models.manifest import ONNXRUNTIME
from models.spec import ModelSpec, TensorSpec


@dataclass(frozen=True)
class TrainingGraph:
    """A training-step graph, and what it needs besides x and y.

    Attributes:
        model: the graph.
        optimiser_state: names of the optimiser's resident vectors, each as long as ``parameters``.
        hyperparameters: names of the 0-d float32 inputs, with defaults.
    """

    model: onnx.ModelProto
    optimiser_state: tuple[str, ...]
    hyperparameters: dict[str, float]


def training_graph(
    definition: Definition,
    spec: ModelSpec,
    cut: int,
    optimiser: str = "sgd",
    *,
    serial: bool = True,
    engine: str = ONNXRUNTIME,
) -> TrainingGraph:
    """The step that trains the layers from ``cut`` onwards; its x is the activation at the cut.

    Args:
        definition: the network.
        spec: its layers and blocks.
        cut: index of the first layer that is trained; a block starts there.
        optimiser: its name.
        serial: whether the graph is to be fast on one thread, rather than on several: of some operators' two forms,
            one is the faster on one thread, and the other on two.
        engine: that is to run it: any with ``onnxruntime``, else one that has gradient operators of its own.

    Raises:
        ModelError: no block starts at the cut, an operator has no rule, or there is no such loss or optimiser.
    """
    chosen = optimiser_named(optimiser)
    spec.block_at(cut)
    forward = trace(definition, training=True)
    # A network that draws random numbers takes a seed, at every cut: the graphs of a bundle take the same inputs.
    seed = {SEED: 0.0} if any(map(is_random, forward.operators)) else {}
    hyperparameters = chosen.hyperparameters | seed
    g = GraphWriter(f"{spec.name} from layer {cut}", serial=serial, engine=engine)
    for name in hyperparameters:
        g.input(name, "float32", ())
    _write(g, forward, spec, cut, chosen)
    return TrainingGraph(g.model(), chosen.state, hyperparameters)


def _write(g: GraphWriter, forward: Forward, spec: ModelSpec, cut: int, optimiser: Optimiser) -> None:
    """Write the step into ``g``, which has the hyperparameters already."""
    start, loss = starts(forward, spec)[cut], loss_named(spec.loss)
    trained = [tensor for layer in spec.layers[cut:] for tensor in layer.parameters]
    moving = [tensor for layer in spec.layers[cut:] for tensor in layer.statistics]

    inputs = [g.input("x", start.dtype, ("N", *start.shape)), g.input("y", loss.dtype, ("N",))]
    pieces = _pieces(g, "parameters", trained) | _pieces(g, "statistics", moving)
    tensors = {tensor.name: _shaped(g, pieces[tensor.name], tensor.shape) for tensor in (*trained, *moving)}
    step = _flat_step(forward, start, loss, _names(trained), _names(moving))
    value, correct, *rest = translate(g, forward, step, tensors, inputs)
    gradients, moved = rest[: len(trained)], rest[len(trained) :]

    g.output("loss", value, "float32", ())
    g.output("correct", correct, "int64", ())
    if moving:
        g.output("statistics_next", _joined(g, moved), "float32", (_size(moving),))
    _update(
        g,
        optimiser,
        [
            Trained(pieces[tensor.name], _flat(g, gradient), tensor.kind == "kernel")
            for tensor, gradient in zip(trained, gradients, strict=True)
        ],
        _size(trained),
    )


def _update(g: GraphWriter, optimiser: Optimiser, tensors: Sequence[Trained], size: int) -> None:
    """Write the optimiser's part, and its vectors, which are inputs and outputs."""
    state = {name: g.input(name, "float32", (size,)) for name in optimiser.state}
    parameters, state_after = optimiser.update(g, tensors, "parameters", state)
    for name, vector in {"parameters": parameters, **state_after}.items():
        g.output(f"{name}_next", vector, "float32", (size,))


def _flat_step(
    forward: Forward, start: Point, loss: Loss, trained: Sequence[str], moving: Sequence[str]
) -> fx.GraphModule:
    """One step from ``start`` onwards, without the optimiser, as a flat graph.

    From the tensors of the module, x and y to the loss, the count of correct answers, the gradients of the tensors
    ``trained``, and the next values of the tensors ``moving``.
    """

    def step(tensors: dict[str, Tensor], x: Tensor, y: Tensor) -> list[Tensor]:
        leaves = {name: tensors[name].detach().requires_grad_() for name in trained}
        moved = {name: tensors[name].clone() for name in moving}  # the forward pass changes them in place
        logits = run_section(forward, start, end(forward), tensors | leaves | moved, x)
        value = loss.value(logits, y)
        gradients = torch.autograd.grad(value, list(leaves.values()), materialize_grads=True)
        return [value.detach(), loss.correct(logits.detach(), y), *gradients, *moved.values()]

    with without_values(forward):
        x = torch.empty_like(example(start.activation), requires_grad=False)
        y = torch.empty((x.shape[0],), dtype=getattr(torch, loss.dtype))
    return flatten(forward, step, x, y)


def _pieces(g: GraphWriter, name: str, tensors: Sequence[TensorSpec]) -> dict[str, str]:
    """The input ``name``, a flat vector, as one flat piece for each of ``tensors``, by the tensor's name."""
    if not tensors:
        return {}
    vector = g.input(name, "float32", (_size(tensors),))
    sizes = [tensor.size for tensor in tensors]
    pieces = g.many("Split", len(sizes), vector, sizes, axis=0) if len(sizes) > 1 else (vector,)
    return dict(zip(_names(tensors), pieces, strict=True))


def _joined(g: GraphWriter, tensors: Sequence[Value]) -> str:
    """``tensors`` as one flat vector."""
    return g.Concat(*(_flat(g, tensor) for tensor in tensors), axis=0)


def _shaped(g: GraphWriter, piece: str, shape: Sequence[int]) -> str:
    return piece if len(shape) == 1 else g.Reshape(piece, list(shape))


def _flat(g: GraphWriter, tensor: Value) -> str:
    return tensor if len(tensor.shape) == 1 else g.Reshape(tensor, [-1])


def _names(tensors: Sequence[TensorSpec]) -> list[str]:
    return [tensor.name for tensor in tensors]


def _size(tensors: Sequence[TensorSpec]) -> int:
    return sum(tensor.size for tensor in tensors)
