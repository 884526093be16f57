"""Finds where the forward graph may be cut, and runs the section between two cuts.

A point lies between two operators. The graph may be cut at a point where exactly one activation is live: one tensor,
computed from the sample before the point, is read after it. Parameters, buffers, constants and what is computed from
them alone do not count: every section that reads them computes them anew. No layer may stand on both sides.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx import traceback as fx_traceback

from lamina.models.errors import ModelError, first_line
from lamina.models.graph.anatomy import Anatomy, dissect
from lamina.models.graph.places import place
from lamina.models.graph.registry import operator_name
from lamina.models.graph.stand_ins import STAND_INS
from lamina.models.graph.tracing import TracedForward, example
from lamina.models.graph.values import element_type
from lamina.models.spec import ModelSpec

_PRODUCTS = ("conv", "linear", "mm.", "matmul", "attention")
_WORTH_KEEPING = 32  # multiplications for each number that is read from the disk in their place

# Names of the argument by which an operator draws: 0 means that it draws nothing.
_PROBABILITIES = ("p", "dropout", "dropout_p")


@dataclass(frozen=True)
class CutPoint:
    """A place where the forward graph may be cut.

    Attributes:
        index: it lies before ``operators[index]``.
        activation: the one live activation.
    """

    index: int
    activation: fx.Node

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the activation, without the batch."""
        return tuple(example(self.activation).shape[1:])

    @property
    def dtype(self) -> str:
        """The activation's element type."""
        return element_type(example(self.activation).dtype)

    @property
    def size_bytes(self) -> int:
        """What it takes for one sample."""
        return math.prod(self.shape) * int(example(self.activation).itemsize)


def end(forward: TracedForward) -> CutPoint:
    """The point after the last operator, where the outputs are live, of which it names the first."""
    return CutPoint(len(forward.operators), forward.outputs[0])


def beginning(forward: TracedForward) -> CutPoint:
    """The point before the first operator, where the sample is live."""
    return CutPoint(0, forward.sample)


def starts(forward: TracedForward, spec: ModelSpec, training: TracedForward | None = None) -> dict[int, CutPoint]:
    """Return the points where the blocks of ``spec`` start in ``forward``, by the index of their first layer.

    A frozen backbone is a block without layers before that of layer 0, and starts at the `beginning`. Where it ends is
    decided in training mode: the trace in that mode is ``training``, where ``forward`` is another one.
    """
    layer_of = {
        tensor.name: index
        for index, layer in enumerate(spec.layers)
        for tensor in (*layer.parameters, *layer.statistics)
    }
    points = block_starts(forward, layer_of)
    training = training or forward
    if spec.has_backbone and (point := backbone_end(training, layer_of)):
        points[0] = CutPoint(point.index, forward.operators[training.operators.index(point.activation)])
    return points


def start_of(forward: TracedForward, spec: ModelSpec, block: int, training: TracedForward) -> CutPoint:
    """The point where a block of ``spec`` starts; after the last one, the `end`."""
    if block == len(spec.blocks):
        return end(forward)
    return beginning(forward) if block == 0 else starts(forward, spec, training)[spec.blocks[block].first]


def backbone_end(forward: TracedForward, layer_of: Mapping[str, int]) -> CutPoint | None:
    """The point up to which nothing is trained nor drawn, where that much is computed before it that it is worth being
    kept: then a sample's activation there never changes. Of several points, the last with the smallest activation.
    """
    anatomy = dissect(forward)
    points = [
        candidate.point
        for candidate in _candidates(forward, anatomy, layer_of)
        if candidate.layers_before == 0 and candidate.point.index > 0 and not candidate.after_random
    ]
    if not points or not layer_of:
        return None
    point = min(points, key=lambda point: (point.size_bytes, -point.index))
    multiplications = sum(_multiplications(operator, anatomy) for operator in forward.operators[: point.index])
    return point if multiplications >= _WORTH_KEEPING * math.prod(point.shape) else None


