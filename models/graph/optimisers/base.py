"""An optimiser, as the graph sees it: a function from gradients and its own resident vectors to what comes after them.

Weight decay goes by *group*: kernels, biases, and the scales and shifts of norms have a rate each, and only that of
kernels is commonly other than 0. What an optimiser keeps is as long as all parameters together, and worked on as a
whole: that takes fewer operators than tensor after tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from lamina.models.graph.writer import GraphWriter
from lamina.models.spec import Kind

DECAY = {"kernel": "weight_decay", "bias": "bias_weight_decay", "norm": "norm_weight_decay"}
"""The rate of each group of parameters, by its kind."""


@dataclass(frozen=True)
class TrainedTensor:
    """One tensor that is trained, as two flat pieces.

    Attributes:
        value: name of its value before the step.
        gradient: name of the loss's gradient.
        kind: the group that its weight decay goes by.
    """

    value: str
    gradient: str
    kind: Kind


@dataclass(frozen=True)
class Moved:
    """What a step leaves.

    Attributes:
        parameters: name of the next parameters, flat.
        state: the next of the optimiser's own vectors and scalars, by name.
    """

    parameters: str
    state: dict[str, str]


@dataclass(frozen=True)
class Optimiser:
    """An optimiser in the graph.

    Attributes:
        step: writes one step, from the tensors, the name of their flat vector, and the optimiser's own vectors by name.
        vectors: names of those that are as long as the parameters.
        scalars: names of those of one element.
        hyperparameters: names of its 0-d inputs, with defaults; ``lr`` is always there.
    """

    step: Callable[[GraphWriter, Sequence[TrainedTensor], str, Mapping[str, str]], Moved]
    vectors: tuple[str, ...]
    hyperparameters: dict[str, float]
    scalars: tuple[str, ...] = ()


def decayed(g: GraphWriter, tensors: Sequence[TrainedTensor]) -> list[TrainedTensor]:
    """The tensors with the gradient of a penalty, half of the rate times the squared norm, added to the loss's."""
    return [
        replace(tensor, gradient=g.Add(tensor.gradient, g.Mul(tensor.value, DECAY[tensor.kind]))) for tensor in tensors
    ]


def joined(g: GraphWriter, pieces: Sequence[str]) -> str:
    """Flat pieces as one vector."""
    return g.Concat(*pieces, axis=0) if len(pieces) > 1 else pieces[0]
