"""Keeps a user's ``torch.autograd.Function`` whole in a trace, so that its own backward pass is the one that trains.

A trace would run the function's forward pass, write down what that does, and forget the backward pass. So while a
module is traced, a call of such a function becomes one operator, `lamina::autograd_function`. Where a section of the
trace is run, the function itself is called again, and autograd traces the backward pass that its author wrote.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableSequence, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

Function = type[torch.autograd.Function]


@dataclass(frozen=True)
class _Slot:
    """The place of a tensor among others that are no tensors."""

    index: int


@dataclass(eq=False)
class FunctionCall:
    """One call of a user's function in a forward pass.

    Attributes:
        function: the class.
        arguments: what it is called with, where `_Slot` stands for a tensor.
        results: what it has returned, in the same way; known after it has run.
    """

    function: Function
    arguments: tuple[Any, ...]
    results: Any = field(default=None)

    def __call__(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The function's tensors, for these in place of those of the call."""
        results = self.function.apply(*_filled(self.arguments, tensors))  # type: ignore[no-untyped-call]  # torch's
        found: list[Tensor] = []
        self.results = _emptied(results, found)
        return found


_CALLS: WeakValueDictionary[int, FunctionCall] = WeakValueDictionary()
"""The calls that are known, by number; whoever traces keeps them alive."""

_NUMBERS = count()
_OWN = object()


@contextmanager
def kept_whole(calls: MutableSequence[FunctionCall]) -> Iterator[None]:
    """Inside, a call of a user's function becomes an operator, and is added to ``calls``."""
    before = {function: vars(function).get("forward", _OWN) for function in _users(torch.autograd.Function)}
    for function in before:
        function.forward = staticmethod(_noting(function, function.forward, calls))  # type: ignore[method-assign]  # for a while
    try:
        yield
    finally:
        for function, own in before.items():
            if own is _OWN:
                del function.forward
            else:
                function.forward = own  # type: ignore[method-assign]  # as it was


def _users(function: Function) -> Iterator[Function]:
    """All classes below ``function`` that aren't torch's own."""
    for below in function.__subclasses__():
        if below.__module__.partition(".")[0] not in ("torch", "functorch"):
            yield below
        yield from _users(below)


def _noting(
    function: Function, forward: Callable[..., Any], calls: MutableSequence[FunctionCall]
) -> Callable[..., Any]:
    """The function's forward pass, which writes an operator in place of what it does."""
    takes_context = function.setup_context is torch.autograd.Function.setup_context
    inside = [False]

    def noted(*given: Any) -> Any:
        if inside[0]:
            return forward(*given)
        tensors: list[Tensor] = []
        call = FunctionCall(function, _emptied(given[1:] if takes_context else given, tensors))
        number = next(_NUMBERS)
        _CALLS[number] = call
        calls.append(call)
        inside[0] = True  # the operator runs the function itself, for the shapes of its results
        try:
            found = torch.ops.lamina.autograd_function(tensors, number)
        finally:
            inside[0] = False
        return _filled(call.results, found)

    return noted


def _emptied(values: Any, tensors: list[Tensor]) -> Any:
    """``values`` with a `_Slot` for each tensor, which is added to ``tensors``."""

    def emptied(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        tensors.append(value)
        return _Slot(len(tensors) - 1)

    return pytree.tree_map(emptied, values)


def _filled(values: Any, tensors: Sequence[Tensor]) -> Any:
    """The inverse of `_emptied`."""
    return pytree.tree_map(lambda value: tensors[value.index] if isinstance(value, _Slot) else value, values)


@torch.library.custom_op("lamina::autograd_function", mutates_args=())
def _autograd_function(tensors: Sequence[Tensor], call: int) -> list[Tensor]:
    """What the user's function makes of these tensors."""
    with torch.no_grad():
        return [result.detach().clone() for result in _CALLS[call](tensors)]


@_autograd_function.register_fake
def _(tensors: Sequence[Tensor], call: int) -> list[Tensor]:
    return [result.detach().clone() for result in _CALLS[call](tensors)]


def again(tensors: Sequence[Tensor], call: int) -> list[Tensor]:
    """Stands in place of the operator: the user's function, with its backward pass."""
    return _CALLS[call](tensors)
