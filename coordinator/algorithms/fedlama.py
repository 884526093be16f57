"""FedLAMA averages layers in which devices hardly drift apart less often than the others.

Lee, Zhang and Avestimehr, "Layer-wise Adaptive Model Aggregation for Scalable Federated Learning" (arXiv 2110.10302,
Algorithms 1 and 2). At the end of each cycle of ``phi * tau'`` steps:

    order the layers by d_l ascending; D = S = 0; every tau_l = tau'
    for l in that order:
        D += d_l dim_l / sum(d dim);  S += dim_l / sum(dim)
        tau_l = phi tau'
        stop when 1 - S < D

D is the share of all discrepancy that the relaxed layers hold, S their share of the parameters: with each layer more,
what aggregation still costs, 1 - S, falls, and what is left to drift, D, rises. (The paper prints the comparison as one
of D with S. As D <= S at every point of this order, that would hardly ever stop; its figures show the crossing above.)

Sums and comparisons are exact fractions, so no rounding decides where the curves cross, and D <= S holds to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from fractions import Fraction
from itertools import accumulate

from lamina.coordinator.algorithms.interval_rule import Adjustment, CycleEnd, IntervalRule, discrepancy

__all__ = ["ALGORITHM", "Adjustment", "adjust", "along", "discrepancy"]


def adjust(
    discrepancy: Sequence[float],
    sizes: Sequence[int],
    local_steps: int,
    phi: int,
    *,
    relaxable: Collection[int] | None = None,
    accelerate: bool = False,
) -> Adjustment:
    """The next cycle's intervals, from how far devices drifted apart in the one that ends.

    Where no layer drifted at all, averaging buys nothing, and every layer is relaxed.

    The accelerating variant goes through the layers in descending order and keeps those at tau', up to the crossing of
    1 - D with S; all others go to ``phi tau'``. Seen from ``phi tau'`` as the interval to start from, it shortens the
    intervals of the layers that drift most. Both variants cross at the same layer. It is on the relaxed side in the
    first, and on the short side in the second, so the second always keeps one layer at tau' at least.

    Args:
        discrepancy: d_l of every layer, finite and not negative. Only their ratios matter.
        sizes: dim_l of every layer; 0 for one that has statistics only: it costs nothing in S, and is relaxed.
        local_steps: tau'.
        phi: a relaxed layer's interval is ``phi * tau'``; 1 is FedAvg.
        relaxable: indices of the layers that may be relaxed; the others stay at tau'. S is then the share of these
            layers' parameters, and D still that of all discrepancy, as in the published runs, which relax kernels
            only. ``None``: all.
        accelerate: the variant above.

    Raises:
        ValueError: lengths differ, or a number is out of its range.
    """
    _check(discrepancy, sizes, local_steps, phi)
    order = _order(discrepancy, range(len(sizes)) if relaxable is None else relaxable, descending=accelerate)
    drift = [Fraction(d) * size for d, size in zip(discrepancy, sizes, strict=True)]  # d_l dim_l
    d_curve = _shares([drift[layer] for layer in order], sum(drift))
    s_curve = _shares([sizes[layer] for layer in order], sum(sizes[layer] for layer in order))
    crossing = _crossing(d_curve, s_curve)
    if accelerate:
        crossing = crossing if any(d_curve) else 0
        relaxed = set(order[crossing:])
    else:
        relaxed = set(order[:crossing])
    return Adjustment(
        intervals=tuple(local_steps * (phi if layer in relaxed else 1) for layer in range(len(sizes))),
        order=order,
        d_curve=tuple(map(float, d_curve)),
        s_curve=tuple(map(float, s_curve)),
        crossing=crossing,
    )


def along(end: CycleEnd, order: Sequence[int]) -> Adjustment:
    """Relax layers in this order until as large a share of the parameters is relaxed as FedLAMA would relax.

    For rules that FedLAMA is compared with: they save about the same traffic, and choose other layers.
    """
    saved = end.relaxed(_at_end(end).intervals)
    wanted = sum(end.sizes[layer] for layer in saved)
    drift = [Fraction(d) * size for d, size in zip(end.discrepancy, end.sizes, strict=True)]
    sums = list(accumulate(end.sizes[layer] for layer in order))
    crossing = next((index + 1 for index, done in enumerate(sums) if done >= wanted), len(order)) if saved else 0
    relaxed = set(order[:crossing])
    return Adjustment(
        intervals=tuple(end.local_steps * (end.phi if layer in relaxed else 1) for layer in range(len(end.sizes))),
        order=tuple(order),
        d_curve=tuple(map(float, _shares([drift[layer] for layer in order], sum(drift)))),
        s_curve=tuple(map(float, _shares([end.sizes[layer] for layer in order], sums[-1] if sums else 0))),
        crossing=crossing,
    )


def _at_end(end: CycleEnd) -> Adjustment:
    return adjust(
        end.discrepancy, end.sizes, end.local_steps, end.phi, relaxable=end.relaxable, accelerate=end.accelerate
    )


ALGORITHM = IntervalRule("fedlama", _at_end)


def _order(discrepancy: Sequence[float], layers: Collection[int], *, descending: bool) -> tuple[int, ...]:
    """``layers`` by d_l; those with the same d_l by index."""
    sign = -1 if descending else 1
    return tuple(sorted(set(layers), key=lambda layer: (sign * discrepancy[layer], layer)))


def _shares(parts: Sequence[Fraction | int], whole: Fraction | int) -> list[Fraction]:
    """The running sum of ``parts``, as shares of ``whole``; all 0 where there is nothing to share."""
    return [Fraction(part) / whole if whole else Fraction(0) for part in accumulate(parts)]


def _crossing(d_curve: Sequence[Fraction], s_curve: Sequence[Fraction]) -> int:
    """How many layers up to the first with 1 - S < D (which is 1 - D < S too), itself included; all, without one."""
    for index, (d, s) in enumerate(zip(d_curve, s_curve, strict=True)):
        if 1 - s < d:
            return index + 1
    return len(s_curve)


def _check(discrepancy: Sequence[float], sizes: Sequence[int], local_steps: int, phi: int) -> None:
    if len(discrepancy) != len(sizes) or not sizes:
        raise ValueError(f"{len(discrepancy)} discrepancies for {len(sizes)} layers")
    if not all(math.isfinite(d) and d >= 0 for d in discrepancy):
        raise ValueError(f"discrepancies must be finite and not negative: {list(discrepancy)}")
    if min(sizes) < 0:
        raise ValueError(f"sizes can't be negative: {list(sizes)}")
    if local_steps < 1 or phi < 1:
        raise ValueError(f"local_steps {local_steps} and phi {phi} must be at least 1")
