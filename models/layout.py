"""Derives a network's layers and blocks, its `ModelSpec`, from the traced forward pass.

A layer is what a module's own parameters and running statistics form, in the order in which the forward pass reads
them. A norm joins the conv or dense before it, so that the two are averaged together.
A block lies between two neighbouring points at which the network may be cut (`lamina.models.graph.sections`).

Parameters that the forward pass does not read, and those that do not require a gradient, are no part of the spec: they
are constants. A parameter that stands in the module twice belongs to the layer that reads it first, and the network is
not cut between its uses.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import takewhile

import msgspec
import torch
from torch import Tensor, fx

from lamina.models.definition import Definition
from lamina.models.errors import ModelError
from lamina.models.graph.activations import outputs_of_layers
from lamina.models.graph.anatomy import Anatomy, changed_inputs, dissect
from lamina.models.graph.objectives import objective_of, output_names
from lamina.models.graph.recurrent_stacks import layer_of_stack
from lamina.models.graph.sections import CutPoint, backbone_end, block_starts
from lamina.models.graph.tracing import TracedForward, example, trace
from lamina.models.spec import BlockSpec, Kind, LayerSpec, ModelSpec, TensorSpec
from lamina.models.targets import SINGLE_LABEL, TargetSpec

_NORMS = ("batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm")
MOST_CUTS = 6
"""How many cuts are offered where the definition names none."""

_COMMON_BATCH = 32
_CONV_OR_DENSE = ("conv", "linear", "matmul", "mm")


def derive_spec(definition: Definition) -> ModelSpec:
    """The spec of ``definition``'s network.

    Raises:
        ModelError: the network can't be traced or has nothing to train, or a cut names no block.
    """
    training, inference = trace(definition, training=True), trace(definition, training=False)
    _check_names(definition, inference)
    groups = _groups(training)
    if not groups:
        raise ModelError(f"model {definition.name}: its forward pass reads no parameter that requires a gradient")
    names = _unique([_safe(group.module or definition.name) for group in groups])
    layer_of = {name: index for index, group in enumerate(groups) for name in group.tensors}
    activations = outputs_of_layers(training, layer_of)
    layers = [
        LayerSpec(name, tuple(group.parameters), tuple(group.statistics), activations.get(index, 0))
        for index, (name, group) in enumerate(zip(names, groups, strict=True))
    ]
    starts = _common(block_starts(training, layer_of), block_starts(inference, layer_of))
    blocks = _blocks(layers, starts, _backbone(training, inference, layer_of))
    objective = objective_of(definition)
    target, classes = objective.target, definition.classes or objective.target.classes or 1
    is_usual = target == TargetSpec(SINGLE_LABEL, classes=classes)
    return ModelSpec(
        definition.name,
        tuple(layers),
        blocks,
        _cuts(definition, layers, blocks),
        classes,
        objective.loss_name,
        target=msgspec.UNSET if is_usual else target,
        class_names=tuple(definition.class_names) or msgspec.UNSET,
        inputs=definition.inputs or msgspec.UNSET,
    )


def _check_names(definition: Definition, forward: TracedForward) -> None:
    """Refuse an input that is called as an output: an exported graph has both."""
    outputs = output_names(forward)
    if clash := [one.name for one in definition.inputs if one.name in outputs]:
        raise ModelError(
            f"model {definition.name}: an input and an output are both called {clash[0]!r}: give one another name"
        )


@dataclass
class _Group:
    """The tensors of one layer, as they are found."""

    module: str
    parameters: list[TensorSpec] = field(default_factory=list)
    statistics: list[TensorSpec] = field(default_factory=list)

    @property
    def tensors(self) -> list[str]:
        return [tensor.name for tensor in (*self.parameters, *self.statistics)]


def _groups(forward: TracedForward) -> list[_Group]:
    """The layers in forward order."""
    anatomy = dissect(forward)
    kinds = _kinds(forward, anatomy)
    owner: dict[str, str] = {}  # the module whose layer a module's tensors stand in
    groups: dict[str, _Group] = {}
    stacks = {name.rpartition(".")[0] for name in kinds if layer_of_stack(name) not in ("", "l0")}
    for operator in forward.operators:
        if operator not in anatomy.anchored:
            continue
        for name in (name for name in forward.values if name in anatomy.tensors[operator] and name in kinds):
            module = _module(name, stacks)
            if module not in owner:
                joined = _conv_or_dense_before(operator, anatomy, kinds) if _is(operator, _NORMS) else module
                owner[module] = owner.get(joined, module)
            _add(groups.setdefault(owner[module], _Group(owner[module])), name, forward.values[name], kinds[name])
    return _without_parameterless(list(groups.values()))


def _module(name: str, stacks: Collection[str]) -> str:
    """The module of a tensor, and of a recurrent module with several layers the layer: ``rnn.l1``."""
    module = name.rpartition(".")[0]
    return f"{module}.{layer_of_stack(name)}".lstrip(".") if module in stacks and layer_of_stack(name) else module


def _add(group: _Group, name: str, value: Tensor, kind: Kind) -> None:
    if name not in group.tensors:
        listing = group.statistics if kind == "statistic" else group.parameters
        listing.append(TensorSpec(name, tuple(value.shape), kind))


def _without_parameterless(groups: list[_Group]) -> list[_Group]:
    """A norm with nothing but statistics, and no conv or dense before it, joins the layer after it."""
    joined: list[_Group] = []
    for group in reversed(groups):
        if joined and not group.parameters:
            joined[-1].statistics[:0] = group.statistics
        else:
            joined.append(group)
    return [group for group in reversed(joined) if group.parameters]


def _kinds(forward: TracedForward, anatomy: Anatomy) -> dict[str, Kind]:
    """The kind of every parameter to be trained and of every running statistic."""
    kinds: dict[str, Kind] = {}
    for operator in anatomy.anchored:
        for placeholder in changed_inputs(operator):
            if placeholder in forward.tensors and example(placeholder).dtype == torch.float32:
                kinds[forward.tensors[placeholder]] = "statistic"
    of_norms = {name for operator in forward.operators if _is(operator, _NORMS) for name in anatomy.tensors[operator]}
    for name, value in forward.values.items():
        if value.requires_grad:
            kinds[name] = "norm" if name in of_norms else _kind(name, value)
    return kinds


def _kind(name: str, value: Tensor) -> Kind:
    if value.dim() > 1:
        return "kernel"
    return "bias" if "bias" in name.rpartition(".")[2] else "norm"


def _conv_or_dense_before(norm: fx.Node, anatomy: Anatomy, kinds: Iterable[str]) -> str:
    """The module of the conv or dense whose output alone reaches ``norm``, through operators without parameters.

    Empty where there is none.
    """
    operator = norm
    while True:
        before = [node for node in operator.all_input_nodes if node in anatomy.active]
        if len(before) != 1 or before[0].op == "placeholder":
            return ""
        operator = before[0]
        read = [name for name in anatomy.tensors[operator] if name in kinds]
        if read:
            return min(read).rpartition(".")[0] if _is(operator, _CONV_OR_DENSE) else ""


def _is(operator: fx.Node, names: Iterable[str]) -> bool:
    return any(name in str(operator.target) for name in names)


def _common(training: dict[int, CutPoint], inference: dict[int, CutPoint]) -> dict[int, CutPoint]:
    """The starts of blocks where the same activation is live in both modes."""
    return {
        layer: point
        for layer, point in training.items()
        if layer in inference and (inference[layer].shape, inference[layer].dtype) == (point.shape, point.dtype)
    }


def _backbone(training: TracedForward, inference: TracedForward, layer_of: dict[str, int]) -> CutPoint | None:
    """The end of a frozen backbone that computes the same in both modes; ``None`` where there is none."""
    point = backbone_end(training, layer_of)
    if point is None or _computed(training, point.index) != _computed(inference, point.index):
        return None
    return point


def _computed(forward: TracedForward, stop: int) -> list[tuple[object, str]]:
    """The first operators, each with what it is given beside tensors."""
    anchored = dissect(forward).anchored
    operators = [operator for operator in forward.operators[:stop] if operator in anchored]
    return [
        (operator.target, str(fx.node.map_arg((operator.args, operator.kwargs), lambda node: None)))
        for operator in operators
    ]


def _blocks(
    layers: Sequence[LayerSpec], starts: dict[int, CutPoint], backbone: CutPoint | None
) -> tuple[BlockSpec, ...]:
    blocks = _blocks_of_layers(layers, starts if backbone is None else {**starts, 0: backbone})
    if backbone is None:
        return blocks
    name = next(name for name in ("backbone", "frozen backbone") if name not in [block.name for block in blocks])
    first = starts[0]
    return (BlockSpec(name, 0, 0, first.shape, first.dtype), *blocks)  # type: ignore[arg-type]  # a sample's


def _blocks_of_layers(layers: Sequence[LayerSpec], starts: dict[int, CutPoint]) -> tuple[BlockSpec, ...]:
    firsts = sorted(starts)
    stops = [*firsts[1:], len(layers)]
    names = _unique([_common_path(layers[first:stop]) for first, stop in zip(firsts, stops, strict=True)])
    return tuple(
        BlockSpec(name, first, stop, starts[first].shape, starts[first].dtype)  # type: ignore[arg-type]  # _common
        for name, first, stop in zip(names, firsts, stops, strict=True)
    )


def _common_path(layers: Sequence[LayerSpec]) -> str:
    """The innermost module that holds all ``layers``; their first one's name where that is the whole network."""
    paths = zip(*(layer.name.split(".") for layer in layers), strict=False)
    common = takewhile(lambda parts: len(set(parts)) == 1, paths)
    return ".".join(parts[0] for parts in common) or layers[0].name


