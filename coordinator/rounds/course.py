"""The course of a run: which devices train in a round, which layers are averaged after it, and what follows from that.

Two pure functions over a `RunState` serve every shell, the coordinator and the simulator:

    plan    state, available devices                        -> cohort, cycle, layers due
    apply   state, the plan, what each layer's fold came to -> the next state, and a record where a cycle ends

Between the two, `layer_value` turns one layer's aggregate into its next value. Nothing here knows a clock or a link.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from lamina.broker.wire.local_work import LocalWork
from lamina.coordinator.algorithms.catalogue import named
from lamina.coordinator.algorithms.interval_rule import CycleEnd, IntervalRule, discrepancy
from lamina.coordinator.algorithms.local_algorithm import Cohort, LayerFacts
from lamina.coordinator.algorithms.selection import draw
from lamina.coordinator.algorithms.server import next_value
from lamina.coordinator.folds.fold import Aggregate
from lamina.coordinator.records.records import CycleRecord
from lamina.coordinator.records.run_state import RunState
from lamina.coordinator.settings import Method
from lamina.models.arrays import Vector
from lamina.models.spec import ModelSpec

S = TypeVar("S", bound=RunState)


@dataclass(frozen=True, slots=True)
class RoundWork:
    """What a round is to do.

    Attributes:
        cycle: 0-based.
        cohort: devices that train, ascending.
        due: layers that are averaged at its end, ascending.
    """

    cycle: int
    cohort: tuple[str, ...]
    due: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class LayerResult:
    """What a layer comes to in a round.

    Attributes:
        value: its next global value, (vector_size,).
        memory: what the server's optimiser remembers of it; ``None`` without an optimiser.
        discrepancy: d_l.
    """

    value: Vector
    memory: Vector | None
    discrepancy: float


def plan(method: Method, state: RunState, available: Collection[str], seed: int) -> RoundWork:
    """The next round. Within a cycle its cohort stays; at the start of one it is drawn from the available devices."""
    cycle = state.round // method.aggregation.phi
    cohort = state.cohort or draw(available, method.cohorts.active, seed, cycle)
    return RoundWork(cycle, cohort, state.due(state.round + 1, method.training.local_steps))


def local_work(method: Method, examples: Mapping[str, int], hyperparameters: Mapping[str, float]) -> LocalWork:
    """What a round's plan asks of its cohort, whose numbers of samples are given, beside plain local steps."""
    return method.algorithm.plan(
        Cohort(
            examples=examples,
            local_steps=method.training.local_steps,
            lr=hyperparameters["lr"],
            momentum=hyperparameters.get("momentum", 0.0),
            phi=method.aggregation.phi,
        )
    )


def layer_value(
    method: Method, aggregate: Aggregate, value: Vector, memory: Vector | None, tau: int, facts: LayerFacts
) -> LayerResult:
    """What a layer's aggregate leads to.

    Args:
        method: the settings.
        aggregate: of the layer's updates.
        value: the layer's value that they started at, (vector_size,).
        memory: see `LayerResult`.
        tau: tau_l, the layer's interval.
        facts: of the layer.
    """
    size, average = facts.size, method.algorithm.average(aggregate, value, facts)
    result, after = next_value(method.server, value, average, memory, size)
    return LayerResult(result, after, discrepancy(aggregate.discrepancy_numerator, tau, size) if size else 0.0)


def apply(
    method: Method,
    spec: ModelSpec,
    state: S,
    work: RoundWork,
    *,
    seed: int,
    cuts: Mapping[str, int],
    discrepancies: Mapping[int, float],
    relaxable: tuple[int, ...] | None = None,
) -> tuple[S, CycleRecord | None]:
    """The state after a round, and the record of the new intervals where they were adjusted.

    Args:
        method: the settings.
        spec: of the network.
        state: before the round.
        work: the round's plan.
        seed: of the federation.
        cuts: first layer that each device of the cohort trains.
        discrepancies: d_l of the layers that moved.
        relaxable: layers that may be relaxed; ``None``: all.
    """
    done = state.round + 1
    cycle_ends = done % method.aggregation.phi == 0
    after = msgspec.structs.replace(
        state,
        round=done,
        cohort=() if cycle_ends else work.cohort,
        versions=tuple(version + (layer in discrepancies) for layer, version in enumerate(state.versions)),
        discrepancy=tuple(discrepancies.get(layer, known) for layer, known in enumerate(state.discrepancy)),
        ledger=state.ledger.after_round(spec, cuts, work.due),
    )
    if not cycle_ends or done < method.aggregation.warmup_rounds:
        return after, None
    end = CycleEnd(
        cycle=work.cycle,
        seed=seed,
        intervals=after.intervals,
        discrepancy=after.discrepancy,
        sizes=spec.sizes,
        local_steps=method.training.local_steps,
        phi=method.aggregation.phi,
        relaxable=_shared(relaxable, state.personal, len(spec.layers)),
        accelerate=method.aggregation.accelerate,
    )
    adjustment = named(IntervalRule, method.aggregation.intervals, "aggregation.intervals").adjust(end)
    record = CycleRecord.of(work.cycle, after.discrepancy, adjustment)
    return msgspec.structs.replace(after, intervals=adjustment.intervals), record


def _shared(relaxable: tuple[int, ...] | None, personal: tuple[int, ...], layers: int) -> tuple[int, ...] | None:
    """The layers that may be relaxed: a personal one costs nothing, so it must not count as saved."""
    if not personal:
        return relaxable
    return tuple(layer for layer in relaxable or range(layers) if layer not in personal)
