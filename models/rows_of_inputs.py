"""A network of several inputs, as the federation sees it: it takes rows in which the inputs of a sample are joined.

One tensor enters a graph, a cut or a cache, whatever the module takes. A row is float32, with the inputs one after the
other; the module's own forward pass gets them back in their shapes and element types. Its author writes either of

    def forward(self, sensor, mask): ...    # a parameter for each input, by its name
    def forward(self, inputs): ...          # one parameter: a dictionary of them
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lamina.models.errors import ModelError
from lamina.models.spec import InputSpec, columns_of

INPUT_DTYPES = ("float32", "int64")
_LONGEST_NAME = 64
_MOST_INPUTS = 64


def input_specs(name: str, shapes: Mapping[str, Any], dtypes: object) -> tuple[InputSpec, ...]:
    """The inputs that a definition names, in its order.

    Args:
        name: of the model, for errors.
        shapes: of one sample, by input; an empty tuple is a number a sample.
        dtypes: of all, or by input; those not named are float32.

    Raises:
        ModelError: an input can't be such.
    """
    by_name: Mapping[str, Any] = dtypes if isinstance(dtypes, Mapping) else dict.fromkeys(shapes, dtypes)
    if strange := sorted(by_name.keys() - shapes.keys()):
        raise ModelError(f"model {name}: input_dtype names {strange[0]!r}, which input_shape does not")
    if not 0 < len(shapes) <= _MOST_INPUTS:
        raise ModelError(f"model {name}: input_shape names {len(shapes)} inputs; from 1 to {_MOST_INPUTS} may be")
    for key, shape in shapes.items():
        if not isinstance(key, str) or not key.isidentifier() or len(key) > _LONGEST_NAME:
            raise ModelError(f"model {name}: an input is called {key!r}; a name has letters, digits and _")
        if not isinstance(shape, tuple) or not all(isinstance(each, int) and each > 0 for each in shape):
            raise ModelError(f"model {name}: input {key} has the shape {shape!r}; give a sample's, such as (3, 32)")
        if by_name.get(key, "float32") not in INPUT_DTYPES:
            raise ModelError(
                f"model {name}: input_dtype of {key} must be one of {', '.join(INPUT_DTYPES)}, and is {by_name[key]!r}"
            )
    return tuple(InputSpec(key, shape, by_name.get(key, "float32")) for key, shape in shapes.items())


def taking_rows(name: str, module: nn.Module, inputs: Sequence[InputSpec]) -> nn.Module:
    """The module, all of whose tensors it shares, with a forward pass that takes rows (N, R) and takes them apart.

    Args:
        name: of the model, for errors.
        module: its own forward pass takes the inputs.
        inputs: what a row consists of, in this order.

    Raises:
        ModelError: the forward pass takes neither an argument for each input nor one dictionary.
    """
    given = _call(name, module, [one.name for one in inputs])
    kind: Any = type(module)

    class TakingRows(kind):  # type: ignore[misc]  # a class that only a run knows
        def forward(self, x: Tensor) -> Any:
            args, named = given(apart(x, inputs))
            return super().forward(*args, **named)

    TakingRows.__name__, TakingRows.__qualname__, TakingRows.__module__ = (
        *(kind.__name__, kind.__qualname__),
        kind.__module__,
    )
    rows = copy.copy(module)  # it shares parameters, buffers and parts
    rows.__class__ = TakingRows
    return rows


def apart(x: Tensor, inputs: Sequence[InputSpec]) -> dict[str, Tensor]:
    """The inputs that are joined to rows (N, R), by name, each (N, *shape)."""
    parts = {}
    for one, columns in columns_of(inputs):
        part = x[:, columns].reshape(x.shape[0], *one.shape)
        parts[one.name] = part.to(torch.int64) if one.dtype == "int64" else part
    return parts


_Given = Callable[[dict[str, Tensor]], tuple[tuple[Any, ...], dict[str, Tensor]]]


def _call(name: str, module: nn.Module, inputs: Sequence[str]) -> _Given:
    """How a module is given its inputs: one by one, or as a dictionary."""
    parameters = inspect.signature(module.forward).parameters
    named = [each.name for each in parameters.values() if each.kind not in (each.VAR_POSITIONAL, each.POSITIONAL_ONLY)]
    needed = [
        each.name
        for each in parameters.values()
        if each.default is each.empty and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
    ]
    if set(needed) <= set(inputs) <= set(named):
        return lambda parts: ((), parts)
    first = next(iter(parameters.values()), None)
    if first is not None and first.kind is not first.VAR_KEYWORD and needed in ([first.name], []):
        return lambda parts: ((parts,), {})
    takes = ", ".join(parameters) or "nothing"
    raise ModelError(
        f"model {name}: its inputs are {', '.join(inputs)}, and its forward takes {takes}: "
        f"write forward(self, {', '.join(inputs)}), or forward(self, inputs), which is given a dictionary"
    )
