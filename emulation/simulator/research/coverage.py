"""Averages a layer over devices that each hold a part of it: element by element, over those that hold it.

    server:   u_k = mean over the devices that cover element k; unchanged where none does

`lamina.emulation.simulator.research.width` says which elements a narrow device covers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lamina.coordinator.folds.aggregate import Aggregate
from lamina.coordinator.folds.mean import LayerFold
from lamina.emulation.simulator.rows import Row, Rows
from lamina.models.spec import LayerSpec


class CoverageFold:
    """One layer's aggregation over devices that each cover a part of it.

    Args:
        layer: of the whole network.
    """

    def __init__(self, layer: LayerSpec) -> None:
        self._fold = LayerFold(layer.vector_size, layer.size)
        self._weights = np.zeros(layer.vector_size)

    def add_all(
        self, devices: Sequence[str], local: Rows, base: Row, weights: Sequence[float], covered: NDArray[np.bool_]
    ) -> tuple[str, ...]:
        """Fold devices that cover the same elements; elsewhere their values are still those of ``base``.

        Args:
            devices: whose they are.
            local: their values of the layer, (devices, vector_size).
            base: its global value, (vector_size,).
            weights: one a device.
            covered: which elements they cover, (vector_size,).

        Returns:
            the devices that are left out, as `LayerFold.add_all` says.
        """
        refused = self._fold.add_all(devices, local, base, weights)
        taken = (weight for device, weight in zip(devices, weights, strict=True) if device not in refused)
        self._weights[covered] += math.fsum(taken)
        return refused

    def finish(self, base: Row) -> Aggregate:
        """The layer's next value; its discrepancy isn't asked for, and is 0."""
        total, covered = self._fold.weighted_sum(), self._weights > 0
        value = base.copy()
        value[covered] = base[covered] + total[covered] / self._weights[covered]  # in float64, rounded once
        return Aggregate(value, 0.0, float(self._weights.max(initial=0.0)), self._fold.devices)
