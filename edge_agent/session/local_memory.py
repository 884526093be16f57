"""What a device remembers for an algorithm that corrects its gradients, or weighs its steps.

The coordinator's plan says in general terms what a device does (`LocalWork`); no algorithm is known here by name. With
D the layer's further vector that the coordinator sends, O the control vector that the device keeps, and Delta what the
steps since the last aggregation made of the layer:

    gradient    g + shared D + own O                          in every step
    weight      Delta = -weight * (mean gradient)             of SGD with momentum: the sum of lr v, v = beta v + 1
    afterwards  O' = O + own_from_shared D + own_from_gradient (mean gradient)

An update carries O' - O behind Delta. O becomes O' when the next plan shows that the update was folded; else it stays.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lamina.broker.wire.local_work import GRADIENT_WEIGHT, Control
from lamina.models.arrays import Vector


@dataclass(frozen=True, slots=True, eq=False)
class _Pending:
    """A control vector that holds once the update against this version is folded."""

    version: int
    own: Vector


class LocalMemory:
    """One device's memory, by layer. It is empty, and costs nothing, where no algorithm asks for it."""

    def __init__(self) -> None:
        self._own: dict[int, Vector] = {}
        self._pending: dict[int, _Pending] = {}
        self._velocity = 0.0  # v: the weight of a step's gradient in the momentum that follows it
        self._total = 0.0  # sum of lr v over all steps
        self._pushed: Vector | None = None  # momentum of the corrections, over all trained parameters
        self._starts: dict[int, float] = {}  # the total when the layer last started from its global value

    def settle(self, versions: Sequence[int], unfolded: Collection[int] = ()) -> None:
        """Learn from a plan which updates were folded: their layers' versions moved, and it does not name them."""
        for layer, pending in self._pending.items():
            if versions[layer] > pending.version and layer not in unfolded:
                self._own[layer] = pending.own
        self._pending.clear()

    def begin(self, reset: Iterable[int], afresh: bool) -> None:
        """A round's steps begin; these layers start from their global value, and ``afresh`` without momentum."""
        if afresh:
            self._velocity, self._total, self._pushed = 0.0, 0.0, None
            self._starts.clear()
        for layer in reset:
            self._starts[layer] = self._total

    def stepped(self, lr: float, momentum: float) -> None:
        """A step of SGD was made."""
        self._velocity = momentum * self._velocity + 1.0
        self._total += lr * self._velocity

    def weight(self, layer: int) -> float:
        """The factor by which the mean gradient was multiplied in the layer's delta."""
        return self._total - self._starts.get(layer, 0.0)

    def scalars(self, layer: int, names: Iterable[str]) -> tuple[tuple[str, float], ...]:
        """What an update of the layer says of itself, by name."""
        known = {GRADIENT_WEIGHT: self.weight}
        return tuple((name, known[name](layer)) for name in names)

    def shift(self, layer: int, shared: Vector, control: Control) -> Vector:
        """What is added to the gradient of the layer's parameters, (size,)."""
        return np.float32(control.shared) * shared + np.float32(control.own) * self._of(layer, shared.size)

    def pushed(self, shift: Vector, momentum: float) -> Vector:
        """The momentum of a correction that was added to every gradient so far, this step's included."""
        self._pushed = shift.copy() if self._pushed is None else np.float32(momentum) * self._pushed + shift
        return self._pushed

    def change(self, layer: int, version: int, delta: Vector, shared: Vector, control: Control) -> Vector:
        """O' - O of a layer whose parameters moved by ``delta`` (size,); the same call again gives the same."""
        weight = self.weight(layer)
        mean = delta / np.float32(-weight) if weight else np.zeros_like(delta)
        change = np.float32(control.own_from_shared) * shared + np.float32(control.own_from_gradient) * mean
        self._pending[layer] = _Pending(version, self._of(layer, shared.size) + change)
        return change

    def vectors(
        self, layers: Sequence[int], due: Collection[int], sizes: Sequence[int], *, corrects: bool
    ) -> dict[str, Vector]:
        """What is to be saved when a round's updates are out, by name: of these layers, some of which were due.

        The names follow from the arguments alone. Where gradients are not corrected, that is a number a layer.
        """
        saved = {"control.velocity": _pair(self._velocity)}
        for layer in layers:
            saved[f"control.weight.{layer}"] = _pair(self.weight(layer))
            if corrects:
                own, pending = self._of(layer, sizes[layer]), self._pending.get(layer)
                saved[f"control.own.{layer}"] = own.copy()
                if layer in due:
                    saved[f"control.pending.{layer}"] = own.copy() if pending is None else pending.own
        if corrects:
            total = sum(sizes[layer] for layer in layers)
            saved["control.pushed"] = np.zeros(total, np.float32) if self._pushed is None else self._pushed
        return saved

    def restore(self, saved: Mapping[str, Vector], versions: Sequence[int]) -> None:
        """Go on from what `vectors` gave after a round that was based on these versions."""
        self.__init__()  # type: ignore[misc] # everything anew
        self._velocity = _number(saved["control.velocity"])
        self._pushed = saved.get("control.pushed")
        for name, vector in saved.items():
            kind, _, number = name.removeprefix("control.").partition(".")
            if kind == "own":
                self._own[int(number)] = vector
            elif kind == "weight":
                self._starts[int(number)] = -_number(vector)
            elif kind == "pending":
                self._pending[int(number)] = _Pending(versions[int(number)], vector)

    def _of(self, layer: int, size: int) -> Vector:
        return self._own.get(layer, np.zeros(size, np.float32))


def _pair(number: float) -> Vector:
    """A number as two of float32, which together are as good as it is."""
    return np.array([number, number - float(np.float32(number))], np.float32)


def _number(pair: Vector) -> float:
    return float(pair[0]) + float(pair[1])