def _cuts(definition: Definition, layers: Sequence[LayerSpec], blocks: Sequence[BlockSpec]) -> tuple[int, ...]:
    firsts = sorted({block.first for block in blocks})
    if definition.cuts is None:
        return _told_apart(layers, firsts)
    index_of = _first_layers(layers) | {block.name: block.first for block in blocks if block.stop}
    chosen = {0}
    for cut in definition.cuts:
        first = index_of.get(cut, -1) if isinstance(cut, str) else cut
        if first not in firsts:
            offered = ", ".join(f"{block.name} (layer {block.first})" for block in blocks if block.stop)
            raise ModelError(f"model {definition.name}: no block starts at {cut!r}; its blocks are {offered}")
        chosen.add(first)
    return tuple(sorted(chosen))


def _told_apart(layers: Sequence[LayerSpec], firsts: Sequence[int]) -> tuple[int, ...]:
    """Select those first layers of blocks at which a budget of memory makes a difference.

    Each costs a dozen graphs. So of many blocks only some are offered: the whole network, the last block, and between
    them those whose capacities come nearest to even steps.
    """
    if len(firsts) <= MOST_CUTS:
        return tuple(firsts)
    kept = {first: _capacity(layers[first:]) for first in firsts}
    step = (kept[firsts[0]] - kept[firsts[-1]]) / (MOST_CUTS - 1)
    levels = [kept[firsts[-1]] + step * level for level in range(1, MOST_CUTS - 1)]
    between = {min(firsts[1:-1], key=lambda first: abs(kept[first] - level)) for level in levels}
    return tuple(sorted({firsts[0], *between, firsts[-1]}))


def _capacity(layers: Sequence[LayerSpec]) -> int:
    """What training these layers keeps, for a batch of common size."""
    return sum(layer.size + _COMMON_BATCH * layer.activations for layer in layers)


def _first_layers(layers: Sequence[LayerSpec]) -> dict[str, int]:
    """The index of the first layer of every module, however deep, by the module's name."""
    first: dict[str, int] = {}
    for index, layer in enumerate(layers):
        parts = layer.name.split(".")
        for depth in range(1, len(parts) + 1):
            first.setdefault(".".join(parts[:depth]), index)
    return first


def _safe(name: str) -> str:
    """``name`` with what an MQTT topic can't hold replaced."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name)


def _unique(names: Sequence[str]) -> list[str]:
    """``names``, with a number after those that have occurred before."""
    unique: list[str] = []
    for name in names:
        tries = (f"{name}-{count}" for count in range(2, len(names) + 2))
        unique.append(name if name not in unique else next(other for other in tries if other not in unique))
    return unique
