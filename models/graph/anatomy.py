"""Finds which operators of the forward pass depend on the sample, and which tensors of the module each one reads."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import fx

from lamina.models.graph.tracing import TracedForward, example

# They write to their running statistics where this argument is true, and their schemas don't say so.
_NORMS_THAT_WRITE = {"aten::batch_norm": "training", "aten::instance_norm": "use_input_stats"}


@dataclass(frozen=True, eq=False)
class Anatomy:
    """What is known of the operators of a forward pass.

    Attributes:
        active: operators whose result depends on the sample's values, and the sample itself.
        anchored: operators that belong to one place of the pass: the active ones, and those that change a buffer, but
            for integers (a norm counts its batches, for nobody). All others can be computed wherever they are read.
        tensors: names of the parameters and buffers that an operator reads, itself or through operators that are not
            active.
    """

    active: frozenset[fx.Node]
    anchored: frozenset[fx.Node]
    tensors: dict[fx.Node, frozenset[str]]


def dissect(forward: TracedForward) -> Anatomy:
    """The anatomy of ``forward``."""
    active, anchored = {forward.sample}, set[fx.Node]()
    tensors = {placeholder: frozenset([name]) for placeholder, name in forward.tensors.items()}
    for operator in forward.operators:
        inputs = operator.all_input_nodes
        tensors[operator] = frozenset[str]().union(*(tensors.get(node, ()) for node in inputs if node not in active))
        if active.intersection(inputs) and not is_number(operator):
            active.add(operator)
        if operator in active or any(example(node).is_floating_point() for node in changed_inputs(operator)):
            anchored.add(operator)
    return Anatomy(frozenset(active), frozenset(anchored), tensors)


def changed_inputs(operator: fx.Node) -> list[fx.Node]:
    """The inputs of ``operator`` that it writes to."""
    target = operator.target
    if not isinstance(target, torch._ops.OpOverload):
        return []
    arguments = target._schema.arguments
    given = dict(zip((argument.name for argument in arguments), operator.args, strict=False)) | operator.kwargs
    changed = [argument.name for argument in arguments if argument.alias_info and argument.alias_info.is_write]
    if given.get(_NORMS_THAT_WRITE.get(target._schema.name, "")) is True:
        changed += ["running_mean", "running_var"]
    return [node for node in map(given.get, changed) if isinstance(node, fx.Node)]


def is_number(operator: fx.Node) -> bool:
    """Whether it yields a number (an extent, most likely), and not a tensor."""
    return isinstance(example(operator), int | float | torch.SymInt | torch.SymFloat | torch.SymBool)
