"""Blocks of a traced forward pass that have a mode of their own, written out among the other operators.

``torch.no_grad()`` and ``torch.autocast()`` become one operator each in a trace, which holds its block as a graph. What
is inside must stand among the others: a block may write to buffers, and reads parameters.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from lamina.models.errors import ModelError
from lamina.models.graph.places import place

_GRADIENTS = "wrap_with_set_grad_enabled"
_AUTOCAST = "wrap_with_autocast"


def inline_blocks(module: fx.GraphModule) -> None:
    """Write out every block of ``module``'s graph, however deep.

    No gradient passes into what a ``no_grad`` block reads, so nothing inside has one.

    Raises:
        ModelError: a block computes under autocast.
    """
    while blocks := [node for node in module.graph.nodes if _name(node) in (_GRADIENTS, _AUTOCAST)]:
        for block in blocks:
            _inline(module, block)


def _inline(module: fx.GraphModule, block: fx.Node) -> None:
    if _name(block) == _GRADIENTS:
        with_gradients, held, *inputs = block.args
    else:
        _, _, enabled, _, held, *inputs = block.args
        with_gradients = True
        if enabled:
            raise ModelError(
                f"autocast{place(block)} is on, and devices train in float32: leave the block out, or give it "
                f"enabled=False while the bundle is made"
            )
    inner: fx.GraphModule = getattr(module, str(held.target))  # type: ignore[union-attr]  # a get_attr operator
    with module.graph.inserting_before(block):
        results = _copied(module, inner, inputs, detached=not with_gradients)
    for user in list(block.users):  # each takes one of the results
        user.replace_all_uses_with(results[user.args[1]])
        module.graph.erase_node(user)
    module.graph.erase_node(block)


def _copied(module: fx.GraphModule, inner: fx.GraphModule, inputs: list[Any], *, detached: bool) -> Any:
    """The operators of ``inner``, copied into ``module``'s graph; its results there."""
    placeholders = [node for node in inner.graph.nodes if node.op == "placeholder"]
    known: dict[fx.Node, Any] = {}
    for placeholder, given in zip(placeholders, inputs, strict=True):
        cut_off = detached and isinstance(given, fx.Node) and not _is_written(placeholder)
        known[placeholder] = _detached(module.graph, given) if cut_off else given
    for node in inner.graph.nodes:
        if node.op == "output":
            return fx.node.map_arg(node.args[0], known.__getitem__)
        if node.op == "get_attr":
            known[node] = _adopted(module, inner, node)
        elif node.op != "placeholder":
            known[node] = module.graph.node_copy(node, known.__getitem__)
    raise AssertionError("a graph ends in its output")


def _is_written(placeholder: fx.Node) -> bool:
    """Whether an operator of the block changes it in place, itself or through a view."""
    waiting, seen = [placeholder], {placeholder}
    while waiting:
        node = waiting.pop()
        for user in node.users:
            arguments = user.target._schema.arguments if isinstance(user.target, torch._ops.OpOverload) else []
            given = dict(zip((argument.name for argument in arguments), user.args, strict=False)) | user.kwargs
            for argument in arguments:
                if given.get(argument.name) is not node or argument.alias_info is None:
                    continue
                if argument.alias_info.is_write:
                    return True
                if user not in seen:
                    seen.add(user)
                    waiting.append(user)
    return False


def _detached(graph: fx.Graph, node: fx.Node) -> fx.Node:
    if not isinstance(node.meta.get("val"), torch.Tensor):
        return node
    detached = graph.call_function(torch.ops.aten.detach.default, (node,))
    detached.meta = dict(node.meta)
    return detached


def _adopted(module: fx.GraphModule, inner: fx.GraphModule, node: fx.Node) -> fx.Node:
    """What ``inner`` holds under a name, held by ``module`` under a new one."""
    count = sum(name.startswith("inlined_") for name in vars(module)) + sum(1 for _ in module.children())
    name = f"inlined_{count}"
    setattr(module, name, getattr(inner, str(node.target)))
    adopted = module.graph.get_attr(name)
    adopted.meta = dict(node.meta)
    return adopted


def _name(node: fx.Node) -> str:
    return str(getattr(node.target, "__name__", node.target)) if node.op == "call_function" else ""
