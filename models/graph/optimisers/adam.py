"""Adam, and AdamW, whose weight decay shrinks the parameters themselves and stays out of the averages.

    m = beta1 * m + (1 - beta1) * g             v = beta2 * v + (1 - beta2) * g^2
    p = p - lr * (m / c1) / (sqrt(v / c2) + epsilon)

Both averages start at zero, and c1 and c2 make up for it: 1 - beta1^t and 1 - beta2^t at step t. Here each is what the
average of ones would be, c = beta * c + (1 - beta), a resident scalar: no count of steps, no power, and the rounding of
1 - beta, which float32 knows to five digits only, is the same in m and c and cancels.

Source: Kingma and Ba 2015 (arXiv 1412.6980); Loshchilov and Hutter 2019 (arXiv 1711.05101).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lamina.models.graph.optimisers.base import DECAY, Moved, Optimiser, TrainedTensor, decayed, joined
from lamina.models.graph.writer import GraphWriter

MEAN, SQUARE = "mean_state", "square_state"
MEAN_OF_ONES, SQUARE_OF_ONES = "mean_of_ones", "square_of_ones"


def _adam(g: GraphWriter, tensors: Sequence[TrainedTensor], parameters: str, state: Mapping[str, str]) -> Moved:
    return _moved(g, decayed(g, tensors), parameters, state)


def _adamw(g: GraphWriter, tensors: Sequence[TrainedTensor], parameters: str, state: Mapping[str, str]) -> Moved:
    kept = {kind: g.Sub(1.0, g.Mul("lr", rate)) for kind, rate in DECAY.items()}
    shrunk = joined(g, [g.Mul(tensor.value, kept[tensor.kind]) for tensor in tensors])
    return _moved(g, tensors, shrunk, state)


def _moved(g: GraphWriter, tensors: Sequence[TrainedTensor], start: str, state: Mapping[str, str]) -> Moved:
    """One step from ``start``, the flat parameters, by the tensors' gradients."""
    gradient = joined(g, [tensor.gradient for tensor in tensors])
    mean, ones = (_averaged(g, state[name], g_, "beta1") for name, g_ in ((MEAN, gradient), (MEAN_OF_ONES, 1.0)))
    squared = g.Mul(gradient, gradient)
    square, square_ones = (
        _averaged(g, state[name], value, "beta2") for name, value in ((SQUARE, squared), (SQUARE_OF_ONES, 1.0))
    )
    size = g.Add(g.Sqrt(g.Div(square, square_ones)), "epsilon")
    change = g.Div(g.Mul(mean, g.Div("lr", ones)), size)
    after = {MEAN: mean, SQUARE: square, MEAN_OF_ONES: ones, SQUARE_OF_ONES: square_ones}
    return Moved(g.Sub(start, change), after)


def _averaged(g: GraphWriter, average: str, value: str | float, beta: str) -> str:
    """The next of a moving average."""
    return g.Add(g.Mul(average, beta), g.Mul(value, g.Sub(1.0, beta)))


_DEFAULTS = {"lr": 1e-3, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8} | dict.fromkeys(DECAY.values(), 0.0)

ADAM = Optimiser(_adam, (MEAN, SQUARE), _DEFAULTS, (MEAN_OF_ONES, SQUARE_OF_ONES))
ADAMW = Optimiser(_adamw, (MEAN, SQUARE), _DEFAULTS | {"weight_decay": 0.01}, (MEAN_OF_ONES, SQUARE_OF_ONES))
