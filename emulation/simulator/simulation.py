"""A federation in one loop: training, folds, new values, new intervals.

It is `rounds.federation` without messages: the same draw, the same folds, the same adjustment, over the same
records. Nothing is lost on the way here, so there are no versions and no deadlines. All that is random follows from
seed, device and round; so a state needs no generators, and a run that goes on from a state ends in the same bits.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import msgspec
import numpy as np

from lamina.coordinator.folds.cohort_pass import WORTH_LOADING
from lamina.coordinator.folds.passes import worth_compiling
from lamina.coordinator.records import run_state
from lamina.coordinator.records.accounting import FLOAT32_BYTES
from lamina.coordinator.records.device_figures import DeviceFigures, summed
from lamina.coordinator.records.records import CycleRecord, RoundRecord
from lamina.coordinator.records.run_state import RunState
from lamina.coordinator.rounds import course
from lamina.coordinator.rounds.course import RoundWork
from lamina.emulation.simulator.averaging import Averaged, Averaging
from lamina.emulation.simulator.backends import Backend
from lamina.emulation.simulator.backends.tasks import EvaluationTask, TaskResult, TrainingTask
from lamina.emulation.simulator.corrections import Corrections
from lamina.emulation.simulator.rows import Row, Rows, Runs, choose, chosen, layer_offsets, runs, to_tensors
from lamina.emulation.simulator.run_context import RunContext
from lamina.emulation.simulator.setting import Setting
from lamina.emulation.simulator.simulated_wire import SimulatedWire
from lamina.models.metrics import ACCURACY, MetricSpec, finished

_FOLDING_THREADS = 2  # of the compiled fold. In numpy two threads are slower than one: they wait for the interpreter


class SimulatedRunState(RunState, frozen=True, kw_only=True):
    """The part of a state that is small: a `RunState`, and

    Attributes:
        uplink_bytes: what devices sent: as its messages where there is a simulated wire, else in float32.
        downlink_bytes: what they were sent.
        wall_s: seconds spent in rounds.
    """

    uplink_bytes: int = 0
    downlink_bytes: int = 0
    wall_s: float = 0.0


@dataclass(eq=False)
class SimulationState:
    """All that a run needs to go on.

    Attributes:
        run_state: the small part.
        base: the global state, (row_size,).
        rows: the active devices', (slots, row_size).
        momentum: theirs, (slots, row_size).
        server: what the server's optimiser remembers, by layer; empty without one.
        local: what devices and the coordinator remember for the algorithm, by name; empty where it asks for nothing.
        personal: the personal layers of every device that has trained, by its name.
    """

    run_state: SimulatedRunState
    base: Row
    rows: Rows
    momentum: Rows
    server: dict[int, Row] = field(default_factory=dict)
    local: dict[str, Row] = field(default_factory=dict)
    personal: dict[str, Row] = field(default_factory=dict)


def simulated_beginning(layers: int, local_steps: int, personal: tuple[int, ...] = ()) -> SimulatedRunState:
    """The run state before the first round."""
    return SimulatedRunState(**msgspec.structs.asdict(run_state.beginning(layers, local_steps, personal)))


def beginning(context: RunContext) -> SimulationState:
    """The state before the first round."""
    size = len(context.initial)
    return SimulationState(
        simulated_beginning(len(context.spec.layers), context.setting.training.local_steps, context.personal),
        context.initial.copy(),
        np.zeros((context.slots, size), np.float32),
        np.zeros((context.slots, size), np.float32),
    )


class Simulation:
    """A run.

    Args:
        context: what it stands on.
        backend: carries out its tasks; the state moves into its arrays, which nobody has used.
        state: to go on from; the beginning by default.
        clock: seconds, for the records.
        wire: what values go through on their way; ``None``: they arrive as they are. It is no part of the state,
            so a run with one is carried out from beginning to end.

    Raises:
        ValueError: a wire, and a state to go on from or narrow networks.
    """

    def __init__(
        self,
        context: RunContext,
        backend: Backend,
        state: SimulationState | None = None,
        clock: Callable[[], float] = time.perf_counter,
        wire: SimulatedWire | None = None,
    ) -> None:
        if wire and (state or context.setting.reduction == "width"):
            raise ValueError("a simulated wire serves whole runs of networks that are cut")
        self.context = context
        self._wire = wire
        self._backend = backend
        self._clock = clock
        if wire and context.setting.algorithm.further:
            raise ValueError("a simulated wire carries no vectors of an algorithm")
        self._offsets = layer_offsets(context.spec)
        self._cuts = context.cuts
        self._arrays = backend.arrays
        if state is None:  # what is in the slots is not looked at: they take everything, and the arrays' momentum is 0
            state = beginning(context)
        else:
            self._arrays.rows[:], self._arrays.momentum[:] = state.rows, state.momentum
        self._arrays.base[:] = state.base
        self.run_state = state.run_state
        self._server = state.server
        self._own = dict(state.personal)
        self._corrections = Corrections(context, state.local, state.run_state.versions)
        self._averaging = Averaging(context, self._corrections, wire)

    @property
    def finished(self) -> bool:
        """All rounds are done."""
        return self.run_state.round >= self.context.setting.rounds

    @property
    def values(self) -> Row:
        """The global state, (row_size,); it changes with every round."""
        return self._arrays.base

    def tensors(self) -> dict[str, Row]:
        """The global state by name of tensor, a copy."""
        return to_tensors(self.context.spec, self._arrays.base.copy())

    def state(self) -> SimulationState:
        """A copy of all that is needed to go on."""
        run_state, arrays = self.run_state, self._arrays
        rows = arrays.rows.copy()
        for start, stop in self._taken() if run_state.cohort else ():
            rows[: len(run_state.cohort), start:stop] = arrays.base[start:stop]
        return SimulationState(
            run_state,
            arrays.base.copy(),
            rows,
            arrays.momentum.copy(),
            dict(self._server),
            self._corrections.vectors(),
            dict(self._own),
        )

    def advance(self) -> tuple[RoundRecord, CycleRecord | None]:
        """Do one round; its record, and that of the adjustment where a cycle ends with it."""
        began, setting = self._clock(), self.context.setting
        before = self.run_state
        work = course.plan(setting, before, setting.names, setting.seed)
        cohort, due = work.cohort, work.due
        slots = {device: slot for slot, device in enumerate(cohort)}
        if self._wire:
            self._wire.begin(before.round, cohort, np.split(self.values, self._offsets[1:-1]))
        self._give_own(slots)
        tasks = self._training_tasks(slots)
        outcomes = self._backend.carry_out(tasks)
        self._keep_own(slots)
        for task in tasks:
            self._corrections.stepped(task.device, task.steps, task.lr)
        averaged = self._average(due, slots)
        self._count(work, averaged)
        self.run_state, adjustment = course.apply(
            setting,
            self.context.spec,
            self.run_state,
            work,
            seed=setting.seed,
            cuts={device: self._cuts[device] for device in cohort},
            discrepancies=self._move(due, averaged),
            relaxable=self.context.relaxable,
        )
        folded = {layer: done.aggregate.devices if done.aggregate else () for layer, done in averaged.items()}
        unfolded = {device: [layer for layer in due if device not in folded[layer]] for device in cohort}
        self._corrections.settle(cohort, self.run_state.versions, unfolded)
        cycle_ends = not self.run_state.cohort
        judged = self._to_be_judged(cycle_ends)
        figures = self._figures() if judged else {}
        on_devices = self.on_devices() if judged and self.context.setting.evaluation.devices else None
        seconds = self._clock() - began
        self.run_state = msgspec.structs.replace(self.run_state, wall_s=before.wall_s + seconds)
        record = round_record(
            *(setting, self.run_state, cohort, outcomes),
            due=due,
            expected=sum(layer.expected for layer in averaged.values()),
            refused=sum(layer.refused for layer in averaged.values()),
            figures=figures,
            right_or_wrong=self.context.spec.wanted.is_right_or_wrong,
            seconds=seconds,
        )
        return msgspec.structs.replace(record, on_devices=on_devices or msgspec.UNSET), adjustment

    # -- a round's parts ---------------------------------------------------------------------------------------------

    def _taken(self) -> Runs:
        """What devices take of the global state before they train: at a cycle's start all, then what was averaged."""
        run_state, steps = self.run_state, self.context.setting.training.local_steps
        if run_state.cohort:
            return runs(self._offsets, run_state.due(run_state.round, steps))
        layers = range(len(self.context.spec.layers))
        return runs(self._offsets, [layer for layer in layers if layer not in run_state.personal])

    def _give_own(self, slots: dict[str, int]) -> None:
        """Personal layers begin as their device left them, and at first from the initial values."""
        where, arrays = self.context.common.personal, self._arrays
        for device, slot in slots.items() if where else ():
            known = self._own.get(device)
            choose(arrays.rows[slot], where, chosen(arrays.base, where) if known is None else known)

    def _keep_own(self, slots: dict[str, int]) -> None:
        """What devices made of their personal layers; one that diverged keeps what it had."""
        where = self.context.common.personal
        for device, slot in slots.items() if where else ():
            if np.isfinite(self._arrays.rows[slot]).all():
                self._own[device] = chosen(self._arrays.rows[slot], where)

    def _training_tasks(self, slots: dict[str, int]) -> list[TrainingTask]:
        setting, round_ = self.context.setting, self.run_state.round
        steps, lr, takes = setting.training.local_steps, setting.lr(round_), self._taken()
        forgets = not self.run_state.cohort and setting.local.momentum_of == "device"
        held, rates = self.context.common.held, {"lr": lr, "momentum": self.context.common.momentum}
        work = course.local_work(setting, {device: len(held[device]) for device in slots}, rates)
        reset = [layer for layer, start in enumerate(self._offsets[:-1]) if any(a <= start < b for a, b in takes)]
        self._corrections.begin(work, list(slots), reset, afresh=not self.run_state.cohort)
        variants, shift = self.context.variants, self._corrections.shift
        return [
            TrainingTask(
                *(slot, device, variants[device], round_, work.steps.get(device, steps), lr, takes, forgets),
                shift=shift(device),
            )
            for device, slot in slots.items()
        ]

    def _average(self, due: tuple[int, ...], slots: dict[str, int]) -> dict[int, Averaged]:
        """Every due layer's average; the global state is still the old one."""
        arrays, averaging = self._arrays, self._averaging

        def average(layer: int) -> Averaged:
            return averaging.average(layer, self.run_state.versions[layer], slots, arrays.rows, arrays.base)

        sizes = [layer.vector_size for layer in self.context.spec.layers]
        largest_first = sorted(due, key=lambda layer: -sizes[layer])  # it decides on the pass that all take
        compiled = worth_compiling(len(slots) * max(sizes), WORTH_LOADING)
        with ThreadPoolExecutor(_FOLDING_THREADS if compiled else 1) as threads:
            return dict(zip(largest_first, threads.map(average, largest_first), strict=True))

    def _move(self, due: tuple[int, ...], averaged: dict[int, Averaged]) -> dict[int, float]:
        """Make the averages global; d_l of the layers that moved."""
        arrays, discrepancies = self._arrays, dict[int, float]()
        for layer in due:
            place, aggregate = slice(*self._offsets[layer : layer + 2]), averaged[layer].aggregate
            if aggregate is None:
                continue
            moved = course.layer_value(
                self.context.setting,
                aggregate,
                self._corrections.base(layer, arrays.base[place]),
                self._server.pop(layer, None),
                self.run_state.intervals[layer],
                self._corrections.facts(layer),
            )
            value, discrepancies[layer] = self._corrections.move(layer, moved.value), moved.discrepancy
            if moved.memory is not None:
                self._server[layer] = moved.memory
            arrays.base[place] = self._wire.next_value(layer, arrays.base[place], value) if self._wire else value
        return discrepancies

    def _count(self, work: RoundWork, averaged: dict[int, Averaged]) -> None:
        """Add what crosses the wire in a round: in float32, where no wire is simulated."""
        before, layers = self.run_state, self.context.spec.layers
        sent = sum(layer.elements for layer in averaged.values())
        taken = sum(len(work.cohort) * layers[layer].vector_size for layer in work.due)
        self.run_state = msgspec.structs.replace(
            before,
            uplink_bytes=self._wire.up.payload_bytes if self._wire else before.uplink_bytes + FLOAT32_BYTES * sent,
            downlink_bytes=(
                self._wire.down.payload_bytes if self._wire else before.downlink_bytes + FLOAT32_BYTES * taken
            ),
        )

    def _to_be_judged(self, cycle_ends: bool) -> bool:
        """Whether the model is judged now: at the ends of cycles, where the global state is a whole; every so many
        rounds, and after the last.
        """
        every, done = self.context.setting.evaluation.every, self.run_state.round
        phi = self.context.setting.aggregation.phi
        passed = done // every > (done - phi) // every
        return cycle_ends and (passed or self.finished)

    def _figures(self) -> dict[str, float]:
        """Return the metrics of the averaged model, with averaged running statistics, on the samples that judge it for
        all.
        """
        samples, size = self.context.judged, self.context.setting.evaluation.batch_size
        tasks = [EvaluationTask(start, min(start + size, samples)) for start in range(0, samples, size)]
        return self._judged(self._backend.carry_out(tasks))

    def _judged(self, outcomes: Sequence[TaskResult]) -> dict[str, float]:
        """What evaluations of one model come to."""
        metrics = self.context.common.metrics
        if not metrics:
            right, samples = (sum(getattr(one, name) for one in outcomes) for name in ("right", "samples"))
            return {ACCURACY: right / samples}
        sums, counts = (np.sum([getattr(one, name) for one in outcomes], axis=0) for name in ("sums", "counts"))
        return {name: value for name, value in finished(metrics, sums, counts).items() if math.isfinite(value)}

    def own_accuracies(self) -> dict[str, float]:
        """Return the averaged model's accuracy by device, or the figure that its task judges by, on the samples that
        the device kept: federated evaluation.

        Each device's personal layers are its own.
        """
        judge = self.context.common.judge
        found = {device: self._judged([outcome]) for device, outcome in self._on_own().items()}
        return {device: figures[judge] for device, figures in found.items() if judge in figures}

    def on_devices(self) -> DeviceFigures | None:
        """What the averaged model comes to on the samples that devices keep, as a federation reports it."""
        common = self.context.common
        specs = common.metrics or (MetricSpec(ACCURACY, better="higher"),)
        answers: dict[str, tuple[Sequence[float], Sequence[float]]] = {
            device: (one.sums, one.counts) if common.metrics else ((one.right,), (one.samples,))
            for device, one in self._on_own().items()
        }
        return summed(self.run_state.round, specs, common.judge, common.lower_is_better, answers)

    def _on_own(self) -> dict[str, TaskResult]:
        own, size = self.context.own, self.context.setting.evaluation.batch_size
        tasks = [
            (device, EvaluationTask(start, min(start + size, part.stop), self._own.get(device)))
            for device, part in own.items()
            for start in range(part.start, part.stop, size)
        ]
        found: dict[str, TaskResult] = {}
        for (device, _), outcome in zip(tasks, self._backend.carry_out([task for _, task in tasks]), strict=True):
            found[device] = found[device] + outcome if device in found else outcome
        return found


