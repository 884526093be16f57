"""The forward pass of a network as a graph of aten operators, traced by ``torch.export``.

The graph is at the level of the module's own calls (``aten.conv2d``, ``aten.batch_norm``, ``aten.lstm``), still
differentiable, with a symbolic batch extent. Every tensor of the module stands in it as a placeholder.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export.graph_signature import InputKind

from lamina.models.definition import Definition
from lamina.models.errors import ModelError
from lamina.models.graph.custom_functions import FunctionCall, kept_whole
from lamina.models.graph.inlining import inline_blocks
from lamina.models.graph.recurrent_stacks import take_apart, without_dead_ends
from lamina.models.graph.traceable import traceable_functions
from lamina.models.graph.untraceable import Witness, misfit, reason, with_plain_names


@dataclass(frozen=True, eq=False)
class TracedForward:
    """The forward pass of a module, in training or in inference mode.

    Attributes:
        name: of the model, for messages.
        sample: the placeholder of x (N, *input_shape).
        output: the operator whose result are the logits (N, classes).
        operators: all operators, in the order of execution.
        tensors: parameters, buffers and other constants: placeholder to dotted name. A parameter that the module knows
            under two names has the first of them twice.
        values: their values, by name. They are the module's own tensors, not copies.
        submodules: holds what ``get_attr`` operators refer to.
        functions: the calls of the user's own autograd functions, which operators refer to by number.
    """

    name: str
    sample: fx.Node
    output: fx.Node
    operators: tuple[fx.Node, ...]
    tensors: dict[fx.Node, str]
    values: dict[str, Tensor]
    submodules: nn.Module
    functions: tuple[FunctionCall, ...] = ()

    @property
    def batch(self) -> Any:
        """N as the symbolic integer that stands in the shapes of the graph."""
        return example(self.sample).shape[0]


@lru_cache(maxsize=4)
def trace(definition: Definition, *, training: bool) -> TracedForward:
    """The forward pass of ``definition``'s module; the last few are remembered.

    Raises:
        ModelError: the module can't be traced, or does not return one tensor (N, classes).
    """
    sample = torch.zeros((2, *definition.input_shape), dtype=getattr(torch, definition.input_dtype))
    if misfitting := misfit(definition.module):
        raise ModelError(f"model {definition.name}: {misfitting}")
    _refuse_hooks(definition)
    functions: list[FunctionCall] = []
    witness = Witness()
    with (
        mode_of(definition.module, training=training),
        kept_whole(functions),
        _no_hooks(),
        witness.watching(),
        traceable_functions(),
        warnings.catch_warnings(action="ignore"),
    ):
        try:
            exported = torch.export.export(
                definition.module, (sample,), dynamic_shapes=({0: torch.export.Dim("N")},), strict=False
            )
        except Exception as error:  # whatever the module's own code raises
            raise ModelError(
                f"model {definition.name}: its forward pass can't be traced: {reason(error, witness)}"
            ) from error
    try:
        inline_blocks(exported.graph_module)
    except ModelError as error:
        raise ModelError(f"model {definition.name}: {error}") from error
    return _forward(definition, exported, tuple(functions))


def example(operator: fx.Node) -> Any:
    """What ``operator`` yields, without values: a fake tensor, a tuple of them, or a symbolic number."""
    return operator.meta["val"]


def _forward(
    definition: Definition, exported: torch.export.ExportedProgram, functions: tuple[FunctionCall, ...]
) -> TracedForward:
    take_apart(exported.graph)
    without_dead_ends(exported.graph)
    placeholders = {node.name: node for node in exported.graph.nodes if node.op == "placeholder"}
    first = first_names(definition.module)
    tensors, values, samples = {}, {}, []
    for spec in exported.graph_signature.input_specs:
        placeholder = placeholders[spec.arg.name]
        if spec.kind == InputKind.USER_INPUT:
            samples.append(placeholder)
            continue
        target = str(spec.target)
        name = tensors[placeholder] = first.get(target, target)
        values[name] = exported.state_dict[target] if target in exported.state_dict else exported.constants[target]
    return TracedForward(
        name=definition.name,
        sample=samples[0],
        output=_output(definition, exported.graph, example(samples[0]).shape[0]),
        operators=tuple(node for node in exported.graph.nodes if node.op == "call_function"),
        tensors=tensors,
        values=values,
        submodules=exported.graph_module,
        functions=functions,
    )


def _output(definition: Definition, graph: fx.Graph, batch: Any) -> fx.Node:
    (returned,) = next(node for node in graph.nodes if node.op == "output").args
    outputs = returned if isinstance(returned, tuple | list) else (returned,)
    shapes = [tuple(example(output).shape) if isinstance(output, fx.Node) else None for output in outputs]
    logits = shapes[0]
    if (
        len(outputs) != 1
        or logits is None
        or len(logits) != 2
        or logits[1] != definition.classes
        or str(batch) != str(logits[0])
    ):
        written = ("no tensor" if shape is None else " x ".join(map(str, shape)) for shape in shapes)
        shown = with_plain_names(", ".join(written))
        raise ModelError(
            f"model {definition.name}: its module must return logits (N, {definition.classes}), and returns {shown}"
        )
    return outputs[0]  # type: ignore[no-any-return]  # checked above


def first_names(module: nn.Module) -> dict[str, str]:
    """Every name of a parameter or buffer to the first name of the same tensor."""
    first: dict[int, str] = {}
    names = {}
    for listing in (module.named_parameters, module.named_buffers):
        for name, tensor in listing(remove_duplicate=False):
            names[name] = first.setdefault(id(tensor), name)
    return names


@contextmanager
def mode_of(module: nn.Module, *, training: bool) -> Iterator[None]:
    """Put ``module`` into one mode, and afterwards every part of it back into its own."""
    before = {part: part.training for part in module.modules()}
    module.train(training)
    try:
        yield
    finally:
        for part, mode in before.items():
            part.training = mode


_WRITE_A_FUNCTION = "write a torch.autograd.Function whose backward pass does what the hook does"


def _refuse_hooks(definition: Definition) -> None:
    """A hook changes a gradient behind autograd's back: no graph would have it.

    Raises:
        ModelError: a parameter or a module has one.
    """
    for name, parameter in definition.module.named_parameters():
        if parameter._backward_hooks or getattr(parameter, "_post_accumulate_grad_hooks", None):
            raise ModelError(
                f"model {definition.name}: parameter {name} has a hook on its gradient, which devices can't run: "
                f"take it away, or {_WRITE_A_FUNCTION}"
            )
    for name, part in definition.module.named_modules():
        if part._backward_hooks or part._backward_pre_hooks:
            raise ModelError(
                f"model {definition.name}: module {name or '(the whole)'} has a hook on its backward pass, which "
                f"devices can't run: take it away, or {_WRITE_A_FUNCTION}"
            )


@contextmanager
def _no_hooks() -> Iterator[None]:
    """Inside, a forward pass that puts a hook on a tensor fails."""

    def refuse(tensor: Tensor, hook: object) -> None:
        raise ModelError(f"it puts a hook on a tensor's gradient, which devices can't run: {_WRITE_A_FUNCTION}")

    names = ("register_hook", "register_post_accumulate_grad_hook")
    before = {name: getattr(Tensor, name) for name in names}
    for name in names:
        setattr(Tensor, name, refuse)
    try:
        yield
    finally:
        for name, original in before.items():
            setattr(Tensor, name, original)
