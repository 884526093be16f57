"""The rules by which aten operators become ONNX operators: functions registered under the operators' names.

    @rule("sigmoid")
    def sigmoid(g: GraphWriter, call: Call, x: Value) -> str:
        return g.Sigmoid(x)

A rule's further parameters are those of the aten operator, with the same names and defaults. It returns the name of the
result, or a tuple of names (None for a result that nobody may read). To add a rule, write such a function into the file
of its subject in `lamina.models.graph.rules`.

An engine with operators of its own may have rules of its own, which come before the others where a graph is for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import torch

from lamina.models.manifest import ONNXRUNTIME

Rule: TypeAlias = Callable[..., Any]
_RuleT = TypeVar("_RuleT", bound=Rule)

_RULES: dict[tuple[str, str], Rule] = {}  # by engine and name


def rule(*names: str, engine: str = ONNXRUNTIME) -> Callable[[_RuleT], _RuleT]:
    """Register a rule for aten operators: for all overloads (``"add"``), or for one (``"sum.dim_IntList"``).

    Args:
        names: of the operators.
        engine: whose operators the rule writes; those of ``onnxruntime`` are the standard's, which all engines have.
    """

    def register(function: _RuleT) -> _RuleT:
        for name in names:
            assert (engine, name) not in _RULES, f"two rules for {name}"
            _RULES[engine, name] = function
        return function

    return register


def find_rule(name: str, engine: str = ONNXRUNTIME) -> Rule | None:
    """The rule for the operator ``name`` (``add.Tensor``): that of its overload, else that of all its overloads.

    A rule for ``engine`` comes before one for all engines.
    """
    keys = ((owner, each) for owner in (engine, ONNXRUNTIME) for each in (name, name.partition(".")[0]))
    return next((_RULES[key] for key in keys if key in _RULES), None)


def operator_name(target: Any) -> str:
    """``add.Tensor`` for ``torch.ops.aten.add.Tensor``, ``operator.mul`` for Python's own."""
    if isinstance(target, torch._ops.OpOverload):
        return f"{target._schema.name.rpartition('::')[2]}.{target._overloadname}"
    return f"operator.{getattr(target, '__name__', target)}"
