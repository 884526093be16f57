"""What does an aggregation rule promise? It takes updates of one layer, in any order, and ends in one new value."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lamina.broker.wire.foldable import Delta
from lamina.broker.wire.partials import Partial
from lamina.coordinator.folds.exact import LARGEST_TERM
from lamina.models.errors import RejectedUpdate

Vector = NDArray[np.float32]
"""A layer's value or delta as it crosses the wire: its parameters, then its statistics."""

Vectors = NDArray[np.float32]
"""Vectors of many devices, (devices, vector_size)."""

LARGEST_WEIGHT = 2.0**29
"""Above any device's number of examples. A whole weight up to here times a float32 is exact in float64."""


@dataclass(frozen=True, slots=True, eq=False)
class Aggregate:
    """What a layer became in one aggregation.

    Attributes:
        value: the new global value u, float32, shape (vector_size,).
        discrepancy_numerator: sum_i w_i ||u - x_i||^2 over the layer's parameters (statistics stay out), with
            sum w_i = 1; FedLAMA's d_l is this over ``tau_l * dim_l``.
        weight: sum of the weights as they were given, before normalisation.
        devices: whose updates are in it, ascending.
        weights: with which each of them was folded, where the algorithm asks for it.
        scalars: by name, what each update said of itself, where the algorithm asks for it.
    """

    value: Vector
    discrepancy_numerator: float
    weight: float
    devices: tuple[str, ...]
    weights: tuple[float, ...] = ()
    scalars: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


class Fold(Protocol):
    """One layer's aggregation in progress. ``add`` in any order; the same updates give the same bits."""

    @property
    def count(self) -> int:
        """Updates added."""

    @property
    def devices(self) -> tuple[str, ...]:
        """Whose updates were added, ascending."""

    def add(self, device: str, delta: Delta, weight: float) -> None:
        """Add one device's delta, float32 of shape (vector_size,), or leave everything as it was.

        It comes as a vector, or still as its codec has it.

        Raises:
            RejectedUpdate: ``duplicate``, ``not_finite`` or ``out_of_bounds``.
            ValueError: the delta's shape or type isn't the layer's.
        """

    def join(self, partial: Partial) -> None:
        """Add what a fold elsewhere collected, or leave everything as it was.

        Raises:
            RejectedUpdate: ``duplicate``, ``out_of_bounds``, or ``collects``: the rule needs each update by itself.
            ValueError: it is of a layer of another length.
        """

    def partial(self) -> Partial:
        """What was collected, to be joined to a fold elsewhere.

        Raises:
            RejectedUpdate: ``collects``: the rule needs each update by itself.
        """

    def finish(self, base: Vector) -> Aggregate:
        """The layer's next value, from the global value ``base``, float32 (vector_size,), that deltas start at.

        Raises:
            ValueError: nothing was added, or ``base`` is of another shape.
        """


FoldRule = Callable[[int, int], Fold]
"""Begins a fold for a layer: ``rule(vector_size, size)``, lengths with and without the statistics."""


def check_vector(vector: Vector, vector_size: int, what: str) -> None:
    """Raise ValueError unless ``vector`` is float32 of shape (vector_size,)."""
    if vector.shape != (vector_size,) or vector.dtype != np.float32:
        raise ValueError(f"{what} is {vector.dtype} {vector.shape}, and must be float32 ({vector_size},)")


def check_delta(delta: Delta, vector_size: int, what: str) -> None:
    """Raise ValueError unless ``delta`` is float32 of shape (vector_size,), or would be if it were decoded."""
    if isinstance(delta, np.ndarray):
        check_vector(delta, vector_size, what)
    elif delta.size != vector_size:
        raise ValueError(f"{what} has {delta.size} elements, and must have {vector_size}")


def check_weight(weight: float) -> None:
    """Refuse a weight that isn't finite, or out of bounds.

    Raises:
        RejectedUpdate: ``not_finite`` or ``out_of_bounds``.
    """
    if not math.isfinite(weight):
        raise RejectedUpdate("not_finite", f"weight {weight}")
    if not 1.0 <= weight <= LARGEST_WEIGHT:
        raise RejectedUpdate("out_of_bounds", f"weight {weight} lies outside 1 to {LARGEST_WEIGHT:.0f}")


def check_terms(delta: Vector, weight: float) -> None:
    """Refuse a delta that isn't finite, or too large to be folded exactly with its weight.

    Raises:
        RejectedUpdate: ``not_finite`` or ``out_of_bounds``.
    """
    # Two passes without a temporary see every element: NaN survives min and max.
    low, high = float(delta.min(initial=0.0)), float(delta.max(initial=0.0))
    if not all(map(math.isfinite, (low, high))):
        raise RejectedUpdate("not_finite", f"elements from {low} to {high}")
    if weight * max(-low, high) > LARGEST_TERM:
        raise RejectedUpdate("out_of_bounds", f"weight {weight} times elements from {low} to {high}: too large")
