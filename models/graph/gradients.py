"""Writes forward pass, loss and backward pass from a cut onwards into a graph: a batch becomes gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, fx

from lamina.models.errors import ModelError, first_line
from lamina.models.graph.flattening import flatten, without_values
from lamina.models.graph.losses import Loss, loss_named
from lamina.models.graph.places import last_line
from lamina.models.graph.sections import CutPoint, end, run_section, starts
from lamina.models.graph.tracing import TracedForward, example
from lamina.models.graph.translation import translate
from lamina.models.graph.values import Value
from lamina.models.graph.writer import GraphWriter
from lamina.models.segments import names_of, segments_of
from lamina.models.spec import ModelSpec, TensorSpec


@dataclass(frozen=True)
class Part:
    """What is trained from a cut onwards.

    Attributes:
        trained: the parameters.
        moving: the statistics.
    """

    trained: tuple[TensorSpec, ...]
    moving: tuple[TensorSpec, ...]

    @staticmethod
    def of(spec: ModelSpec, cut: int) -> Part:
        """The layers of ``spec`` from ``cut`` on."""
        layers = spec.layers[cut:]
        return Part(
            tuple(tensor for layer in layers for tensor in layer.parameters),
            tuple(tensor for layer in layers for tensor in layer.statistics),
        )


@dataclass(frozen=True)
class Batch:
    """What forward and backward made of a batch.

    Attributes:
        gradients: one flat piece for each trained tensor.
        values: the flat pieces of the parameters that they belong to.
    """

    gradients: list[str]
    values: list[str]


def write_gradients(
    g: GraphWriter, forward: TracedForward, spec: ModelSpec, cut: int, *, segmented: bool = False
) -> Batch:
    """Write all of a step but its optimiser; the parameters are one input, or one a segment.

    Adds the inputs ``x``, ``y``, ``parameters`` and ``statistics`` to ``g``, and the outputs ``loss``, ``correct`` and
    ``statistics_next``; statistics are absent where the layers have none.
    """
    part = Part.of(spec, cut)
    start, loss = starts(forward, spec)[cut], loss_named(spec.loss)
    inputs = [g.input("x", start.dtype, ("N", *start.shape)), g.input("y", loss.dtype, ("N",))]
    pieces = (segment_inputs if segmented else split_input)(g, "parameters", part.trained)
    values = dict(zip(part.trained, pieces, strict=True))
    values |= dict(zip(part.moving, split_input(g, "statistics", part.moving), strict=True))
    tensors = {tensor.name: _shaped(g, piece, tensor.shape) for tensor, piece in values.items()}
    step = flat_step(forward, start, loss, part)
    value, correct, *rest = translate(g, forward, step, tensors, inputs)
    gradients, moved = rest[: len(part.trained)], rest[len(part.trained) :]

    g.output("loss", value, "float32", ())
    g.output("correct", correct, "int64", ())
    if moved:
        vector = g.Concat(*(_flat(g, one) for one in moved), axis=0)
        g.output("statistics_next", vector, "float32", (size(part.moving),))
    return Batch([_flat(g, gradient) for gradient in gradients], pieces)


def split_input(g: GraphWriter, name: str, tensors: Sequence[TensorSpec]) -> list[str]:
    """A new input ``name``, a flat vector, as one flat piece for each of ``tensors``; no input where there are none."""
    return _split(g, g.input(name, "float32", (size(tensors),)), tensors) if tensors else []


def segment_inputs(g: GraphWriter, name: str, tensors: Sequence[TensorSpec]) -> list[str]:
    """New inputs for the segments of the vector ``name``, as one flat piece for each of ``tensors``."""
    segments = segments_of([tensor.size for tensor in tensors])
    pieces: list[str] = []
    g.remember(name, names_of(name, segments)[0])
    for each, segment in zip(names_of(name, segments), segments, strict=True):
        g.input(each, "float32", segment.shape)
        flat = each if len(segment.shape) == 1 else g.Reshape(each, [-1])
        pieces += _split(g, flat, tensors[segment.first : segment.stop])
    return pieces


def _split(g: GraphWriter, vector: str, tensors: Sequence[TensorSpec]) -> list[str]:
    sizes = [tensor.size for tensor in tensors]
    return list(g.many("Split", len(sizes), vector, sizes, axis=0)) if len(sizes) > 1 else [vector]


def size(tensors: Sequence[TensorSpec]) -> int:
    """Elements of all of them."""
    return sum(tensor.size for tensor in tensors)


@lru_cache(maxsize=2)  # several graphs are written from one step
def flat_step(forward: TracedForward, start: CutPoint, loss: Loss, part: Part) -> fx.GraphModule:
    """One step from ``start`` onwards, without the optimiser, as a flat graph.

    From the tensors of the module, x and y to the loss, the count of correct answers, the gradients of the trained
    tensors, and the next values of the moving ones.
    """

    def step(tensors: dict[str, Tensor], x: Tensor, y: Tensor) -> list[Tensor]:
        leaves = {tensor.name: tensors[tensor.name].detach().requires_grad_() for tensor in part.trained}
        # The forward pass changes them in place.
        moved = {tensor.name: tensors[tensor.name].clone() for tensor in part.moving}
        logits = run_section(forward, start, end(forward), tensors | leaves | moved, x)
        value = loss.value(logits, y)
        gradients = _gradients(forward, value, list(leaves.values()))
        return [value.detach(), loss.correct(logits.detach(), y), *gradients, *moved.values()]

    with without_values(forward):
        x = torch.empty_like(example(start.activation), requires_grad=False)
        y = torch.empty((x.shape[0],), dtype=getattr(torch, loss.dtype))
    return flatten(forward, step, x, y)


def _gradients(forward: TracedForward, value: Tensor, leaves: list[Tensor]) -> tuple[Tensor, ...]:
    """What autograd makes of the loss.

    Raises:
        ModelError: torch can't trace the gradient of an operator.
    """
    try:
        return torch.autograd.grad(value, leaves, materialize_grads=True)
    except ModelError:
        raise
    except Exception as error:  # whatever torch raises of its own operators
        where = last_line(fx.traceback.get_current_meta().get("stack_trace"))
        raise ModelError(
            f"model {forward.name}: the gradient of an operator{where} can't be traced: {first_line(error)}; "
            f"write it in other operators"
        ) from error


def _shaped(g: GraphWriter, piece: str, shape: Sequence[int]) -> str:
    return piece if len(shape) == 1 else g.Reshape(piece, list(shape))


def _flat(g: GraphWriter, tensor: Value) -> str:
    return tensor if len(tensor.shape) == 1 else g.Reshape(tensor, [-1])
