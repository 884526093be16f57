"""Rewrites a flat graph with complex numbers as one with real numbers: ONNX's operators take no others.

Every complex tensor becomes two, its real and its imaginary part. The gradients stand in the graph by then, and are
rewritten with the rest.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from lamina.models.errors import ModelError
from lamina.models.graph import spectra
from lamina.models.graph.pairs import FUNCTIONS, MOVING, Pair, as_pair, parts
from lamina.models.graph.places import place
from lamina.models.graph.registry import operator_name

_INSTEAD = "compute with the real and the imaginary part (x.real, x.imag, torch.view_as_real)"
_FUNCTIONS = FUNCTIONS | {
    "_fft_r2c": spectra.real_to_complex,
    "_fft_c2c": spectra.complex_to_complex,
    "_fft_c2r": spectra.complex_to_real,
}


def has_complex_numbers(graph: fx.Graph) -> bool:
    """Whether an operator of the graph yields complex numbers."""
    return any(map(_is_complex, graph.nodes))


class InPairs(fx.Interpreter):
    """Runs a flat graph with pairs of real tensors in place of complex ones.

    Args:
        graph: the flat graph.
        model: the network's name, for messages.
    """

    def __init__(self, graph: fx.GraphModule, model: str) -> None:
        super().__init__(graph)
        self.extra_traceback = False  # it would be added to messages
        self._model = model

    def run_node(self, n: fx.Node) -> Any:
        """One operator's result.

        Raises:
            ModelError: the operator is not known for complex numbers.
        """
        if n.op == "placeholder" and n.users and _is_complex(n):
            raise ModelError(f"model {self._model}: it has a complex parameter or buffer: keep its two parts apart")
        if n.op == "output" and any(isinstance(each, Pair) for each in self._given(n)):
            raise ModelError(f"model {self._model}: complex numbers reach the output or a gradient: {_INSTEAD}")
        if n.op == "get_attr" and _is_complex(n):
            return as_pair(super().run_node(n))
        if n.op != "call_function" or n.target.__name__ == "getitem":  # type: ignore[union-attr]  # a function
            return super().run_node(n)
        if not _is_complex(n) and not any(isinstance(each, Pair) for each in self._given(n)):
            return super().run_node(n)
        return self._of_pairs(n)

    def _given(self, node: fx.Node) -> list[Any]:
        args, kwargs = self.fetch_args_kwargs_from_env(node)
        return pytree.tree_leaves((args, kwargs))

    def _of_pairs(self, node: fx.Node) -> Any:
        args, kwargs = self.fetch_args_kwargs_from_env(node)
        name = operator_name(node.target).partition(".")[0]
        with fx.traceback.set_current_meta(node):
            try:
                if name in _FUNCTIONS:
                    return _FUNCTIONS[name](*args, **kwargs)
                if name in MOVING:
                    return _in_both_parts(node.target, args, kwargs)
            except (AttributeError, NotImplementedError, TypeError):
                pass
        raise ModelError(
            f"model {self._model}: operator {operator_name(node.target)}{place(node)} of complex numbers is not "
            f"supported: {_INSTEAD}"
        )


def _in_both_parts(target: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    options = {name: torch.float32 if name == "dtype" else value for name, value in kwargs.items()}
    both = [target(*parts(args, index), **{k: parts(v, index) for k, v in options.items()}) for index in (0, 1)]
    if isinstance(both[0], Tensor):
        return Pair(*both)
    return [Pair(*each) for each in zip(*both, strict=True)]


def _is_complex(node: fx.Node) -> bool:
    value = node.meta.get("val")
    several = value if isinstance(value, list | tuple) else (value,)
    return any(isinstance(each, Tensor) and each.is_complex() for each in several)
