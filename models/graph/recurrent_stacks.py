"""Takes a recurrent module of several layers apart in a trace, so that the network can be cut between its layers.

torch has one operator for all layers of an LSTM or a GRU. It becomes one operator a layer here, with the dropout
between them. Where only the last state of the last layer is read, nobody reads those of the others, and they do not
keep the layers together.
"""

from __future__ import annotations

import operator
import re
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx
from torch._dispatch.python import enable_python_dispatcher

from lamina.models.graph.recurrent import STAND_INS

_aten = torch.ops.aten
_STACKS = {_aten.lstm.input: 2, _aten.gru.input: 1}  # and how many states they have
_OF_LAYER = re.compile(r"_l(\d+)(_reverse)?$")


def layer_of_stack(name: str) -> str:
    """``l0`` for a parameter of a recurrent module's first layer (``weight_ih_l0``); empty for any other."""
    found = _OF_LAYER.search(name)
    return f"l{found[1]}" if found else ""


def take_apart(graph: fx.Graph) -> None:
    """Write each recurrent stack in ``graph`` as its layers, in place."""
    for node in list(graph.nodes):
        if node.target in _STACKS and node.args[4] > 1:
            with graph.inserting_before(node):
                _write_layers(graph, node)
    graph.lint()


def _write_layers(graph: fx.Graph, stack: fx.Node) -> None:
    x, given, parameters, has_biases, layers, dropout, train, bidirectional, batch_first = stack.args
    states: Sequence[Any] = given if isinstance(given, list | tuple) else [given]
    directions = 2 if bidirectional else 1
    each = len(parameters) // layers  # type: ignore[arg-type,operator]  # a list, and a number
    ends: list[list[fx.Node]] = []
    for layer in range(layers):  # type: ignore[arg-type]  # a number
        rows = (layer * directions, (layer + 1) * directions)
        own_states = [_call(graph, stack, _aten.slice.Tensor, state, 0, *rows) for state in states]
        start = own_states if isinstance(given, list | tuple) else own_states[0]
        own = list(parameters[layer * each : (layer + 1) * each])  # type: ignore[index,arg-type]  # a list
        options = (has_biases, 1, 0.0, train, bidirectional, batch_first)
        result = _call(graph, stack, stack.target, x, start, own, *options)
        x, *end = (_call(graph, stack, operator.getitem, result, index) for index in range(1 + len(states)))
        ends.append(end)
        if layer + 1 < layers and dropout and train:  # type: ignore[operator]  # numbers
            x = _dropped(graph, stack, x, dropout, bool(batch_first))
    for part in list(stack.users):  # getitem: the outputs, and the final states of all layers
        index: Any = part.args[1]
        if index == 0:
            part.replace_all_uses_with(x)  # type: ignore[arg-type]  # an operator
        else:
            _replace_ends(graph, part, [end[index - 1] for end in ends], directions)
        graph.erase_node(part)
    graph.erase_node(stack)


def _dropped(graph: fx.Graph, stack: fx.Node, x: Any, p: Any, batch_first: bool) -> fx.Node:
    """Dropout on outputs, which torch draws with the steps first."""
    if not batch_first:
        return _call(graph, stack, _aten.dropout.default, x, p, True)
    along = _call(graph, stack, _aten.transpose.int, x, 0, 1)
    dropped = _call(graph, stack, _aten.dropout.default, along, p, True)
    return _call(graph, stack, _aten.transpose.int, dropped, 0, 1)


def _replace_ends(graph: fx.Graph, stacked: fx.Node, ends: Sequence[fx.Node], directions: int) -> None:
    """Let what reads a state of all layers read those of the layers."""
    rows = len(ends) * directions
    for reader in list(stacked.users):
        if reader.target is _aten.select.int and reader.args[1] == 0:
            row = int(reader.args[2]) % rows  # type: ignore[arg-type]  # a number
            with graph.inserting_before(reader):
                own = _call(graph, reader, _aten.select.int, ends[row // directions], 0, row % directions)
            reader.replace_all_uses_with(own)
            graph.erase_node(reader)
    if stacked.users:
        with graph.inserting_before(stacked):
            joined = _call(graph, stacked, _aten.cat.default, list(ends), 0)
        stacked.replace_all_uses_with(joined)


def _call(graph: fx.Graph, like: fx.Node, function: Any, *args: Any) -> fx.Node:
    """A new operator, with the place of another one and what it yields."""
    node = graph.call_function(function, args)
    node.meta = {key: value for key, value in like.meta.items() if key != "val"}
    values = fx.node.map_arg(args, lambda each: each.meta["val"])
    tensor = next(value for value in _flat(values) if isinstance(value, torch.Tensor))
    with (
        warnings.catch_warnings(action="ignore"),
        tensor.fake_mode,  # type: ignore[attr-defined]  # all tensors of a trace are fake
        torch.backends.mkldnn.flags(enabled=False),
        enable_python_dispatcher(),
    ):
        node.meta["val"] = STAND_INS.get(function, function)(*values)
    return node


def _flat(values: Any) -> list[Any]:
    return [each for value in values for each in _flat(value)] if isinstance(values, list | tuple) else [values]


def without_dead_ends(graph: fx.Graph) -> None:
    """Take operators out of ``graph`` whose results nobody reads, in place; what writes or draws stays."""
    for node in reversed(list(graph.nodes)):
        if node.op == "call_function" and not node.users and not _has_effects(node):
            graph.erase_node(node)


def _has_effects(node: fx.Node) -> bool:
    target = node.target
    if target is operator.getitem:
        return False
    if not isinstance(target, torch._ops.OpOverload):
        return True
    schema = target._schema
    draws = torch.Tag.nondeterministic_seeded in target.tags
    return draws or schema.is_mutable or not schema.returns or "norm" in schema.name
