"""Counts the activations of a layer: the outputs of its conv and dense operators, the paper's measure.

They are counted by running the traced forward pass without values: so an LSTM counts with every product that it
consists of.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from torch import fx
from torch.utils._python_dispatch import TorchDispatchMode

from lamina.models.graph.anatomy import dissect
from lamina.models.graph.flattening import without_values
from lamina.models.graph.stand_ins import STAND_INS
from lamina.models.graph.tracing import TracedForward, example

_CONV_OR_DENSE = ("aten::convolution", "aten::linear", "aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm")
# Of a recurrent layer's product with its last output, as many as of that with its input, their first argument.
_RECURRENT = ("lamina::lstm", "lamina::gru")


def outputs_of_layers(forward: TracedForward, layer_of: Mapping[str, int]) -> Counter[int]:
    """Outputs of conv and dense operators for one sample, by layer.

    An operator of the forward graph counts for the layer whose parameters it reads, the first where it reads several.

    Args:
        forward: the pass.
        layer_of: index of the layer that a parameter belongs to, by its name.
    """
    anatomy = dissect(forward)
    counts: Counter[int] = Counter()
    for operator in forward.operators:
        layers = {layer_of[name] for name in anatomy.tensors[operator] if name in layer_of}
        if layers and operator in anatomy.active:
            counts[min(layers)] += _outputs(forward, operator)
    return counts


def _outputs(forward: TracedForward, operator: fx.Node) -> int:
    args, kwargs = fx.node.map_arg((operator.args, operator.kwargs), example)
    with without_values(forward), _Counting() as counting:
        function: Any = operator.target
        STAND_INS.get(function, function)(*args, **kwargs)
    return sum(int(math.prod(shape) // forward.batch) for shape in counting.shapes)


class _Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]  # its base's __init_subclass__
    """Notes the output shapes of conv and dense operators."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # the base's
        self.shapes: list[tuple[Any, ...]] = []

    def __torch_dispatch__(
        self, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.name() in _CONV_OR_DENSE:
            self.shapes.append(tuple(result.shape))
        if func.name() in _RECURRENT:
            self.shapes.append(tuple(args[0].shape))
        return result