def _multiplications(operator: fx.Node, anatomy: Anatomy) -> int:
    """Count the multiplications of a convolution or a product, for one sample."""
    name, inputs = str(operator.target), [node for node in operator.all_input_nodes if node in anatomy.active]
    if operator not in anatomy.active or not inputs or not any(kind in name for kind in _PRODUCTS):
        return 0
    weights = [example(node) for node in operator.all_input_nodes if node not in anatomy.active]
    shapes = [weight.shape for weight in weights if isinstance(weight, Tensor) and weight.dim() > 2]
    fan_in = math.prod(shapes[0][1:]) if "conv" in name and shapes else example(inputs[0]).shape[-1]
    return int(math.prod(example(operator).shape[1:]) * fan_in)


def block_starts(forward: TracedForward, layer_of: Mapping[str, int]) -> dict[int, CutPoint]:
    """Return the points where blocks may start: the index of a block's first layer, and the point before it.

    Of the points between two layers the one with the smallest activation is taken, and of those the last, so that
    operators without parameters (an activation, a pooling) stand with the layer before them, and run once where that
    layer is frozen. Only dropout stays with the layer after it: it must go on where the layer before it is frozen.

    Args:
        forward: the pass to be cut.
        layer_of: index of the layer that a parameter or statistic belongs to, by its name; layers are in forward order.
    """
    starts = {0: beginning(forward)}
    ranks: dict[int, tuple[int, bool, int]] = {}
    for candidate in _candidates(forward, dissect(forward), layer_of):
        point, layer = candidate.point, candidate.layers_before
        rank = (point.size_bytes, candidate.after_random, -point.index)
        if 0 < layer < len({*layer_of.values()}) and (layer not in ranks or rank < ranks[layer]):
            ranks[layer] = rank
            starts[layer] = point
    return starts


def run_section(
    forward: TracedForward,
    start: CutPoint,
    stop: CutPoint,
    tensors: Mapping[str, Tensor],
    boundary: Tensor,
    *,
    stand_ins: Mapping[Any, Callable[..., Any]] = STAND_INS,
) -> Tensor:
    """The activation at ``stop``, computed from the activation ``boundary`` at ``start``.

    Args:
        forward: the pass.
        start: where the section begins.
        stop: where it ends.
        tensors: the parameters and buffers of the module, by name. Running statistics are changed in place.
        boundary: (N, ...) as ``start`` says.
        stand_ins: functions that run in place of operators. Those that are there by default can be traced only; with
            none, the section runs on real tensors.
    """
    run = _run(forward, start, stop, tensors, boundary, stand_ins)
    return run.result(stop.activation)  # type: ignore[no-any-return]  # a point's activation is a tensor


def run_to_end(
    forward: TracedForward, start: CutPoint, tensors: Mapping[str, Tensor], boundary: Tensor
) -> list[Tensor]:
    """All that the module returns, computed from the activation ``boundary`` at ``start``; otherwise `run_section`."""
    run = _run(forward, start, end(forward), tensors, boundary, STAND_INS)
    return [run.result(output) for output in forward.outputs]


def is_random(operator: fx.Node) -> bool:
    """Whether it draws random numbers."""
    target = operator.target
    if not isinstance(target, torch._ops.OpOverload) or torch.Tag.nondeterministic_seeded not in target.tags:
        return False
    arguments = zip((argument.name for argument in target._schema.arguments), operator.args, strict=False)
    given = dict(arguments) | operator.kwargs
    probability = next((given[name] for name in _PROBABILITIES if name in given), None)
    if probability is None:  # nothing but random numbers, unless it is a fused operator that may have dropout
        return "attention" not in target._schema.name
    return bool(probability != 0) and given.get("train", given.get("training", True)) is not False


def _run(
    forward: TracedForward,
    start: CutPoint,
    stop: CutPoint,
    tensors: Mapping[str, Tensor],
    boundary: Tensor,
    stand_ins: Mapping[Any, Callable[..., Any]],
) -> _SectionRun:
    run = _SectionRun(forward, tensors, start.activation, boundary, stand_ins)
    anchored = dissect(forward).anchored
    for operator in forward.operators[start.index : stop.index]:
        if operator in anchored:
            run.execute(operator)
    return run


