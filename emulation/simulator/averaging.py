"""Averages a layer of the cohort by the coordinator's own folds, over rows that lie at hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lamina.coordinator.algorithms.embracing import trainers
from lamina.coordinator.folds.aggregate import Aggregate, Fold, rule
from lamina.coordinator.folds.mean import LayerFold
from lamina.emulation.simulator.corrections import Corrections
from lamina.emulation.simulator.research.coverage import CoverageFold
from lamina.emulation.simulator.rows import Row, Rows, layer_offsets
from lamina.emulation.simulator.run_context import RunContext
from lamina.emulation.simulator.simulated_wire import SimulatedWire
from lamina.models.errors import RejectedUpdate


@dataclass(frozen=True, eq=False)
class Averaged:
    """One layer of one round.

    Attributes:
        aggregate: ``None`` where no device trains the layer, or every update was refused: its value stays.
        expected: devices that were to deliver.
        refused: of these, whose numbers could not be used.
        elements: of the layer that were delivered, over all devices.
    """

    aggregate: Aggregate | None
    expected: int
    refused: int
    elements: int


class Averaging:
    """Averages layers of the cohorts of one run.

    Args:
        context: of the run.
        corrections: the algorithm's part of it.
        wire: what updates go through; ``None``: they arrive as they are.
    """

    def __init__(self, context: RunContext, corrections: Corrections, wire: SimulatedWire | None = None) -> None:
        self._context = context
        self._wire, self._corrections = wire, corrections
        self._offsets = layer_offsets(context.spec)
        self._cuts = context.cuts
        self._weights = context.weights
        self._covered = _coverage(context)

    def average(self, layer: int, version: int, slots: Mapping[str, int], rows: Rows, base: Row) -> Averaged:
        """Fold what the cohort holds of one layer.

        Args:
            layer: index of the layer.
            version: of its value.
            slots: row of every active device, ascending without gaps.
            rows: their states, (slots, row_size).
            base: the global state, (row_size,).
        """
        place = slice(self._offsets[layer], self._offsets[layer + 1])
        devices = trainers({device: self._cuts[device] for device in slots}, layer)
        if not devices:
            return Averaged(None, 0, 0, 0)
        local = _chosen(rows, [slots[device] for device in devices])[:, place]
        if self._covered:
            return self._element_wise(layer, devices, local, base[place], place)
        return self._by_rule(layer, version, devices, local, base[place])

    def _by_rule(self, layer: int, version: int, devices: Sequence[str], local: Rows, base: Row) -> Averaged:
        corrections = self._corrections
        spec, weights = corrections.spec.layers[layer], [self._weights[device] for device in devices]
        fold = rule(self._context.setting.aggregation.fold)(spec.vector_size, spec.size)
        if isinstance(fold, LayerFold) and self._wire is None and not corrections.asks:
            fold.add_all(devices, local, base, weights)
        else:
            for device, value, weight in zip(devices, local, weights, strict=True):
                update = corrections.update(layer, device, version, value - base)
                arrived = self._arrived(layer, device, update, weight)
                _offer(fold, device, arrived, corrections.weight(layer, device, weight))
        sent = corrections.base(layer, base)
        aggregate = corrections.aggregate(layer, fold.finish(sent)) if fold.count else None
        return Averaged(aggregate, len(devices), len(devices) - fold.count, fold.count * spec.vector_size)

    def _arrived(self, layer: int, device: str, delta: Row, weight: float) -> Row:
        return delta if self._wire is None else self._wire.update(layer, device, delta, weight)

    def _element_wise(self, layer: int, devices: Sequence[str], local: Rows, base: Row, place: slice) -> Averaged:
        fold = CoverageFold(self._context.spec.layers[layer])
        variants = [self._context.variants[device] for device in devices]
        elements, refused = 0, 0
        for variant in dict.fromkeys(variants):
            mine = [index for index, other in enumerate(variants) if other == variant]
            names = [devices[index] for index in mine]
            covered = self._covered[variant][place]
            out = len(fold.add_all(names, local[mine], base, [self._weights[name] for name in names], covered))
            elements += (len(mine) - out) * int(covered.sum())
            refused += out
        return Averaged(fold.finish(base), len(devices), refused, elements)


def _chosen(rows: Rows, slots: list[int]) -> Rows:
    """These rows; a view where they lie beside each other, as those of one tier do, so that nothing is copied."""
    first, last = slots[0], slots[-1] + 1
    return rows[first:last] if slots == list(range(first, last)) else rows[slots]


def _offer(fold: Fold, device: str, delta: Row, weight: float) -> None:
    """Add an update, or pass over it where its numbers can't be used: a coordinator, too, goes on without it."""
    with suppress(RejectedUpdate):
        fold.add(device, delta, weight)


def _coverage(context: RunContext) -> dict[int, NDArray[np.bool_]]:
    """Which elements of a row each variant covers; nothing where all devices hold the whole row."""
    if not context.covered:
        return {}
    everything = np.ones(len(context.initial), bool)
    return {index: context.covered.get(variant, everything) for index, variant in enumerate(context.common.variants)}
