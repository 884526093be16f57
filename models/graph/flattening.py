"""Traces a function of tensors, without values, into a flat graph of aten operators.

Autograd runs during the trace, so its backward operators stand in the graph like any others. What is left are operators
that `graph.rules` has rules for: those that `graph.decompositions` does not write out in others, and none
that changes a tensor in place.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, fx
from torch._dispatch.python import enable_python_dispatcher
from torch.func import functionalize
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.traceback import preserve_node_meta
from torch.nn.attention import SDPBackend, sdpa_kernel

from lamina.models.graph.complex_numbers import InPairs, has_complex_numbers
from lamina.models.graph.decompositions import decompositions
from lamina.models.graph.tracing import TracedForward, example


def flatten(forward: TracedForward, function: Callable[..., Sequence[Tensor]], *inputs: Tensor) -> fx.GraphModule:
    """The flat graph of ``function`` at ``inputs``; its outputs are the tensors that ``function`` returns.

    Args:
        forward: the pass that the function runs a section of.
        function: of a dictionary of the module's tensors by name, and of ``inputs``. It may call
            ``torch.autograd.grad``. The graph's placeholders are all of them, in this order.
        inputs: tensors without values.
    """
    tensors = {name: example(placeholder).detach() for placeholder, name in forward.tensors.items()}
    table = decompositions()
    with without_values(forward), preserve_node_meta(), sdpa_kernel(SDPBackend.MATH):
        graph = make_fx(function, decomposition_table=table)(tensors, *inputs)
        graph.graph.eliminate_dead_code()
        if any(_changes_in_place(node) for node in graph.graph.nodes):
            placeholders = [example(node) for node in graph.graph.nodes if node.op == "placeholder"]
            graph = make_fx(functionalize(fx.Interpreter(graph).run), decomposition_table=table)(*placeholders)
            _forget_changed_inputs(graph.graph)
            graph.graph.eliminate_dead_code()
        if has_complex_numbers(graph.graph):
            placeholders = [example(node) for node in graph.graph.nodes if node.op == "placeholder"]
            graph = make_fx(InPairs(graph, forward.name).run, decomposition_table=table)(*placeholders)
            graph.graph.eliminate_dead_code()
    return graph


@contextmanager
def without_values(forward: TracedForward) -> Iterator[None]:
    """Inside, operators on the examples of ``forward``'s graph yield shapes and no values."""
    with (
        warnings.catch_warnings(action="ignore"),
        torch.backends.mkldnn.flags(enabled=False),  # its operators are fused, and have no derivatives as graphs
        example(forward.sample).fake_mode,
        enable_python_dispatcher(),
    ):
        yield


def _forget_changed_inputs(graph: fx.Graph) -> None:
    """Leave out what would write into the graph's inputs: what is kept of a step are its outputs."""
    for node in graph.nodes:
        if node.target == torch.ops.aten.copy_.default and node.args[0].op == "placeholder":
            node.replace_all_uses_with(node.args[1])
            graph.erase_node(node)


def _changes_in_place(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable
