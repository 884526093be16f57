"""What an algorithm has devices do beside their local steps, in general terms: a device knows no algorithm by its name.

So a board that is in the field runs an algorithm that was written after it left.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec


class Control(NamedTuple):
    """How a device corrects its gradients, by a vector D that it is sent and a vector O that it keeps, both by layer.

    Attributes:
        shared: times D is added to every gradient.
        own: times O is added to every gradient.
        own_from_shared: times D is added to O after the steps.
        own_from_gradient: times the mean gradient of the steps is added to O after them.
    """

    shared: float
    own: float
    own_from_shared: float
    own_from_gradient: float


class LocalWork(msgspec.Struct, frozen=True):
    """The fields of a plan that an algorithm gives; they are left out of it where they have the values below.

    Attributes:
        steps: local steps of devices that make another number of them than ``local_steps``.
        scalars: names of what each update says of itself: ``gradient_weight`` is what the mean gradient was multiplied
            by in it.
        reference: an update is folded with its weight times ``reference`` over its ``gradient_weight``; 0: with its
            weight.
        control: four factors (`Control`); empty: gradients are not corrected.
    """

    steps: dict[str, int] = {}
    scalars: tuple[str, ...] = ()
    reference: float = 0.0
    control: tuple[float, ...] = ()

    @property
    def correction(self) -> Control | None:
        """``control`` by its names; ``None`` where there is none."""
        return Control(*self.control) if self.control else None

    @property
    def given(self) -> dict[str, Any]:
        """The fields that a plan has."""
        return {name: value for name in self.__struct_fields__ if (value := getattr(self, name))}

    @property
    def asks(self) -> bool:
        """Whether a device has anything to remember for it."""
        return bool(self.scalars or self.control)

    @property
    def fault(self) -> str:
        """Why a device can't do it; empty if it can."""
        if unknown := sorted(set(self.scalars) - {GRADIENT_WEIGHT}):
            return f"it asks for a scalar that this agent does not know: {unknown[0]!r}"
        if self.control and len(self.control) != len(Control._fields):
            return f"it corrects gradients by {len(self.control)} factors, not {len(Control._fields)}"
        return "it asks a device for no step" if min(self.steps.values(), default=1) < 1 else ""


GRADIENT_WEIGHT = "gradient_weight"
"""Name of a scalar: Delta = -gradient_weight * (mean gradient)."""
