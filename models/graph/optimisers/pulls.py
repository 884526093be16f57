"""What shapes a gradient before the optimiser has it: FedProx's pull, then clipping; both only where they are asked
for.

FedProx (Li et al. 2020, arXiv 1812.06127, equation 2) adds mu/2 ||p - u||^2 to the loss, with u the *anchor*, the
global parameters that the round began from; so mu (p - u) to the gradient. It needs a vector of memory.

Clipping scales all gradients together, the pull's among them, to a norm of ``clip_norm`` at most, as torch's
``clip_grad_norm_`` does. Weight decay comes after it, as it is the optimiser's own there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce

from lamina.models.graph.optimisers.base import TrainedTensor
from lamina.models.graph.writer import GraphWriter

ANCHOR = "anchor"
_TINY = 1e-6  # what torch adds to the norm

MU = {"mu": 0.0}
CLIP_NORM = {"clip_norm": 1.0}


@dataclass(frozen=True)
class Recipe:
    """What a training graph does with gradients.

    Attributes:
        optimiser: its name.
        proximal: whether there is FedProx's pull, by the hyperparameter ``mu`` and the input ``anchor``.
        clipped: whether gradients are clipped, by the hyperparameter ``clip_norm``.
    """

    optimiser: str = "sgd"
    proximal: bool = False
    clipped: bool = False

    @property
    def hyperparameters(self) -> dict[str, float]:
        """The 0-d inputs that come beside the optimiser's own, with defaults."""
        return (MU if self.proximal else {}) | (CLIP_NORM if self.clipped else {})


def pulled(g: GraphWriter, tensors: Sequence[TrainedTensor], anchors: Sequence[str]) -> list[TrainedTensor]:
    """The tensors with FedProx's gradient added to the loss's; ``anchors`` are flat pieces, one a tensor."""
    return [
        replace(tensor, gradient=g.Add(tensor.gradient, g.Mul(g.Sub(tensor.value, anchor), "mu")))
        for tensor, anchor in zip(tensors, anchors, strict=True)
    ]


def clipped(g: GraphWriter, tensors: Sequence[TrainedTensor]) -> list[TrainedTensor]:
    """The tensors with gradients whose common norm is ``clip_norm`` at most."""
    squares = [g.ReduceSumSquare(tensor.gradient, keepdims=0) for tensor in tensors]
    norm = g.Sqrt(reduce(lambda total, square: g.Add(total, square), squares))
    factor = g.Min(g.Div("clip_norm", g.Add(norm, _TINY)), 1.0)
    return [replace(tensor, gradient=g.Mul(tensor.gradient, factor)) for tensor in tensors]
