"""Graphs of training from a cut onwards: one for a whole step, or two where a step is done in parts.

    training_graph       forward, loss, backward and optimiser on one batch
    accumulating_graph   forward, loss and backward on a micro-batch, whose gradients are added to those before
    updating_graph       the optimiser, on gradients that were gathered so

Inputs and outputs are those of `lamina.models.manifest.SubModel`. The trained layers run in training mode.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx

from lamina.models.definition import Definition
from lamina.models.graph.gradients import Part, size, split_input, write_gradients
from lamina.models.graph.optimisers import Optimiser, Recipe, TrainedTensor, optimiser_named
from lamina.models.graph.optimisers.base import Moved, joined
from lamina.models.graph.optimisers.pulls import ANCHOR, clipped, pulled
from lamina.models.graph.rules.random import SEED
from lamina.models.graph.sections import is_random
from lamina.models.graph.tracing import TracedForward, trace
from lamina.models.graph.writer import GraphWriter
from lamina.models.manifest import ONNXRUNTIME
from lamina.models.segments import Segment, names_of, segments_of
from lamina.models.spec import ModelSpec

GRADIENTS = "gradients"
SHARE = "share"


@dataclass(frozen=True)
class TrainingGraph:
    """A training-step graph, and what it needs besides x and y.

    Attributes:
        model: the graph.
        optimiser_state: names of the optimiser's resident vectors, each as long as ``parameters``.
        optimiser_scalars: names of those of one element.
        hyperparameters: names of the 0-d float32 inputs, with defaults.
        anchored: whether it has the input ``anchor``, the parameters that the round began from.
    """

    model: onnx.ModelProto
    optimiser_state: tuple[str, ...]
    optimiser_scalars: tuple[str, ...]
    hyperparameters: dict[str, float]
    anchored: bool


def training_graph(
    definition: Definition,
    spec: ModelSpec,
    cut: int,
    recipe: Recipe | str = "sgd",
    *,
    serial: bool = True,
    block: int = 0,
    engine: str = ONNXRUNTIME,
) -> TrainingGraph:
    """The step that trains the layers from ``cut`` onwards; its x is the activation at the cut.

    Args:
        definition: the network.
        spec: its layers and blocks.
        cut: index of the first layer that is trained; a block starts there.
        recipe: what is done with the gradients, or just the optimiser's name.
        serial: whether the graph is to be fast on one thread, rather than on several: of some operators' two forms,
            one is the faster on one thread, and the other on two.
        block: channels in a block of the processors that are to run it; 0: it is to run on any.
        engine: that is to run it: any with ``onnxruntime``, else one that has gradient operators of its own.

    Raises:
        ModelError: no block starts at the cut, an operator has no rule, or there is no such loss or optimiser.
    """
    recipe = Recipe(recipe) if isinstance(recipe, str) else recipe
    optimiser = optimiser_named(recipe.optimiser)
    forward = _traced(definition, spec, cut)
    hyperparameters = optimiser.hyperparameters | recipe.hyperparameters | _seed(forward)
    g = _writer(f"{spec.name} from layer {cut}", hyperparameters, serial=serial, block=block, engine=engine)
    batch = write_gradients(g, forward, spec, cut, segmented=True)
    part = Part.of(spec, cut)
    _write_update(g, part, recipe, optimiser, batch.values, batch.gradients, segments_of(_sizes(part)))
    return TrainingGraph(g.model(), optimiser.vectors, optimiser.scalars, hyperparameters, recipe.proximal)


def accumulating_graph(
    definition: Definition,
    spec: ModelSpec,
    cut: int,
    *,
    serial: bool = True,
    block: int = 0,
    engine: str = ONNXRUNTIME,
) -> onnx.ModelProto:
    """Forward and backward on a micro-batch, for a batch that memory can't hold at once.

    Its inputs are those of the step less what the optimiser needs, and ``gradients``, the sum so far; that times
    ``share``, the micro-batch's part of the batch, is added in ``gradients_next``. The seed is there where the step
    has it.

    Raises:
        ModelError: as `training_graph`.
    """
    forward = _traced(definition, spec, cut)
    scalars = {SHARE: 1.0} | _seed(forward)
    g = _writer(f"{spec.name} from layer {cut}: gradients", scalars, serial=serial, block=block, engine=engine)
    batch = write_gradients(g, forward, spec, cut)
    elements = size(Part.of(spec, cut).trained)
    before = g.input(GRADIENTS, "float32", (elements,))
    after = g.Add(before, g.Mul(joined(g, batch.gradients), SHARE))
    g.output(f"{GRADIENTS}_next", after, "float32", (elements,))
    return g.model()


def updating_graph(spec: ModelSpec, cut: int, recipe: Recipe | str = "sgd") -> onnx.ModelProto:
    """The optimiser alone, on the inputs ``parameters`` and ``gradients``.

    Raises:
        ModelError: there is no such optimiser.
    """
    recipe = Recipe(recipe) if isinstance(recipe, str) else recipe
    optimiser, part = optimiser_named(recipe.optimiser), Part.of(spec, cut)
    g = _writer(f"{spec.name} from layer {cut}: update", optimiser.hyperparameters | recipe.hyperparameters)
    values, gradients = split_input(g, "parameters", part.trained), split_input(g, GRADIENTS, part.trained)
    _write_update(g, part, recipe, optimiser, values, gradients, [Segment(0, len(values), (size(part.trained),))])
    return g.model()


def _write_update(
    g: GraphWriter,
    part: Part,
    recipe: Recipe,
    optimiser: Optimiser,
    values: list[str],
    gradients: list[str],
    segments: Sequence[Segment],
) -> None:
    """Write the optimiser's part into ``g``, and its vectors, which are inputs and outputs, segment by segment."""
    tensors = [
        TrainedTensor(value, gradient, tensor.kind)
        for value, gradient, tensor in zip(values, gradients, part.trained, strict=True)
    ]
    if recipe.proximal:
        tensors = pulled(g, tensors, split_input(g, ANCHOR, part.trained))
    if recipe.clipped:
        tensors = clipped(g, tensors)
    names = {name: names_of(name, segments) for name in ("parameters", *optimiser.vectors)}
    for name in optimiser.vectors:
        for each, segment in zip(names[name], segments, strict=True):
            g.input(each, "float32", segment.shape)
    scalars = {name: g.input(name, "float32", (1,)) for name in optimiser.scalars}
    for index, segment in enumerate(segments):
        given = {name: each[index] for name, each in names.items()}
        some = tensors[segment.first : segment.stop]
        moved = _moved(g, optimiser, segment, some, given, scalars)
        for name, vector in {"parameters": moved.parameters, **moved.state}.items():
            if name in given:
                g.output(f"{given[name]}_next", vector, "float32", segment.shape)
            elif index == 0:
                g.output(f"{name}_next", vector, "float32", (1,))


