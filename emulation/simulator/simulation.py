"""What happens in a round? Training, folds, new values, new intervals: a federation in one loop.

It is `rounds.federation` without messages: the same draw, the same folds, the same adjustment, over the same
records. Nothing is lost on the way here, so there are no versions and no deadlines. All that is random follows from
seed, device and round; so a state needs no generators, and a run that goes on from a state ends in the same bits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import msgspec
import numpy as np

from lamina.coordinator.algorithms import fedavg, fedlama
from lamina.coordinator.algorithms.selection import draw
from lamina.coordinator.folds.cohort_pass import WORTH_LOADING
from lamina.coordinator.folds.passes import worth_compiling
from lamina.coordinator.records.accounting import FLOAT32_BYTES, Ledger
from lamina.coordinator.records.records import CycleRecord, RoundRecord
from lamina.emulation.simulator.averaging import Averaged, Averaging
from lamina.emulation.simulator.backends import Way
from lamina.emulation.simulator.backends.tasks import Judging, Outcome, Task, Training
from lamina.emulation.simulator.rows import Row, Rows, Runs, layer_offsets, runs, to_tensors
from lamina.emulation.simulator.run_context import Ground
from lamina.emulation.simulator.server import ServerMemory, step, without_memory
from lamina.emulation.simulator.setting import Setting
from lamina.emulation.simulator.simulated_wire import Crossing

_FOLDING_THREADS = 2  # of the compiled fold. In numpy two threads are slower than one: they wait for the interpreter


class Standing(msgspec.Struct, frozen=True):
    """The part of a state that is small.

    Attributes:
        round: rounds completed.
        cohort: of the current cycle; empty between cycles.
        intervals: tau_l of every layer.
        discrepancy: last d_l of every layer.
        aggregations: times that each layer was aggregated.
        ledger: what was communicated so far.
        uplink_bytes: what devices sent: as its messages where there is a crossing, else in float32.
        downlink_bytes: what they were sent.
        wall_s: seconds spent in rounds.
    """

    round: int
    cohort: tuple[str, ...]
    intervals: tuple[int, ...]
    discrepancy: tuple[float, ...]
    aggregations: tuple[int, ...]
    ledger: Ledger = Ledger()
    uplink_bytes: int = 0
    downlink_bytes: int = 0
    wall_s: float = 0.0


@dataclass(eq=False)
class State:
    """All that a run needs to go on.

    Attributes:
        standing: the small part.
        base: the global state, (row_size,).
        rows: the active devices', (slots, row_size).
        momentum: theirs, (slots, row_size).
        server: of the server's optimiser, one a layer; empty without one.
    """

    standing: Standing
    base: Row
    rows: Rows
    momentum: Rows
    server: list[ServerMemory] = field(default_factory=list)


def beginning(ground: Ground) -> State:
    """The state before the first round."""
    layers = len(ground.spec.layers)
    size = len(ground.initial)
    return State(
        Standing(
            round=0,
            cohort=(),
            intervals=fedavg.intervals(layers, ground.setting.training.local_steps),
            discrepancy=(0.0,) * layers,
            aggregations=(0,) * layers,
        ),
        ground.initial.copy(),
        np.zeros((ground.slots, size), np.float32),
        np.zeros((ground.slots, size), np.float32),
        without_memory(ground.setting.server, ground.spec),
    )


class Simulation:
    """A run.

    Args:
        ground: what it stands on.
        way: carries out its tasks; the state moves into its arena, which nobody has used.
        state: to go on from; the beginning by default.
        clock: seconds, for the records.
        crossing: what values go through on their way; ``None``: they arrive as they are. It is no part of the state,
            so a run with one is carried out from beginning to end.

    Raises:
        ValueError: a crossing, and a state to go on from or narrow networks.
    """

    def __init__(
        self,
        ground: Ground,
        way: Way,
        state: State | None = None,
        clock: Callable[[], float] = time.perf_counter,
        crossing: Crossing | None = None,
    ) -> None:
        if crossing and (state or ground.setting.reduction == "width"):
            raise ValueError("a crossing serves whole runs of networks that are cut")
        self.ground = ground
        self._crossing = crossing
        self._way = way
        self._clock = clock
        self._averaging = Averaging(ground, crossing)
        self._offsets = layer_offsets(ground.spec)
        self._arena = way.arena
        if state is None:  # what is in the slots is not looked at: they take everything, and an arena's momentum is 0
            state = beginning(ground)
        else:
            self._arena.rows[:], self._arena.momentum[:] = state.rows, state.momentum
        self._arena.base[:] = state.base
        self.standing = state.standing
        self._server = state.server

    @property
    def finished(self) -> bool:
        """All rounds are done."""
        return self.standing.round >= self.ground.setting.rounds

    @property
    def values(self) -> Row:
        """The global state, (row_size,); it changes with every round."""
        return self._arena.base

    def tensors(self) -> dict[str, Row]:
        """The global state by name of tensor, a copy."""
        return to_tensors(self.ground.spec, self._arena.base.copy())

    def state(self) -> State:
        """A copy of all that is needed to go on."""
        standing, arena = self.standing, self._arena
        rows = arena.rows.copy()
        for start, stop in self._taken() if standing.cohort else ():
            rows[: len(standing.cohort), start:stop] = arena.base[start:stop]
        return State(standing, arena.base.copy(), rows, arena.momentum.copy(), list(self._server))

    def advance(self) -> tuple[RoundRecord, CycleRecord | None]:
        """Do one round; its record, and that of the adjustment where a cycle ends with it."""
        began, setting = self._clock(), self.ground.setting
        before = self.standing
        cycle = before.round // setting.aggregation.phi
        cohort = before.cohort or draw(setting.names, setting.cohorts.active, setting.seed, cycle)
        slots = {device: slot for slot, device in enumerate(cohort)}
        if self._crossing:
            self._crossing.begin(before.round, cohort, np.split(self.values, self._offsets[1:-1]))
        tasks = self._training_tasks(slots)
        outcomes = self._way.carry_out(tasks)
        done = before.round + 1
        due = fedavg.due(before.intervals, setting.training.local_steps, done * setting.training.local_steps)
        averaged = self._average(due, slots)
        cycle_ends = done % setting.aggregation.phi == 0
        self._update(cohort, due, averaged, cycle_ends)
        adjustment = self._adjust(cycle) if cycle_ends else None
        accuracy = self._accuracy() if self._to_be_judged(cycle_ends) else None
        seconds = self._clock() - began
        self.standing = msgspec.structs.replace(self.standing, wall_s=before.wall_s + seconds)
        record = round_record(
            *(setting, self.standing, cohort, outcomes),
            due=due,
            expected=sum(layer.expected for layer in averaged.values()),
            refused=sum(layer.refused for layer in averaged.values()),
            accuracy=accuracy,
            seconds=seconds,
        )
        return record, adjustment

    # -- a round's parts ---------------------------------------------------------------------------------------------

    def _taken(self) -> Runs:
        """What devices take of the global state before they train: at a cycle's start all, then what was averaged."""
        standing, steps = self.standing, self.ground.setting.training.local_steps
        if not standing.cohort:
            return ((0, self._offsets[-1]),)
        return runs(self._offsets, fedavg.due(standing.intervals, steps, standing.round * steps))

    def _training_tasks(self, slots: dict[str, int]) -> list[Task]:
        setting, round_ = self.ground.setting, self.standing.round
        steps, lr, takes = setting.training.local_steps, setting.lr(round_), self._taken()
        forgets = not self.standing.cohort and setting.local.momentum_of == "device"
        return [
            Training(slot, device, self.ground.variants[device], round_, steps, lr, takes, forgets)
            for device, slot in slots.items()
        ]

    def _average(self, due: tuple[int, ...], slots: dict[str, int]) -> dict[int, Averaged]:
        """Every due layer's average; the global state is still the old one."""
        arena, averaging = self._arena, self._averaging

        def average(layer: int) -> Averaged:
            return averaging.average(layer, slots, arena.rows, arena.base)

        sizes = [layer.vector_size for layer in self.ground.spec.layers]
        largest_first = sorted(due, key=lambda layer: -sizes[layer])  # it decides on the pass that all take
        compiled = worth_compiling(len(slots) * max(sizes), WORTH_LOADING)
        with ThreadPoolExecutor(_FOLDING_THREADS if compiled else 1) as threads:
            return dict(zip(largest_first, threads.map(average, largest_first), strict=True))

    def _update(
        self, cohort: tuple[str, ...], due: tuple[int, ...], averaged: dict[int, Averaged], cycle_ends: bool
    ) -> None:
        """Make the averages global."""
        before, spec, arena = self.standing, self.ground.spec, self._arena
        drift, counts = list(before.discrepancy), list(before.aggregations)
        for layer in due:
            place, aggregate = slice(*self._offsets[layer : layer + 2]), averaged[layer].aggregate
            if aggregate is not None:
                value, self._server = step(
                    self.ground.setting.server, layer, arena.base[place], aggregate.value, self._server
                )
                if self._crossing:
                    value = self._crossing.next_value(layer, arena.base[place], value)
                arena.base[place] = value
                counts[layer] += 1
                if size := spec.layers[layer].size:
                    numerator = aggregate.discrepancy_numerator
                    drift[layer] = fedlama.discrepancy(numerator, before.intervals[layer], size)
        cuts = self.ground.cuts
        sent = FLOAT32_BYTES * sum(layer.elements for layer in averaged.values())
        taken = FLOAT32_BYTES * sum(len(cohort) * spec.layers[layer].vector_size for layer in due)
        uplink_bytes, downlink_bytes = before.uplink_bytes + sent, before.downlink_bytes + taken
        if self._crossing:
            uplink_bytes, downlink_bytes = self._crossing.up.payload_bytes, self._crossing.down.payload_bytes
        self.standing = msgspec.structs.replace(
            before,
            round=before.round + 1,
            cohort=() if cycle_ends else cohort,
            discrepancy=tuple(drift),
            aggregations=tuple(counts),
            ledger=before.ledger.after_round(spec, {device: cuts[device] for device in cohort}, due),
            uplink_bytes=uplink_bytes,
            downlink_bytes=downlink_bytes,
        )

    def _adjust(self, cycle: int) -> CycleRecord | None:
        """New intervals, as `lamina.coordinator.rounds.federation` sets them."""
        aggregation, standing = self.ground.setting.aggregation, self.standing
        if standing.round < aggregation.warmup_rounds:
            return None
        adjustment = fedlama.adjust(
            standing.discrepancy,
            self.ground.spec.sizes,
            self.ground.setting.training.local_steps,
            aggregation.phi,
            relaxable=self.ground.relaxable,
            accelerate=aggregation.accelerate,
        )
        self.standing = msgspec.structs.replace(standing, intervals=adjustment.intervals)
        return CycleRecord.of(cycle, standing.discrepancy, adjustment)

    def _to_be_judged(self, cycle_ends: bool) -> bool:
        """At the ends of cycles, where the global state is a whole; every so many rounds, and after the last."""
        every, done = self.ground.setting.evaluation.every, self.standing.round
        phi = self.ground.setting.aggregation.phi
        passed = done // every > (done - phi) // every
        return cycle_ends and (passed or self.finished)

    def _accuracy(self) -> float:
        """Of the averaged model, with averaged running statistics, on the samples that judge it for all."""
        samples, size = self.ground.judged, self.ground.setting.evaluation.batch_size
        tasks = [Judging(start, min(start + size, samples)) for start in range(0, samples, size)]
        return sum(outcome.right for outcome in self._way.carry_out(tasks)) / samples

    def own_accuracies(self) -> dict[str, float]:
        """Of the averaged model, by device, on the samples that the device kept: federated evaluation."""
        own = self.ground.own
        outcomes = self._way.carry_out([Judging(part.start, part.stop) for part in own.values()])
        return {device: outcome.right / outcome.samples for device, outcome in zip(own, outcomes, strict=True)}


