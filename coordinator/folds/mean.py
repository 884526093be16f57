"""Averages a layer while its updates stream in: a weighted mean, folded in place, with the same bits in any order.

With deltas delta_i = x_i - u_old, weights w_i and W = sum w_i, it ends in

    u = u_old + (sum_i w_i delta_i) / W
    sum_i w_i/W ||u - x_i||^2 = (sum_i w_i ||delta_i||^2) / W - ||(sum_i w_i delta_i) / W||^2

The second line is a layer's discrepancy (arXiv 2110.10302, before its division by tau_l dim_l); it needs neither the
updates again nor any traffic. Vector sums are exact on a grid (`folds.exact` states the bound), scalar sums are
rounded once (`math.fsum`), so neither the order of arrival nor a merge of partial folds shows in the result.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from lamina.broker.wire.foldable import Delta
from lamina.broker.wire.partials import Partial
from lamina.coordinator.folds.exact import MOST_TERMS, Doubles, ExactSum
from lamina.coordinator.folds.fold import (
    LARGEST_WEIGHT,
    UNLIMITED,
    Aggregate,
    LayerUpdates,
    Norms,
    Vectors,
    check_norms,
    check_terms,
    check_vector,
    check_weight,
    medians,
    norms_of,
)
from lamina.models.arrays import Vector
from lamina.models.errors import RejectedUpdate


class LayerFold(LayerUpdates):
    """The weighted mean of one layer's updates.

    Memory: 8 bytes an element whatever the number of devices (16 where deltas are huge), and a name and three scalars a
    device.

    Attributes:
        vector_size: length of the layer's value, statistics included.
        size: its parameters, which come first; the discrepancy is taken over these.
        most: the largest norms that an update may have.
    """

    def __init__(self, vector_size: int, size: int, *, most: Norms = UNLIMITED) -> None:
        super().__init__(vector_size, size, most)
        self._sum = ExactSum(vector_size)  # sum_i w_i delta_i
        self._moments: dict[str, float] = {}  # w_i ||delta_i||^2
        self._statistics_norms: dict[str, float] = {}  # of updates that came by themselves

    def add(self, device: str, delta: Delta, weight: float) -> None:
        """Fold one device's delta, float32 of shape (vector_size,), or leave everything as it was.

        Args:
            device: whose it is; a second one of the same device is refused.
            delta: local value minus base value.
            weight: from 1 to 2^29; 1.0 for all, or the device's number of examples.

        Raises:
            RejectedUpdate: ``duplicate``, ``not_finite``, ``out_of_bounds`` or ``norm``.
            ValueError: the delta's shape or type isn't the layer's.
        """
        self.check_new(device, delta)
        if self.count == MOST_TERMS:
            raise RejectedUpdate("out_of_bounds", f"a fold takes {MOST_TERMS} updates at most")
        check_weight(weight)
        most = weight * self.most[0], weight * self.most[1]
        squares = self._sum.add_within(delta, weight, self.size, most)  # ||w delta||^2, parameters and statistics
        if squares is None:
            check_terms(delta[:], weight)
            norms = norms_of(delta, self.size)
            check_norms(norms, self.most, device)
            squares = self._sum.add_far(delta, weight, self.size), (weight * norms[1]) ** 2
        self._moments[device] = squares[0] / weight
        self._weights[device] = weight
        if self.size < self.vector_size:
            self._statistics_norms[device] = math.sqrt(squares[1]) / weight

    def add_all(
        self, devices: Sequence[str], local: Vectors, base: Vector, weights: Sequence[float]
    ) -> tuple[str, ...]:
        """Fold many devices at once: the same bits as `add` of each with its delta.

        For a server that holds the local values of a whole cohort, such as a simulator.

        Args:
            devices: whose they are.
            local: their values, float32 (devices, vector_size); the delta of device i is ``local[i] - base``.
            base: the value that they started at, float32 (vector_size,).
            weights: one a device, as in `add`.

        Returns:
            the devices that `add` refuses; they are left out.

        Raises:
            ValueError: shapes or types aren't the layer's.
        """
        check_vector(base, self.vector_size, "the base")
        if local.shape != (len(devices), self.vector_size) or local.dtype != np.float32:
            raise ValueError(f"the local values are {local.dtype} {local.shape}, for {len(devices)} devices")
        refused, squares = [], self._added_together(devices, local, base, np.array(weights, np.float64))
        for index, (device, weight, square) in enumerate(zip(devices, weights, squares.tolist(), strict=True)):
            if not math.isnan(square):
                self._moments[device], self._weights[device] = square / weight, weight
            elif not self._takes(device, local[index], base, weight):
                refused.append(device)
        return tuple(refused)

    def weighted_sum(self) -> Doubles:
        """sum_i w_i delta_i, (vector_size,), each element rounded to float64 once."""
        return self._sum.value(0, self.vector_size)

    def merge(self, other: LayerFold) -> None:
        """Add what another fold of the same layer and base collected: the same bits as one flat fold.

        Raises:
            RejectedUpdate: ``duplicate`` (a device is in both) or ``out_of_bounds`` (too many updates together).
            ValueError: the other fold is of another layer.
        """
        if (self.vector_size, self.size) != (other.vector_size, other.size):
            raise ValueError(f"a fold of {other.vector_size} elements can't join one of {self.vector_size}")
        self._take_in(other._sum, other._weights, other._moments)

    def join(self, partial: Partial) -> None:
        """Add what a fold elsewhere collected, or leave everything as it was: the same bits as one flat fold.

        Raises:
            RejectedUpdate: ``duplicate`` (a device is in both), ``out_of_bounds`` or ``norm``.
            ValueError: it is of a layer of another length.
        """
        if partial.near.shape != (self.vector_size,):
            raise ValueError(f"a partial of {partial.near.size} elements can't join a fold of {self.vector_size}")
        for device, weight, moment in zip(partial.devices, partial.weights, partial.moments, strict=True):
            check_weight(weight)
            check_norms((math.sqrt(moment / weight), 0.0), self.most, device)
        try:
            sum_ = ExactSum.of_words(partial.near, partial.far)
        except ValueError as error:
            raise RejectedUpdate("out_of_bounds", str(error)) from error
        devices = partial.devices
        self._take_in(
            sum_,
            dict(zip(devices, partial.weights, strict=True)),
            dict(zip(devices, partial.moments, strict=True)),
        )

    def partial(self) -> Partial:
        """What was collected, to be joined to a fold elsewhere. The fold stays as it is, and may go on."""
        near, far = self._sum.words()
        devices = self.devices
        return Partial(
            devices=devices,
            weights=tuple(self._weights[device] for device in devices),
            moments=tuple(self._moments[device] for device in devices),
            near=near.copy(),
            far=None if far is None else far.copy(),
        )

    def finish(self, base: Vector) -> Aggregate:
        """The layer's next value. The fold stays as it is, and may go on.

        Raises:
            ValueError: nothing was folded, or ``base`` isn't float32 of shape (vector_size,).
        """
        check_vector(base, self.vector_size, "the base")
        if not self.count:
            raise ValueError("nothing was folded: the layer keeps its value")
        weight = math.fsum(self._weights.values())
        value, square = self._sum.mean_from(base, weight, self.size)
        # Both moments round, so devices that agree may end a hair below zero.
        numerator = max(0.0, math.fsum(self._moments.values()) / weight - square)
        return Aggregate(value, numerator, weight, self.devices, self._norms)

    @property
    def _norms(self) -> Norms:
        of_parameters = (math.sqrt(moment / self._weights[device]) for device, moment in self._moments.items())
        return medians(of_parameters, self._statistics_norms.values())

    def _added_together(self, devices: Sequence[str], local: Vectors, base: Vector, weights: Doubles) -> Doubles:
        """||w delta||^2 of every device that is now in the sum; NaN of those that are to be looked at one by one."""
        names = set(devices)
        ordinary = len(names) == len(devices) and not names & self._weights.keys()
        if not (ordinary and self.count + len(names) <= MOST_TERMS and _in_bounds(weights)):
            return np.full(len(devices), np.nan)
        return self._sum.add_rows(local, base, weights, self.size)

    def _takes(self, device: str, local: Vector, base: Vector, weight: float) -> bool:
        """`add`, and whether it did."""
        with np.errstate(invalid="ignore", over="ignore"):
            delta = local - base
        try:
            self.add(device, delta, weight)
        except RejectedUpdate:
            return False
        return True

    def _take_in(self, sum_: ExactSum, weights: dict[str, float], moments: dict[str, float]) -> None:
        if both := self._weights.keys() & weights.keys():
            raise RejectedUpdate("duplicate", f"{min(both)} is in both folds")
        if self.count + len(weights) > MOST_TERMS:
            raise RejectedUpdate("out_of_bounds", f"a fold takes {MOST_TERMS} updates at most")
        self._sum.merge(sum_)
        self._weights |= weights
        self._moments |= moments


def _in_bounds(weights: Doubles) -> bool:
    return bool(np.all((weights >= 1.0) & (weights <= LARGEST_WEIGHT)))  # NaN is not