def _moved(
    g: GraphWriter,
    optimiser: Optimiser,
    segment: Segment,
    tensors: Sequence[TrainedTensor],
    given: Mapping[str, str],
    scalars: dict[str, str],
) -> Moved:
    """A step of the tensors of one segment, whose inputs are ``given``; of a large one, row by row."""
    state = {name: given[name] for name in optimiser.vectors}
    if len(segment.shape) == 1:
        return optimiser.step(g, tensors, given["parameters"], state | scalars)
    (tensor,) = tensors
    body = GraphWriter(f"update_{given['parameters']}", around=g)
    gradient = g.Reshape(tensor.gradient, list(segment.shape))
    row = TrainedTensor(body.input("p", "float32", None), body.input("g", "float32", None), tensor.kind)
    moved = optimiser.step(
        body, [row], row.value, {name: body.input(name, "float32", None) for name in state} | scalars
    )
    for name, vector in {"p": moved.parameters, **{name: moved.state[name] for name in state}}.items():
        body.output(f"{name}_next", vector, "float32", None)
    after, *vectors = g.scan(body, [], [given["parameters"], gradient, *state.values()], backwards=False)
    beside = optimiser.step(g, tensors, tensor.value, state | scalars).state if scalars else {}  # the scalars alone
    return Moved(after, {name: beside[name] for name in scalars} | dict(zip(state, vectors, strict=True)))


def _sizes(part: Part) -> list[int]:
    return [tensor.size for tensor in part.trained]


def _traced(definition: Definition, spec: ModelSpec, cut: int) -> TracedForward:
    spec.block_at(cut)
    return trace(definition, training=True)


def _seed(forward: TracedForward) -> dict[str, float]:
    """A network that draws random numbers takes a seed, at every cut: the graphs of a bundle take the same inputs."""
    return {SEED: 0.0} if any(map(is_random, forward.operators)) else {}


def _writer(
    name: str, scalars: dict[str, float], *, serial: bool = True, block: int = 0, engine: str = ONNXRUNTIME
) -> GraphWriter:
    g = GraphWriter(name, serial=serial, block=block, engine=engine)
    for scalar in scalars:
        g.input(scalar, "float32", ())
    return g
