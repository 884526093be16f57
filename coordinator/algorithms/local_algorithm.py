"""A local algorithm says what devices do beside plain local steps, and what their average then leads to.

It is two pure functions: `plan` gives what a round's plan asks of devices, in general terms, and `average` turns the
fold of what they sent into the layer's average. Vectors that cross the wire beside the model's are named in `further`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lamina.broker.wire.local_work import LocalWork
from lamina.coordinator.folds.fold import Aggregate
from lamina.models.arrays import Vector


@dataclass(frozen=True, slots=True)
class Cohort:
    """Who trains in a round, and how.

    Attributes:
        examples: samples of each device.
        local_steps: tau'.
        lr: learning rate of the round.
        momentum: of the devices' SGD.
        phi: the rounds that a relaxed layer's delta spans.
    """

    examples: Mapping[str, int]
    local_steps: int
    lr: float
    momentum: float
    phi: int


@dataclass(frozen=True, slots=True)
class LayerFacts:
    """What is known of an aggregated layer.

    Attributes:
        size: its parameters, which come first in its vector.
        further: where its further vectors begin in its vector.
        population: devices that could train it, active or not.
    """

    size: int
    further: int
    population: int


@dataclass(frozen=True, slots=True)
class LocalAlgorithm:
    """An algorithm by its name, as ``aggregation.algorithm`` gives it.

    Attributes:
        name: of the algorithm.
        plan: what devices do beside their local steps.
        average: the layer's average, from its fold and the value (vector_size,) that the updates started at.
        further: names of the vectors that each layer's value and update have beside the model's.
        sgd_only: whether it holds for devices that train by SGD, with or without momentum, and for no others.
    """

    name: str
    plan: Callable[[Cohort], LocalWork]
    average: Callable[[Aggregate, Vector, LayerFacts], Vector]
    further: tuple[str, ...] = ()
    sgd_only: bool = True
