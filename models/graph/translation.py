"""Translates a flat aten graph into ONNX operators, node by node, each by its rule."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from lamina.models.errors import ModelError, first_line
from lamina.models.graph import rules
from lamina.models.graph.advice import OF_VALUES, ON_VALUES
from lamina.models.graph.places import place
from lamina.models.graph.registry import find_rule, operator_name
from lamina.models.graph.tracing import TracedForward, example
from lamina.models.graph.values import Call, TensorType, Value, element_type, tensor_type_of
from lamina.models.graph.writer import ELEMENT_TYPES, GraphWriter

_HALF = "numbers of 16 bits are not supported, since devices train in float32: leave out half(), bfloat16(), autocast"
_COMPLEX = "complex numbers are not supported here: compute with the real and the imaginary part"
_ELEMENT_TYPES_ADVICE = {"float16": _HALF, "bfloat16": _HALF, "complex64": _COMPLEX, "complex128": _COMPLEX}

# Checks of what the trace has already settled.
_IGNORED = ("_assert_", "sym_constrain_range", "_functional_assert")


def translate(
    g: GraphWriter, forward: TracedForward, graph: fx.GraphModule, tensors: Mapping[str, str], inputs: Sequence[str]
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
    def __init__(self, g: GraphWriter, graph: fx.GraphModule, forward: TracedForward) -> None:
        self._g = g
        self._graph = graph
        self._batch = forward.batch
        self._model = forward.name
        self._results: dict[fx.Node, Any] = {}
        self._known: dict[fx.Node, Tensor] = {}  # values of constants

    def enter(self, placeholder: fx.Node, source: str | Tensor) -> None:
        """Let a tensor of the ONNX graph, or a constant, stand for a placeholder."""
        if isinstance(source, Tensor):
            self._known[placeholder] = source.detach()
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
        name = operator_name(node.target)
        rule = find_rule(name, self._g.engine)
        if rule is None and self._is_constant(node):
            return self._folded(node)
        if rule is None and name.partition(".")[0] in OF_VALUES:
            raise ModelError(f"model {self._model}: operator {name}{place(node)}: {ON_VALUES}")
        if rule is None:
            raise ModelError(
                f"model {self._model}: no rule for the operator {name}{place(node)}; "
                f"write it in other operators, or add one to models/graph/rules/{rules.subject(name)}.py"
            )
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), self._results.__getitem__)
        try:
            written = rule(self._g, Call(name, self._tensor_types(node)), *args, **kwargs)
        except ModelError as error:
            raise ModelError(f"model {self._model}: operator {name}{place(node)}: {error}") from error
        except (TypeError, ValueError, LookupError, ZeroDivisionError, AttributeError) as error:
            # The operator has arguments, or operands of shapes, that the rule does not know.
            raise ModelError(
                f"model {self._model}: operator {name}{place(node)} is used in a way "
                f"that its rule does not know: {error}"
            ) from error
        return self._formed(written, node)

    def _tensor_types(self, node: fx.Node) -> tuple[TensorType, ...]:
        results = example(node)
        several = results if isinstance(results, tuple | list) else (results,)
        types = tuple(tensor_type_of(result, self._batch) for result in several if result is not None)
        unknown = next((each.dtype for each in types if each.dtype not in ELEMENT_TYPES), None)
        if unknown:
            raise ModelError(_ELEMENT_TYPES_ADVICE.get(unknown, f"tensors of {unknown} are not supported: use float32"))
        return types

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
        found = tensor_type_of(result, self._batch)
        return Value(name, found.shape, found.dtype)

    def _is_constant(self, node: fx.Node) -> bool:
        """Whether the operator reads nothing but constants, draws nothing, and yields one tensor."""
        is_random = torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
        return (
            not is_random and isinstance(example(node), Tensor) and all(i in self._known for i in node.all_input_nodes)
        )

    def _folded(self, node: fx.Node) -> Value:
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), self._known.__getitem__)
        function: Any = node.target
        try:
            with torch.no_grad():
                value = self._known[node] = function(*args, **kwargs)
        except Exception as error:  # whatever torch raises of its own operators
            name = f"operator {operator_name(node.target)}{place(node)}"
            raise ModelError(f"model {self._model}: {name} of constants fails: {first_line(error)}") from error
        return self._value(self._constant(value), value)

    def _attribute(self, node: fx.Node) -> Value:
        held = getattr(self._graph, str(node.target))
        if not isinstance(held, Tensor):
            raise ModelError(f"model {self._model}: {node.target}{place(node)} is control flow, which has no rule")
        self._known[node] = held.detach()
        return self._value(self._constant(held), held)

    def _constant(self, tensor: Tensor) -> str:
        return self._g.constant(tensor.detach().numpy(), element_type(tensor.dtype))