class _SectionRun:
    """Executes operators of the forward graph one by one, and those that are not anchored when they are asked for."""

    def __init__(
        self,
        forward: TracedForward,
        tensors: Mapping[str, Tensor],
        entry: fx.Node,
        boundary: Tensor,
        stand_ins: Mapping[Any, Callable[..., Any]],
    ) -> None:
        self._forward = forward
        self._stand_ins = stand_ins
        self._tensors = tensors
        self._boundary = boundary
        self._results: dict[fx.Node, Any] = {entry: boundary}

    def execute(self, operator: fx.Node) -> None:
        args, kwargs = fx.node.map_arg((operator.args, operator.kwargs), self.result)
        function: Any = operator.target
        with fx_traceback.set_current_meta(operator):
            try:
                self._results[operator] = self._stand_ins.get(function, function)(*args, **kwargs)
            except ModelError as error:
                name = operator_name(function)
                raise ModelError(f"model {self._forward.name}: operator {name}{place(operator)}: {error}") from error
            except Exception as error:  # whatever torch raises of its own operators
                said = f"can't be traced: {first_line(error)}; write it in other operators"
                name = operator_name(function)
                raise ModelError(f"model {self._forward.name}: operator {name}{place(operator)} {said}") from error

    def result(self, operator: fx.Node) -> Any:
        if operator not in self._results:
            if operator.op == "placeholder":
                return self._tensors[self._forward.tensors[operator]]
            if operator.op == "get_attr":
                return getattr(self._forward.submodules, str(operator.target))
            if operator.target is torch.ops.aten.sym_size.int and operator.args[0] not in self._results:
                return self._extent(operator)
            self.execute(operator)
        return self._results[operator]

    def _extent(self, operator: fx.Node) -> Any:
        """An extent of a tensor before the section: a multiple of the batch, which the boundary has, too."""
        return self._boundary.shape[0] * int(example(operator) // self._forward.batch)


@dataclass(frozen=True)
class _Candidate:
    """A point where one activation is live and no layer stands on both sides.

    Attributes:
        point: the point.
        layers_before: how many layers stand before it.
        after_random: whether random numbers are drawn between the last of them and it.
    """

    point: CutPoint
    layers_before: int
    after_random: bool


def _candidates(forward: TracedForward, anatomy: Anatomy, layer_of: Mapping[str, int]) -> Iterator[_Candidate]:
    last_read = {node: index for index, operator in enumerate(forward.operators) for node in operator.all_input_nodes}
    last_read |= dict.fromkeys(forward.outputs, len(forward.operators))
    layers = {
        operator: {layer_of[name] for name in anatomy.tensors[operator] if name in layer_of}
        for operator in forward.operators
        if operator in anatomy.anchored
    }
    last_use = {layer: index for index, node in enumerate(forward.operators) for layer in layers.get(node, ())}
    begun, live, after_random = set[int](), {forward.sample}, False
    for index, operator in enumerate((*forward.operators, forward.outputs[0])):
        live = {node for node in live if last_read.get(node, -1) >= index}
        done = {layer for layer in begun if last_use[layer] < index}
        if len(live) == 1 and begun == done == set(range(len(done))):
            (activation,) = live
            if _is_batched(activation, forward.batch):
                yield _Candidate(CutPoint(index, activation), len(done), after_random)
        if operator in layers:
            after_random = is_random(operator) or (after_random and not layers[operator])
            begun |= layers[operator]
            live |= {operator} & anatomy.active


def _is_batched(activation: fx.Node, batch: object) -> bool:
    """Whether it is one tensor (N, ...), and N stands nowhere else in its shape."""
    tensor = example(activation)
    if not isinstance(tensor, Tensor) or not tensor.dim():
        return False
    return (
        not tensor.is_complex()
        and str(tensor.shape[0]) == str(batch)
        and all(isinstance(extent, int) for extent in tensor.shape[1:])
    )
