"""An interval rule says, at the end of each cycle, how often each layer is aggregated in the next one.

It is a pure function from a `CycleEnd` to an `Adjustment`. The random draws of a rule follow from seed and cycle.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CycleEnd:
    """What is known when a cycle ends.

    Attributes:
        cycle: the one that ends, 0-based.
        seed: of the federation.
        intervals: tau_l of every layer in the cycle that ends, in local steps.
        discrepancy: d_l of every layer.
        sizes: dim_l of every layer.
        local_steps: tau'.
        phi: a relaxed layer's interval is ``phi * local_steps``.
        relaxable: layers that may be relaxed; ``None``: all.
        accelerate: see ``aggregation.accelerate``.
    """

    cycle: int
    seed: int
    intervals: tuple[int, ...]
    discrepancy: tuple[float, ...]
    sizes: tuple[int, ...]
    local_steps: int
    phi: int
    relaxable: tuple[int, ...] | None = None
    accelerate: bool = False

    @property
    def candidates(self) -> Sequence[int]:
        """Layers that may be relaxed, ascending."""
        return range(len(self.sizes)) if self.relaxable is None else sorted(self.relaxable)

    def relaxed(self, intervals: Sequence[int]) -> list[int]:
        """The candidates that these intervals relax, ascending."""
        return [layer for layer in self.candidates if intervals[layer] > self.local_steps]


@dataclass(frozen=True, slots=True)
class Adjustment:
    """The intervals for the next cycle, and the curves that they come from.

    Attributes:
        intervals: tau_l of every layer, in local steps.
        order: the layers that were visited, in that order.
        d_curve: D after each layer of ``order``, to its end, beyond the crossing too.
        s_curve: S after each layer of ``order``.
        crossing: how many layers of ``order``, from its start, were relaxed; or, accelerating, kept at tau'.
    """

    intervals: tuple[int, ...]
    order: tuple[int, ...]
    d_curve: tuple[float, ...]
    s_curve: tuple[float, ...]
    crossing: int


@dataclass(frozen=True, slots=True)
class IntervalRule:
    """A rule by its name, as ``aggregation.intervals`` gives it."""

    name: str
    adjust: Callable[[CycleEnd], Adjustment]


def discrepancy(numerator: float, tau: int, dim: int) -> float:
    """d_l = sum_i w_i ||u - x_i||^2 / (tau_l dim_l): how far devices drift apart, a step and a parameter.

    Args:
        numerator: `Aggregate.discrepancy_numerator`.
        tau: tau_l, the local steps since the layer was last aggregated.
        dim: dim_l, the layer's parameters.
    """
    if tau < 1 or dim < 1:
        raise ValueError(f"an interval of {tau} steps and {dim} parameters: both must be at least 1")
    return numerator / (tau * dim)
