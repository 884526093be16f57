"""The optimisers that a training graph may have, by name; one file each kind."""

from __future__ import annotations

from lamina.models.errors import ModelError, did_you_mean
from lamina.models.graph.optimisers.adam import ADAM, ADAMW
from lamina.models.graph.optimisers.base import Moved, Optimiser, TrainedTensor
from lamina.models.graph.optimisers.pulls import Recipe
from lamina.models.graph.optimisers.sgd import NESTEROV, SGD

__all__ = ["OPTIMISERS", "Moved", "Optimiser", "Recipe", "TrainedTensor", "optimiser_named"]

OPTIMISERS = {"sgd": SGD, "nesterov": NESTEROV, "adam": ADAM, "adamw": ADAMW}


def optimiser_named(name: str) -> Optimiser:
    """The optimiser of that name.

    Raises:
        ModelError: there is none.
    """
    if name not in OPTIMISERS:
        raise ModelError(f"there is no optimiser {name!r}; {did_you_mean(name, OPTIMISERS)}")
    return OPTIMISERS[name]