def round_record(
    setting: Setting,
    run_state: SimulatedRunState,
    cohort: tuple[str, ...],
    outcomes: Sequence[TaskResult],
    *,
    due: tuple[int, ...] = (),
    expected: int,
    refused: int,
    figures: Mapping[str, float],
    right_or_wrong: bool = True,
    seconds: float,
) -> RoundRecord:
    """The record of the round that ``run_state`` has just completed.

    Args:
        setting: of the run.
        run_state: after the round.
        cohort: of the round.
        outcomes: of its devices' training.
        due: layers that were aggregated.
        expected: updates that were to come.
        refused: of these, whose numbers could not be used.
        figures: where it was judged.
        right_or_wrong: whether there is a share of samples that are right.
        seconds: that it took.
    """
    round_, samples = run_state.round - 1, sum(outcome.samples for outcome in outcomes)
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
        train_accuracy=sum(outcome.right for outcome in outcomes) / samples if right_or_wrong else None,
        accuracy=figures.get(ACCURACY),
        c_ratio=run_state.ledger.c_ratio,
        uplink_bytes=run_state.uplink_bytes,
        downlink_bytes=run_state.downlink_bytes,
        fedavg_uplink_bytes=run_state.ledger.fedavg_uplink_bytes,
        wall_s=run_state.wall_s,
        round_s=seconds,
        metrics=dict(figures) if figures.keys() - {ACCURACY} else msgspec.UNSET,
    )
