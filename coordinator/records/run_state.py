"""The part of a run's state that every shell has, the coordinator and the simulator."""

from __future__ import annotations

import msgspec

from lamina.coordinator.algorithms import fedavg
from lamina.coordinator.records.accounting import Ledger


class RunState(msgspec.Struct, frozen=True):
    """How far a run is.

    Attributes:
        round: rounds completed.
        cohort: of the current cycle; empty between cycles.
        versions: of every layer's global value: how often it was aggregated.
        intervals: tau_l of every layer.
        discrepancy: last d_l of every layer.
        ledger: what was communicated so far.
        personal: layers that devices train for themselves: they are never due, and stay at version 0; ascending.
    """

    round: int
    cohort: tuple[str, ...]
    versions: tuple[int, ...]
    intervals: tuple[int, ...]
    discrepancy: tuple[float, ...]
    ledger: Ledger
    personal: tuple[int, ...] = ()

    def due(self, rounds: int, local_steps: int) -> tuple[int, ...]:
        """Layers that are averaged after so many rounds of the present intervals, ascending."""
        due = fedavg.due(self.intervals, local_steps, rounds * local_steps)
        return tuple(layer for layer in due if layer not in self.personal)


def beginning(layers: int, local_steps: int, personal: tuple[int, ...] = ()) -> RunState:
    """The state before the first round: every layer at version 0, every interval at tau'."""
    return RunState(
        round=0,
        cohort=(),
        versions=(0,) * layers,
        intervals=fedavg.intervals(layers, local_steps),
        discrepancy=(0.0,) * layers,
        ledger=Ledger(),
        personal=personal,
    )
