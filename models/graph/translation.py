"""Translates a flat aten graph into ONNX operators, node by node, each by its rule."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from lamina.models.errors import ModelError
from lamina.models.graph import rules
from lamina.models.graph.registry import find_rule
from lamina.models.graph.tracing import Forward, example
from lamina.models.graph.values import Call, Form, Value, form_of
from lamina.models.graph.writer import GraphWriter

_TORCH = Path(torch.__file__).parent

# Checks of what the trace has already settled.
_IGNORED = ("_assert_", "sym_constrain_range", "_functional_assert")


def translate(
    g: GraphWriter, forward: Forward, graph: fx.GraphModule, tensors: Mapping[str, str], inputs: Sequence[str]
) -> list[Value]:
    """Write ``graph`` into ``g``; its outputs.

    Args:
        g: the writer.
        forward: the pass that the graph is a section of.
        graph: flat, see `lamina.models.graph.flattening`.
        tensors: what stands for the module's tensors, by name. Those that are not there are constants, of their present
            values.
        inputs: what stands for the graph's further placeholders, in their order.

    Raises:
        ModelError: an operator has no rule, or its rule can't be applied.
    """
    translation = _Translation(g, graph, forward)
    placeholders = (node for node in graph.graph.nodes if node.op == "placeholder")
    for name, placeholder in zip([*forward.values, *inputs], placeholders, strict=True):
        if placeholder.users:  # else a constant that nobody reads would swell the file
            translation.enter(placeholder, tensors.get(name, forward.values.get(name, name)))
    return translation.run()


class _Translation:
    def __init__(self, g: GraphWriter, graph: fx.GraphModule, forward: Forward) -> None:
        self._g = g
        self._graph = graph
        self._batch = forward.batch
        self._model = forward.name
        self._results: dict[fx.Node, Any] = {}

    def enter(self, placeholder: fx.Node, source: str | Tensor) -> None:
        """Let a tensor of the ONNX graph, or a constant, stand for a placeholder."""
        name = self._constant(source) if isinstance(source, Tensor) else source
        self._results[placeholder] = self._value(name, example(placeholder))

    def run(self) -> list[Value]:
        for node in self._graph.graph.nodes:
            if node.op in ("call_function", "get_attr"):
                self._results[node] = self._result(node)
        outputs: Any = self._graph.graph.output_node().args[0]  # a list, as flatten's function returns one
        return [self._results[output] for output in outputs]

    def _result(self, node: fx.Node) -> Any:
        if node.op == "get_attr":
            return self._attribute(node)
        if node.target is operator.getitem:
            return self._results[node.args[0]][node.args[1]]  # type: ignore[index]  # (tuple, index)
        if any(part in str(node.target) for part in _IGNORED):
            return None
        return self._applied(node)

    def _applied(self, node: fx.Node) -> Any:
        name = operator_name(node)
        rule = find_rule(name, self._g.engine)
        if rule is None:
            raise ModelError(
                f"model {self._model}: no rule for the operator {name}{place(node)}; "
                f"add one to models/graph/rules/{rules.subject(name)}.py"
            )
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), self._results.__getitem__)
        try:
            written = rule(self._g, Call(name, self._forms(node)), *args, **kwargs)
        except ModelError as error:
            raise ModelError(f"model {self._model}: operator {name}{place(node)}: {error}") from error
        except TypeError as error:  # the operator has arguments that the rule does not know
            raise ModelError(f"model {self._model}: operator {name}{place(node)}: {error}") from error
        return self._formed(written, node)

    def _forms(self, node: fx.Node) -> tuple[Form, ...]:
        results = example(node)
        several = results if isinstance(results, tuple | list) else (results,)
        return tuple(form_of(result, self._batch) for result in several if result is not None)

    def _formed(self, written: Any, node: fx.Node) -> Any:
        """The names that a rule returned, as values."""
        results = example(node)
        if isinstance(results, tuple | list):
            return tuple(
                None if name is None or result is None else self._value(name, result)
                for name, result in zip(written, results, strict=False)
            )
        return self._value(written, results)

    def _value(self, name: str, result: Any) -> Value:
        form = form_of(result, self._batch)
        return Value(name, form.shape, form.dtype)

    def _attribute(self, node: fx.Node) -> Value:
        held = getattr(self._graph, str(node.target))
        if not isinstance(held, Tensor):
            raise ModelError(f"model {self._model}: {node.target}{place(node)} is control flow, which has no rule")
        return self._value(self._constant(held), held)

    def _constant(self, tensor: Tensor) -> str:
        return self._g.constant(tensor.detach().numpy(), str(tensor.dtype).removeprefix("torch."))


def operator_name(node: fx.Node) -> str:
    """``add.Tensor`` for ``torch.ops.aten.add.Tensor``, ``operator.mul`` for Python's own."""
    if isinstance(node.target, torch._ops.OpOverload):
        return f"{node.target._schema.name.rpartition('::')[2]}.{node.target._overloadname}"
    return f"operator.{getattr(node.target, '__name__', node.target)}"


def place(node: fx.Node) -> str:
    """Return where ``node`` comes from: the module, and the line of its code; empty where the trace doesn't say."""
    origin = next((known for known in _with_inputs(node) if known.meta.get("nn_module_stack")), None)
    if origin is None:
        return ""
    path, kind = list(origin.meta["nn_module_stack"].values())[-1]
    kind = kind if isinstance(kind, str) else kind.__qualname__
    line = _last_line(origin.meta.get("stack_trace"))
    return f" in module {path or '(the whole)'} ({kind.rpartition('.')[2]}){line}"


def _with_inputs(node: fx.Node) -> Sequence[fx.Node]:
    """``node``, its inputs, their inputs, and so on: a backward operator stands where the forward one did it reads."""
    found, at = [node], 0
    while at < len(found):
        found += [other for other in found[at].all_input_nodes if other not in found]
        at += 1
        if at > 50:
            break
    return found


def _last_line(stack_trace: str | None) -> str:
    """The innermost line of the author's own code; torch's where there is none, as in a ``nn.Sequential``."""
    lines = [line.strip() for line in (stack_trace or "").splitlines() if line.strip().startswith("File ")]
    own = [line for line in lines if str(_TORCH) not in line]
    return f", {(own or lines)[-1].removeprefix('File ')}" if lines else ""
