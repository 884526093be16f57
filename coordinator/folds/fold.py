"""The interface of an aggregation rule: it takes updates of one layer, in any order, and ends in one new value."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lamina.broker.wire.foldable import Delta
from lamina.broker.wire.partials import Partial
from lamina.coordinator.folds.exact import LARGEST_TERM
from lamina.models.arrays import Vector
from lamina.models.errors import RejectedUpdate

Vectors = NDArray[np.float32]
"""Vectors of many devices, (devices, vector_size)."""

_BLOCK = 1 << 16  # elements whose squares stand in memory at once

LARGEST_WEIGHT = 2.0**29
"""Above any device's number of examples. A whole weight up to here times a float32 is exact in float64."""


Norms = tuple[float, float]
"""Of an update: of its parameters, and of its statistics, which may be larger by orders of magnitude."""

UNLIMITED: Norms = (math.inf, math.inf)


@dataclass(frozen=True, slots=True, eq=False)
class Aggregate:
    """What a layer became in one aggregation.

    Attributes:
        value: the new global value u, float32, shape (vector_size,).
        discrepancy_numerator: sum_i w_i ||u - x_i||^2 over the layer's parameters (statistics stay out), with
            sum w_i = 1; the discrepancy d_l is this over ``tau_l * dim_l``.
        weight: sum of the weights as they were given, before normalisation.
        devices: whose updates are in it, ascending.
        norms: medians of the updates' norms, of their parameters and of their statistics; 0.0 where none is known.
        weights: with which each of them was folded, where the algorithm asks for it.
        scalars: by name, what each update said of itself, where the algorithm asks for it.
    """

    value: Vector
    discrepancy_numerator: float
    weight: float
    devices: tuple[str, ...]
    norms: Norms = (0.0, 0.0)
    weights: tuple[float, ...] = ()
    scalars: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


class Fold(Protocol):
    """One layer's aggregation in progress. ``add`` in any order; the same updates give the same bits."""

    @property
    def count(self) -> int:
        """Updates added."""

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices whose updates were added, ascending."""

    def add(self, device: str, delta: Delta, weight: float) -> None:
        """Add one device's delta, float32 of shape (vector_size,), or leave everything as it was.

        It comes as a vector, or still as its codec has it.

        Raises:
            RejectedUpdate: ``duplicate``, ``not_finite``, ``out_of_bounds`` or ``norm``.
            ValueError: the delta's shape or type isn't the layer's.
        """

    def join(self, partial: Partial) -> None:
        """Add what a fold elsewhere collected, or leave everything as it was.

        Raises:
            RejectedUpdate: ``duplicate``, ``out_of_bounds``, ``norm``, or ``collects``: the rule needs each update by
                itself.
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


class FoldRule(Protocol):
    """Begins a fold for a layer."""

    def __call__(self, vector_size: int, size: int, *, most: Norms = UNLIMITED) -> Fold:
        """An empty fold of a layer of so many elements with its statistics, and without them.

        ``most`` are the largest norms that an update may have; one that has larger ones is refused.
        """


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


def norms_of(delta: Delta, size: int) -> Norms:
    """The norms of an update's parameters, which are its first ``size`` elements, and of its statistics."""
    squares = [0.0, 0.0]
    for first, last, part in ((0, size, 0), (size, delta.size, 1)):
        for start in range(first, last, _BLOCK):
            squares[part] += float(np.square(delta[start : min(start + _BLOCK, last)], dtype=np.float64).sum())
    return math.sqrt(squares[0]), math.sqrt(squares[1])


def check_norms(norms: Norms, most: Norms, whose: str) -> None:
    """Refuse an update whose numbers are far larger than its layer's updates are.

    Raises:
        RejectedUpdate: ``norm``.
    """
    for norm, bound, what in zip(norms, most, ("parameters", "statistics"), strict=True):
        if norm > bound:
            raise RejectedUpdate(
                "norm", f"{whose}: its {what} have the norm {norm:.3g}, of at most {bound:.3g} (aggregation.norm_bound)"
            )


def medians(parameters: Iterable[float], statistics: Iterable[float]) -> Norms:
    """The median of some updates' norms, each; 0.0 where there are none."""
    first, second = list(parameters), list(statistics)
    return (median(first) if first else 0.0), (median(second) if second else 0.0)


class LayerUpdates:
    """What every fold knows of its layer, and of those whose updates were added.

    Attributes:
        vector_size: length of the layer's value, statistics included.
        size: its parameters, which come first.
        most: the largest norms that an update may have.
    """

    def __init__(self, vector_size: int, size: int, most: Norms = UNLIMITED) -> None:
        if not 0 <= size <= vector_size:
            raise ValueError(f"a layer of {vector_size} elements can't have {size} parameters")
        self.vector_size, self.size, self.most = vector_size, size, most
        self._weights: dict[str, float] = {}  # w_i by device

    @property
    def count(self) -> int:
        """Updates added."""
        return len(self._weights)

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices whose updates were added, ascending."""
        return tuple(sorted(self._weights))

    def check_new(self, device: str, delta: Delta) -> None:
        """See that a delta is the layer's, and its device's first.

        Raises:
            RejectedUpdate: ``duplicate``.
            ValueError: the delta's shape or type isn't the layer's.
        """
        check_delta(delta, self.vector_size, f"the delta of {device}")
        if device in self._weights:
            raise RejectedUpdate("duplicate", f"{device} is folded already")