def round_record(
    setting: Setting,
    standing: Standing,
    cohort: tuple[str, ...],
    outcomes: Sequence[Outcome],
    *,
    due: tuple[int, ...] = (),
    expected: int,
    refused: int,
    accuracy: float | None,
    seconds: float,
) -> RoundRecord:
    """The record of the round that ``standing`` has just completed.

    Args:
        setting: of the run.
        standing: after the round.
        cohort: of the round.
        outcomes: of its devices' training.
        due: layers that were aggregated.
        expected: updates that were to come.
        refused: of these, whose numbers could not be used.
        accuracy: where it was judged.
        seconds: that it took.
    """
    round_, samples = standing.round - 1, sum(outcome.samples for outcome in outcomes)
    return RoundRecord(
        round=round_,
        cycle=round_ // setting.aggregation.phi,
        cohort=cohort,
        due=due,
        updates=expected - refused,
        expected=expected,
        rejected=refused,
        lr=setting.lr(round_),
        loss=sum(outcome.loss for outcome in outcomes) / samples,
        train_accuracy=sum(outcome.right for outcome in outcomes) / samples,
        accuracy=accuracy,
        c_ratio=standing.ledger.c_ratio,
        uplink_bytes=standing.uplink_bytes,
        downlink_bytes=standing.downlink_bytes,
        fedavg_uplink_bytes=standing.ledger.fedavg_uplink_bytes,
        wall_s=standing.wall_s,
        round_s=seconds,
    )
