"""FedAvg: a layer is averaged every ``local_steps`` steps; and what "due" means for any intervals.

McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data" (AISTATS 2017).
"""

from __future__ import annotations

from collections.abc import Sequence

from lamina.broker.wire.local_work import LocalWork
from lamina.coordinator.algorithms.local_algorithm import LocalAlgorithm


def intervals(layers: int, local_steps: int) -> tuple[int, ...]:
    """tau_l = tau' for every one of ``layers`` layers, in local steps: FedAvg, and the start of every interval rule."""
    if layers < 1 or local_steps < 1:
        raise ValueError(f"{layers} layers with {local_steps} local steps: both must be at least 1")
    return (local_steps,) * layers


def due(intervals: Sequence[int], local_steps: int, step: int) -> tuple[int, ...]:
    """Layers to aggregate after local step ``step`` (k of the papers, counted from 1): those with k % tau_l = 0.

    Args:
        intervals: tau_l of every layer, in local steps.
        local_steps: tau', the steps of a round; devices exchange nothing in between.
        step: a round's last step, so a multiple of ``local_steps``.

    Returns:
        indices of layers, ascending.

    Raises:
        ValueError: the step ends no round, or an interval isn't a whole number of rounds.
    """
    if step < 1 or step % local_steps:
        raise ValueError(f"step {step} ends no round of {local_steps} local steps")
    if stray := [tau for tau in intervals if tau < 1 or tau % local_steps]:
        raise ValueError(f"an interval of {stray[0]} steps isn't a whole number of rounds of {local_steps}")
    return tuple(layer for layer, tau in enumerate(intervals) if step % tau == 0)


ALGORITHM = LocalAlgorithm(
    "fedavg",
    plan=lambda cohort: LocalWork(),
    average=lambda aggregate, value, facts: aggregate.value,
    sgd_only=False,
)
