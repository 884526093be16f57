"""What an algorithm adds to a simulated round beside plain local steps; the devices' part is the agents' own.

Every device has a `LocalMemory`, as an agent has, and the algorithm's vectors of the layers, which a coordinator sends
behind their values, are kept here. Where the algorithm asks for nothing, nothing is kept and nothing is computed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from lamina.broker.wire.local_work import LocalWork
from lamina.coordinator.algorithms.local_algorithm import LayerFacts
from lamina.coordinator.folds.fold import Aggregate
from lamina.coordinator.folds.named_scalars import NamedScalars
from lamina.edge_agent.session.local_memory import LocalMemory
from lamina.emulation.simulator.rows import Row, layer_offsets
from lamina.emulation.simulator.run_context import RunContext
from lamina.models.further import with_further

_SHARED = "shared"


class Corrections:
    """The algorithm's part of one run.

    Args:
        context: of the run.
        saved: what `vectors` gave, to go on from; nothing at the beginning.
        versions: of the layers, then.
    """

    def __init__(self, context: RunContext, saved: Mapping[str, Row], versions: Sequence[int]) -> None:
        self.spec, self._layers = with_further(context.spec, context.setting.algorithm.further), context.spec.layers
        self._cuts, self._momentum = context.cuts, context.common.momentum
        self._offsets = layer_offsets(context.spec)
        self._work = LocalWork()
        self._scalars = NamedScalars(self._work)
        self._shared = [np.zeros(self._extra(layer), np.float32) for layer in range(len(self._layers))]
        self._memories = {device: LocalMemory() for device in self._cuts}
        if saved:
            for layer in range(len(self._layers)):
                self._shared[layer] = saved[f"{_SHARED}.{layer}"]
            for device, memory in self._memories.items():
                known = {name.partition("/")[2]: row for name, row in saved.items() if name.startswith(f"{device}/")}
                if known:
                    memory.restore(known, versions)

    @property
    def asks(self) -> bool:
        """Whether the round's algorithm asks for anything."""
        return self._work.asks

    def begin(self, work: LocalWork, cohort: Sequence[str], reset: Sequence[int], afresh: bool) -> None:
        """A round begins, in which devices take the global values of these layers."""
        self._work, self._scalars = work, NamedScalars(work)
        if self.asks:
            for device in cohort:
                self._memories[device].begin(reset, afresh)

    def shift(self, device: str) -> Row | None:
        """What is added to each of the device's gradients, (row_size,)."""
        if (control := self._work.correction) is None:
            return None
        shift = np.zeros(self._offsets[-1], np.float32)
        for layer in range(self._cuts[device], len(self._layers)):
            size, start = self._layers[layer].size, self._offsets[layer]
            own = self._memories[device].shift(layer, self._shared_of(layer), control)
            shift[start : start + size] = own
        return shift

    def stepped(self, device: str, steps: int, lr: float) -> None:
        """A device made its local steps."""
        for _ in range(steps if self.asks else 0):
            self._memories[device].stepped(lr, self._momentum)

    def base(self, layer: int, value: Row) -> Row:
        """A layer's value as it crosses the wire."""
        return np.concatenate([value, self._shared[layer]]) if self._shared[layer].size else value

    def update(self, layer: int, device: str, version: int, delta: Row) -> Row:
        """A device's update as it crosses the wire."""
        if (control := self._work.correction) is None:
            return delta
        memory, size = self._memories[device], self._layers[layer].size
        return np.concatenate([delta, memory.change(layer, version, delta[:size], self._shared_of(layer), control)])

    def weight(self, layer: int, device: str, weight: float) -> float:
        """The weight that a device's update is folded with."""
        scalars = dict(self._memories[device].scalars(layer, self._work.scalars))
        folded = self._scalars.weight(device, weight, scalars)
        self._scalars.keep(layer, device, folded, scalars)
        return folded

    def aggregate(self, layer: int, aggregate: Aggregate) -> Aggregate:
        """A layer's aggregate, with what its updates said of themselves."""
        return self._scalars.of_aggregate(layer, aggregate)

    def facts(self, layer: int) -> LayerFacts:
        """What the algorithm's average is told of a layer."""
        spec = self._layers[layer]
        return LayerFacts(spec.size, spec.vector_size, sum(cut <= layer for cut in self._cuts.values()))

    def move(self, layer: int, value: Row) -> Row:
        """Keep the algorithm's vectors of a layer's next value; the model's part of it."""
        size = self._layers[layer].vector_size
        self._shared[layer] = value[size:].copy()
        return value[:size]

    def settle(self, cohort: Sequence[str], versions: Sequence[int], unfolded: Mapping[str, Sequence[int]]) -> None:
        """A round has ended; the layers of a device in ``unfolded`` had updates that were not folded."""
        if self.asks:
            for device in cohort:
                self._memories[device].settle(versions, unfolded.get(device, ()))

    def vectors(self) -> dict[str, Row]:
        """All that is needed to go on, by name; nothing where no algorithm asks."""
        if not self.asks:
            return {}
        sizes, corrects = [layer.size for layer in self._layers], bool(self._work.control)
        saved = {f"{_SHARED}.{layer}": shared.copy() for layer, shared in enumerate(self._shared)}
        for device, memory in self._memories.items():
            trained = range(self._cuts[device], len(self._layers))
            kept = memory.vectors(trained, (), sizes, corrects=corrects)
            saved |= {f"{device}/{name}": vector.copy() for name, vector in kept.items()}
        return saved

    def _extra(self, layer: int) -> int:
        return self.spec.layers[layer].vector_size - self._layers[layer].vector_size

    def _shared_of(self, layer: int) -> Row:
        size = self._layers[layer].size
        return self._shared[layer][:size] if self._shared[layer].size else np.zeros(size, np.float32)
