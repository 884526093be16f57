"""Words a refusal: the layer whose gradient differs, by how much, and what in the module is suspect.

An error in a gradient travels from the loss towards the input. So the last layer that differs lies next to its origin,
and the operators from there to the next layer that is right are the suspects. Where the loss or the outputs differ, all
are. What a trace is known to drop comes first, and kinds of operators that every network has are left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_leaves

from lamina.models.definition import Definition
from lamina.models.errors import ModelError
from lamina.models.graph.anatomy import dissect
from lamina.models.graph.places import place
from lamina.models.graph.registry import operator_name
from lamina.models.graph.tracing import TracedForward, mode_of, trace
from lamina.models.proof.judging import Difference
from lamina.models.spec import ModelSpec

_MOST_SUSPECTS = 3
# Operators that are seldom at fault.
_PLAIN = ("add", "assert", "conv", "flatten", "linear", "mul", "norm", "permute", "relu", "reshape", "size", "view")


@dataclass(frozen=True)
class Refusal:
    """Why a bundle is refused.

    Attributes:
        definition: the network.
        spec: its layers.
        different: what differs.
        where: the graph and the batch, for people.
        forward: whether outputs in inference mode differ, rather than a training step.
        right_with: batch sizes with which nothing differs.
    """

    definition: Definition
    spec: ModelSpec
    different: Sequence[Difference]
    where: str
    forward: bool
    right_with: Sequence[int] = ()


def refused(refusal: Refusal) -> ModelError:
    """The error that says so."""
    worst = max(refusal.different, key=lambda each: each.error)
    layer = _last_layer(refusal)
    of_layer = [each for each in refusal.different if layer is not None and each.name in _names(refusal.spec, layer)]
    shown = max(of_layer, key=lambda each: each.error) if of_layer else worst
    subject = _subject(refusal.spec, layer, shown.name)
    suspects = "; ".join(list(_suspects(refusal, layer))[:_MOST_SUSPECTS]) or "nothing in particular"
    return ModelError(
        f"model {refusal.definition.name}: its graph and torch's own autograd differ ({refusal.where}): "
        f"{subject} is off by {_percent(shown.error)}, of which float32 explains {_percent(shown.explained)}. "
        f"Suspect in the module: {suspects}. Write that otherwise; with --no-check the bundle is written all "
        f"the same, and devices train something else than your module"
    )


def _subject(spec: ModelSpec, layer: int | None, name: str) -> str:
    if layer is None:
        return f"the {name}"
    kind = "statistic" if name in {tensor.name for tensor in spec.layers[layer].statistics} else "gradient of"
    return f"layer {spec.layers[layer].name}: the {kind} {name}"


def _percent(error: float) -> str:
    return "infinitely much" if math.isinf(error) else f"{100 * error:.3g} %"


def _names(spec: ModelSpec, layer: int) -> set[str]:
    return {tensor.name for tensor in (*spec.layers[layer].parameters, *spec.layers[layer].statistics)}


def _last_layer(refusal: Refusal) -> int | None:
    """The last layer that differs; none where outputs or the loss alone do."""
    names = {each.name for each in refusal.different}
    layers = [index for index in range(len(refusal.spec.layers)) if names & _names(refusal.spec, index)]
    return max(layers, default=None)


def _suspects(refusal: Refusal, layer: int | None) -> Iterator[str]:
    if refusal.right_with:
        sizes = " or ".join(map(str, refusal.right_with))
        yield f"its forward pass does other things with other batch sizes (with {sizes} samples nothing differs)"
    yield from _dropped(refusal)
    forward = trace(refusal.definition, training=not refusal.forward)
    wrong_forward = layer is None or any(each.name == "loss" for each in refusal.different)
    near = [] if wrong_forward or layer is None else list(_between(forward, refusal.spec, layer))
    for operator in _odd(near) or _odd(forward.operators) or near:
        yield f"operator {operator_name(operator.target)}{place(operator)}"


def _odd(operators: Sequence[fx.Node]) -> list[fx.Node]:
    """Return the operators of kinds that might be at fault."""
    return [operator for operator in operators if not any(name in str(operator.target) for name in _PLAIN)]


def _between(forward: TracedForward, spec: ModelSpec, layer: int) -> Iterator[fx.Node]:
    """The operators from a layer's first up to the first of the next layer."""
    anatomy = dissect(forward)
    own = _names(spec, layer)
    later = {name for index in range(layer + 1, len(spec.layers)) for name in _names(spec, index)}
    begun = False
    for operator in forward.operators:
        if operator not in anatomy.anchored:
            continue
        begun |= bool(own & anatomy.tensors[operator])
        if begun and later & anatomy.tensors[operator]:
            return
        if begun:
            yield operator


def _dropped(refusal: Refusal) -> Iterator[str]:
    """What autograd does in the module's own forward pass, and no trace knows of."""
    definition, hooked = refusal.definition, list[str]()
    original = Tensor.register_hook

    def noted(self: Tensor, hook: Any) -> Any:
        hooked.append(getattr(hook, "__qualname__", repr(hook)))
        return original(self, hook)  # type: ignore[no-untyped-call]  # torch's

    sample = torch.zeros((2, *definition.input_shape), dtype=getattr(torch, definition.input_dtype))
    Tensor.register_hook = noted  # type: ignore[method-assign]  # to see who calls it
    try:
        with mode_of(definition.module, training=True), torch.random.fork_rng(devices=[]), torch.enable_grad():
            output = definition.module(sample)
    except Exception:  # whatever the module raises: this is about words only
        return
    finally:
        Tensor.register_hook = original  # type: ignore[method-assign]  # as it was
    for name in hooked[:1]:
        yield f"a hook on a tensor ({name})"
    for name in sorted({name for each in tree_leaves(output) for name in _functions(each)}):
        yield f"the autograd function {name}, with a backward pass of its own"


def _functions(output: Tensor) -> Iterator[str]:
    """Names of the user's own autograd functions that ``output`` depends on."""
    left, seen = [output.grad_fn], set[Any]()
    while left:
        node = left.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if isinstance(node, torch.autograd.function.BackwardCFunction):
            yield node.name().removesuffix("Backward")
        left += [before for before, _ in node.next_functions]
