"""SGD with momentum, and Nesterov's kind of it, as torch has them.

    m = momentum * m + g        p = p - lr * m                  (Polyak's, the usual one)
                                p = p - lr * (g + momentum * m) (Nesterov's)

with g the gradient, weight decay included (Sutskever et al. 2013, "On the importance of initialization and momentum
in deep learning"; torch leaves the rate out of m, as is done here).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lamina.models.graph.optimisers.base import DECAY, Moved, Optimiser, TrainedTensor, decayed, joined
from lamina.models.graph.writer import GraphWriter

MOMENTUM = "momentum_state"


def _polyak(g: GraphWriter, tensors: Sequence[TrainedTensor], parameters: str, state: Mapping[str, str]) -> Moved:
    _, momentum = _gathered(g, tensors, state)
    return Moved(g.Sub(parameters, g.Mul(momentum, "lr")), {MOMENTUM: momentum})


def _nesterov(g: GraphWriter, tensors: Sequence[TrainedTensor], parameters: str, state: Mapping[str, str]) -> Moved:
    gradient, momentum = _gathered(g, tensors, state)
    ahead = g.Add(gradient, g.Mul(momentum, "momentum"))
    return Moved(g.Sub(parameters, g.Mul(ahead, "lr")), {MOMENTUM: momentum})


def _gathered(g: GraphWriter, tensors: Sequence[TrainedTensor], state: Mapping[str, str]) -> tuple[str, str]:
    """The gradient, decay included, and the momentum with it."""
    gradient = joined(g, [tensor.gradient for tensor in decayed(g, tensors)])
    return gradient, g.Add(g.Mul(state[MOMENTUM], "momentum"), gradient)


_DEFAULTS = {"lr": 0.1, "momentum": 0.9} | dict.fromkeys(DECAY.values(), 0.0)

SGD = Optimiser(_polyak, (MOMENTUM,), _DEFAULTS)
NESTEROV = Optimiser(_nesterov, (MOMENTUM,), _DEFAULTS)
