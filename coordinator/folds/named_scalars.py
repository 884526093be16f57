"""What updates say of themselves beside their numbers, kept beside the folds of a round, by layer and device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from lamina.broker.wire.local_work import GRADIENT_WEIGHT, LocalWork
from lamina.broker.wire.partials import Partial
from lamina.coordinator.folds.fold import Aggregate
from lamina.models.errors import RejectedUpdate


class NamedScalars:
    """The scalars of a round's updates, and the weights that follow from them. It is empty where a plan asks for none.

    Args:
        work: what the plan asks for.
    """

    def __init__(self, work: LocalWork) -> None:
        self._work = work
        self._kept: dict[int, dict[str, tuple[float, dict[str, float]]]] = {}  # by layer and device

    def weight(self, device: str, weight: float, scalars: Mapping[str, float]) -> float:
        """The weight to fold an update with.

        Raises:
            RejectedUpdate: ``scalars``: it lacks one that the plan asks for, has another, or one is not possible.
        """
        if set(scalars) != set(self._work.scalars):
            raise RejectedUpdate("scalars", f"{device} sent {sorted(scalars)}, the plan asks for {self._work.scalars}")
        if not self._work.reference:
            return weight
        given = scalars[GRADIENT_WEIGHT]
        if given <= 0:
            raise RejectedUpdate(
                "scalars", f"{device} sent a gradient_weight of {given}, where steps lead to positive ones"
            )
        return max(1.0, weight * self._work.reference / given)

    def keep(self, layer: int, device: str, weight: float, scalars: Mapping[str, float]) -> None:
        """An update was folded with this weight."""
        if self._work.scalars:
            self._kept.setdefault(layer, {})[device] = weight, dict(scalars)

    def check(self, partial: Partial) -> None:
        """See that a partial has the scalars that the plan asks for, and no others.

        Raises:
            RejectedUpdate: ``scalars``.
        """
        if set(partial.scalars) != set(self._work.scalars):
            raise RejectedUpdate("scalars", f"a partial with {len(partial.scalars)} scalars, not those of the plan")

    def claimed(self, index: int, partial: Partial) -> float:
        """The weight that a device of a partial gave its update, before `weight` turned it into the fold's."""
        weight = partial.weights[index]
        if not self._work.reference:
            return weight
        return float(f"{weight * partial.scalars[GRADIENT_WEIGHT][index] / self._work.reference:.9g}")  # as it was

    def keep_all(self, layer: int, partial: Partial) -> None:
        """A partial was folded."""
        for index, (device, weight) in enumerate(zip(partial.devices, partial.weights, strict=True)):
            self.keep(layer, device, weight, {name: values[index] for name, values in partial.scalars.items()})

    def of_partial(self, layer: int, partial: Partial) -> Partial:
        """The partial of a layer with the scalars of its devices."""
        return replace(partial, scalars=self._by_name(layer, partial.devices)) if self._work.scalars else partial

    def of_aggregate(self, layer: int, aggregate: Aggregate) -> Aggregate:
        """The aggregate of a layer with weights and scalars."""
        if not self._work.scalars:
            return aggregate
        weights = tuple(self._kept[layer][device][0] for device in aggregate.devices)
        return replace(aggregate, weights=weights, scalars=self._by_name(layer, aggregate.devices))

    def _by_name(self, layer: int, devices: tuple[str, ...]) -> dict[str, tuple[float, ...]]:
        kept = self._kept[layer]
        return {name: tuple(kept[device][1][name] for device in devices) for name in self._work.scalars}
