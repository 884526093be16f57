"""Folds for fleets in which some devices lie, or their sensors fail: no single update moves a layer far.

Use them where devices can't be trusted. Elsewhere `mean` learns more from the same updates, above all where devices'
data differ: a robust fold takes a rare kind of data for a fault.

- `median`, coordinate by coordinate, and `trimmed_mean`, without the largest and the smallest share: Yin et al.,
  "Byzantine-Robust Distributed Learning" (ICML 2018, arXiv 1803.01498). Every device counts the same, whatever weight
  it claims.
- `ClippedMean`: the weighted mean of deltas that were scaled down to a bound on their norm (Sun et al., "Can You Really
  Backdoor Federated Learning?", arXiv 1911.07963); the bound is the median of the norms that came.

All of them collect, because what to leave out shows only when every update is there: 4 bytes an element and device.

The same updates give the same bits in any order. The discrepancy keeps to its definition, sum_i w_i ||u - x_i||^2, with
equal w_i where every device counts the same. It is not robust itself: in the first two, a device that lies can raise
a layer's d_l and so its share of the traffic, though it can't move the layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from lamina.broker.wire.foldable import Delta
from lamina.broker.wire.partials import Partial
from lamina.coordinator.folds.exact import Doubles
from lamina.coordinator.folds.fold import (
    UNLIMITED,
    Aggregate,
    LayerUpdates,
    Norms,
    check_norms,
    check_terms,
    check_vector,
    check_weight,
    medians,
    norms_of,
)
from lamina.coordinator.folds.mean import LayerFold
from lamina.models.arrays import Vector
from lamina.models.errors import RejectedUpdate

_STACK_ELEMENTS = 2**19  # of one block, all devices together: bounds what sorting adds to the memory of the updates


class KeptUpdates(LayerUpdates):
    """Updates of one layer, kept whole.

    Attributes:
        vector_size: length of the layer's value, statistics included.
        size: its parameters, which come first.
    """

    def __init__(self, vector_size: int, size: int, *, most: Norms = UNLIMITED) -> None:
        super().__init__(vector_size, size, most)
        self._norms: dict[str, Norms] = {}
        self._deltas: dict[str, Vector] = {}

    def add(self, device: str, delta: Delta, weight: float) -> None:
        """Keep one device's delta, float32 of shape (vector_size,).

        Raises:
            RejectedUpdate: ``duplicate``, ``not_finite``, ``out_of_bounds`` or ``norm``.
            ValueError: the delta's shape or type isn't the layer's.
        """
        self.check_new(device, delta)
        check_weight(weight)
        check_terms(delta[:], weight)
        norms = norms_of(delta, self.size)
        check_norms(norms, self.most, device)
        self._norms[device] = norms
        self._deltas[device] = delta[:].copy()
        self._weights[device] = weight

    def join(self, partial: Partial) -> None:
        """Refused: a sum does not show what it was made of."""
        raise RejectedUpdate("collects", f"{len(partial.devices)} devices' updates came as their sum")

    def partial(self) -> Partial:
        """Refused: a sum does not show what it was made of."""
        raise RejectedUpdate("collects", f"the updates of {self.count} devices are no sum")

    def _medians(self) -> Norms:
        statistics = [norms[1] for norms in self._norms.values()] if self.size < self.vector_size else []
        return medians([norms[0] for norms in self._norms.values()], statistics)

    def _check(self, base: Vector) -> None:
        check_vector(base, self.vector_size, "the base")
        if not self.count:
            raise ValueError("nothing was folded: the layer keeps its value")


class SortedFold(KeptUpdates):
    """A fold that looks at each coordinate's values in ascending order.

    Attributes:
        centre: from the devices' deltas, float32 (devices, n), ascending in every column, to one delta, (n,).
    """

    def __init__(
        self, vector_size: int, size: int, centre: Callable[[Vector], Doubles], *, most: Norms = UNLIMITED
    ) -> None:
        super().__init__(vector_size, size, most=most)
        self.centre = centre

    def finish(self, base: Vector) -> Aggregate:
        """The layer's next value (ValueError where nothing was added, or ``base`` is of another shape)."""
        self._check(base)
        value = np.empty(self.vector_size, np.float32)
        square_sum = 0.0
        block = max(1, _STACK_ELEMENTS // self.count)
        for start in range(0, self.vector_size, block):
            stop = min(start + block, self.vector_size)
            stack = np.stack([delta[start:stop] for delta in self._deltas.values()])  # (devices, stop - start)
            stack.sort(axis=0)
            centre = self.centre(stack)
            value[start:stop] = base[start:stop] + centre
            square_sum += float(np.square((stack - centre)[:, : max(0, self.size - start)]).sum())
        weight = math.fsum(self._weights.values())
        return Aggregate(value, square_sum / self.count, weight, self.devices, self._medians())


def median(vector_size: int, size: int, *, most: Norms = UNLIMITED) -> SortedFold:
    """The median of each coordinate; of an even number of values, the mean of the middle two."""
    return SortedFold(vector_size, size, lambda ordered: _mean_between(ordered, (len(ordered) - 1) // 2), most=most)


def trimmed_mean(vector_size: int, size: int, share: float = 0.2, *, most: Norms = UNLIMITED) -> SortedFold:
    """The mean of each coordinate without its largest and smallest values.

    Args:
        vector_size: length of the layer's value.
        size: its parameters.
        share: of the devices that are left out at each end (below one half). One device at least is left out at each
            end, if there are three or more.
        most: the largest norms that an update may have.
    """
    if not 0 <= share < 0.5:
        raise ValueError(f"a share of {share} left out at each end leaves nothing: it must lie below one half")

    def centre(ordered: Vector) -> Doubles:
        return _mean_between(ordered, _trimmed(len(ordered), share))

    return SortedFold(vector_size, size, centre, most=most)


class ClippedMean(KeptUpdates):
    """The weighted mean of deltas, none longer than the median of their norms.

    Parameters and statistics are clipped apart: the latter may be larger by orders of magnitude.
    """

    def finish(self, base: Vector) -> Aggregate:
        """The layer's next value (ValueError where nothing was added, or ``base`` is of another shape)."""
        self._check(base)
        fold = LayerFold(self.vector_size, self.size)
        parts = slice(0, self.size), slice(self.size, self.vector_size)
        norms = self._norms
        bounds = np.median(list(norms.values()), axis=0)  # (2,)
        for device, delta in self._deltas.items():
            clipped = delta.copy()
            for part, norm, bound in zip(parts, norms[device], bounds, strict=True):
                if norm > bound:
                    clipped[part] *= np.float32(bound / norm)
            fold.add(device, clipped, self._weights[device])
        return replace(fold.finish(base), norms=self._medians())


def _mean_between(ordered: Vector, left_out: int) -> Doubles:
    """Mean of each column of ``ordered`` (devices, n) without ``left_out`` values at either end."""
    mean: Doubles = ordered[left_out : len(ordered) - left_out].mean(axis=0, dtype=np.float64)  # (n,)
    return mean


def _trimmed(devices: int, share: float) -> int:
    return max(int(share * devices), 1 if devices >= 3 else 0)
