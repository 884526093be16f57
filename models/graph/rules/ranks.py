"""Operands of a rank that a rule does not know are reshaped for it, and its results are reshaped back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from typing import Any, TypeVar

from lamina.models.graph.registry import Rule
from lamina.models.graph.values import Call, Extent, TensorType, Value
from lamina.models.graph.writer import GraphWriter

_RuleT = TypeVar("_RuleT", bound=Rule)


def along_dimensions(rule: _RuleT) -> _RuleT:
    """Apply a rule to a vector of one element where its first operand is a scalar, which has no dimensions."""
    return _reshaping(rule, lambda call, x: not x.shape, lambda shape: (1,))


def with_a_batch(rule: _RuleT) -> _RuleT:
    """Apply a rule for (N, C, ...) to a batch of one where its first operand is (C, ...).

    How many dimensions follow stands in the operator's name: two in ``max_pool2d_with_indices``.
    """
    return _reshaping(rule, lambda call, x: len(x.shape) == _spatial_rank(call) + 1, lambda shape: (1, *shape))


def _reshaping(
    rule: _RuleT,
    is_odd: Callable[[Call, Value], bool],
    shaped: Callable[[tuple[Extent, ...]], tuple[Extent, ...]],
) -> _RuleT:
    """The rule, where an odd first operand and all others of its rank are reshaped, and the results reshaped back."""

    @wraps(rule)
    def wrapped(g: GraphWriter, call: Call, x: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(x, Value) or not is_odd(call, x):
            return rule(g, call, x, *args, **kwargs)

        def operand(value: Any) -> Any:
            return _in_shape(g, value, shaped(value.shape)) if _is_like(value, x) else value

        forms = tuple(TensorType(shaped(form.shape), form.dtype) for form in call.results)
        written = rule(
            g,
            replace(call, results=forms),
            operand(x),
            *map(operand, args),
            **{name: operand(value) for name, value in kwargs.items()},
        )
        if isinstance(written, tuple):
            return tuple(_back(g, name, form) for name, form in zip(written, call.results, strict=False))
        return _back(g, written, call.results[0])

    return wrapped  # type: ignore[return-value]  # wraps says so


def _is_like(value: Any, x: Value) -> bool:
    return isinstance(value, Value) and len(value.shape) == len(x.shape)


def _in_shape(g: GraphWriter, value: Value, shape: tuple[Extent, ...]) -> Value:
    """The value with a dimension of extent 1 in front, which leaves what another rule remembered of it."""
    raised = Value(g.Unsqueeze(value, [0]), shape, value.dtype)
    if g.recall(value):
        g.remember(raised, *g.recall(value))
    return raised


def _back(g: GraphWriter, name: str | None, form: TensorType) -> str | None:
    if name is None:
        return None
    result: str = g.Squeeze(name, [0]) if form.shape else g.Reshape(name, g.constant([], "int64"))
    if g.recall(name):
        g.remember(result, *g.recall(name))
    return result


def _spatial_rank(call: Call) -> int:
    return next(int(rank) for rank in "123" if f"{rank}d" in call.packet)
