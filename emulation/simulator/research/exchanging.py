"""A round in which devices exchange logits: `research.codistillation`, in one loop.

It stands beside `simulator.simulation`, with the same records and checkpoints. There is no global state: in a
`SimulationState` of this loop, ``base`` holds the mean logits, flat, and ``rows`` every device's network, not the
cohort's alone. Momentum begins each round without, as a board's does each cycle.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import msgspec
import numpy as np
import torch

from lamina.coordinator.algorithms.selection import draw
from lamina.coordinator.records.accounting import FLOAT32_BYTES, Ledger
from lamina.coordinator.records.records import CycleRecord, RoundRecord
from lamina.emulation.simulator.backends.loop import keep_freed_memory, one_thread
from lamina.emulation.simulator.backends.run_arrays import private_arrays
from lamina.emulation.simulator.backends.task_runner import LoadedVariant, TaskRunner
from lamina.emulation.simulator.backends.tasks import TaskResult
from lamina.emulation.simulator.research.codistillation import Logits, consensus, distillation
from lamina.emulation.simulator.rows import Row, Rows, to_tensors
from lamina.emulation.simulator.run_context import RunContext
from lamina.emulation.simulator.samples import Augmentation, batches
from lamina.emulation.simulator.simulation import SimulationState, round_record, simulated_beginning
from lamina.models.metrics import ACCURACY

_PUBLIC = "public samples"  # in the names by which their orders are drawn


class Exchange:
    """A run.

    Args:
        context: what it stands on; it has public samples.
        state: to go on from; the beginning by default.
        clock: seconds, for the records.
    """

    def __init__(
        self, context: RunContext, state: SimulationState | None = None, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        keep_freed_memory()
        self.context = context
        self._clock = clock
        self._runner = TaskRunner(context.common, private_arrays(0, len(context.initial), context.data))
        self._x, self._y = (self._runner.moved(array) for array in context.data[2:])
        self._public = self._runner.moved(context.public)
        self._shape = (len(context.public), context.spec.classes)
        self._slots = {device: slot for slot, device in enumerate(context.setting.names)}
        if state is None:
            layers, steps = len(context.spec.layers), context.setting.training.local_steps
            self.run_state = simulated_beginning(layers, steps)
            self._mean: Logits | None = None
            self._rows: Rows = np.tile(context.initial, (len(self._slots), 1))
        else:
            self.run_state, self._rows = state.run_state, state.rows.copy()
            self._mean = state.base.reshape(self._shape) if state.base.size else None

    @property
    def finished(self) -> bool:
        """All rounds are done."""
        return self.run_state.round >= self.context.setting.rounds

    def state(self) -> SimulationState:
        """A copy of all that is needed to go on."""
        nothing = np.zeros(0, np.float32)
        mean = nothing if self._mean is None else self._mean.ravel().copy()
        return SimulationState(self.run_state, mean, self._rows.copy(), nothing.reshape(0, 0))

    def tensors(self) -> dict[str, Row]:
        """Every device's network, its tensors named ``device/tensor``; of a narrow one, where it lies in the whole."""
        spec, slots = self.context.spec, self._slots
        return {
            f"{device}/{name}": value
            for device, slot in slots.items()
            for name, value in to_tensors(spec, self._rows[slot]).items()
        }

    def advance(self) -> tuple[RoundRecord, CycleRecord | None]:
        """Do one round, and give its record; there are no intervals to adjust."""
        began, setting, before = self._clock(), self.context.setting, self.run_state
        cohort = draw(setting.names, setting.cohorts.active, setting.seed, before.round)
        with one_thread():
            outcomes = [self._train(device) for device in cohort]
            sent = [self._conclude(device) for device in cohort] if self._talks else []
        self._count(cohort, sent)
        self._mean, refused = consensus(self._mean, sent)
        done = self.run_state.round
        judged = done % setting.evaluation.every == 0 or self.finished
        accuracy = self._accuracy() if judged else None
        seconds = self._clock() - began
        self.run_state = msgspec.structs.replace(self.run_state, wall_s=before.wall_s + seconds)
        record = round_record(
            *(setting, self.run_state, cohort, outcomes),
            expected=len(sent),
            refused=refused,
            figures={} if accuracy is None else {ACCURACY: accuracy},
            seconds=seconds,
        )
        return record, None

    def own_accuracies(self) -> dict[str, float]:
        """Return the accuracy of each device's own network, on the samples that the device kept."""
        own = {device: place for device, place in self.context.own.items() if device in self._slots}
        with one_thread():
            return {device: self._right(device, place) / len(place) for device, place in own.items()}

    # -- a round's parts ---------------------------------------------------------------------------------------------

    def _train(self, device: str) -> TaskResult:
        """Local steps of one device, on its own samples and on the public ones."""
        context, runner, round_ = self.context, self._runner, self.run_state.round
        setting, common, loaded = context.setting, context.common, self._seated(device)
        steps, size, lr = setting.training.local_steps, common.batch_size, setting.lr(round_)
        order = batches(common.seed, device, round_, common.held[device], steps, size)
        everything = np.arange(len(context.public))
        shown = batches(common.seed, f"{device}, {_PUBLIC}", round_, everything, steps, size)
        augment = Augmentation(common.seed, device, round_, order.size).apply if common.augment else None
        start = loaded.network.start
        momentum, base = torch.zeros_like(loaded.network.row[start:]), loaded.network.row[start:].clone()
        loss, right = 0.0, 0
        for mine, public in zip(order, shown, strict=True):
            found = loaded.network.accumulate(*runner.batch(mine, augment))
            if self._mean is not None:
                targets = runner.moved(self._mean[public])
                loaded.network.add(self._public[public], distillation(targets, setting.codistillation))
            runner.step(loaded, momentum, base, lr)
            loss, right = loss + float(found[0]) * size, right + int(found[1])
        self._rows[self._slots[device]][loaded.place] = loaded.network.row.cpu().numpy()
        return TaskResult(loss, right, order.size)

    def _conclude(self, device: str) -> Logits:
        """A device's logits for all public samples, (P, classes)."""
        network, size = self._seated(device).network, self.context.setting.evaluation.batch_size
        logits: Logits = torch.cat([network.logits(x) for x in torch.split(self._public, size)]).cpu().numpy()
        return logits

    def _seated(self, device: str) -> LoadedVariant:
        """The network for a device's variant, with the device's values in it."""
        loaded = self._runner.loaded(self.context.variants[device])
        loaded.network.row.copy_(torch.from_numpy(self._rows[self._slots[device]][loaded.place]))
        return loaded

    def _accuracy(self) -> float:
        """The mean over the devices, each with its own network, on the samples that judge for all."""
        everything = range(self.context.judged)
        with one_thread():
            rights = [self._right(device, everything) for device in self._slots]
        return sum(rights) / (len(rights) * len(everything))

    def _right(self, device: str, place: range) -> int:
        """How many of these held-out samples a device's network classifies rightly."""
        network, size = self._seated(device).network, self.context.setting.evaluation.batch_size
        right = 0
        for start in range(place.start, place.stop, size):
            part = slice(start, min(start + size, place.stop))
            right += network.judge(self._x[part], self._y[part])[0]
        return right

    @property
    def _talks(self) -> bool:
        """Without a weight nobody would listen, so nothing is sent: every device learns alone."""
        return self.context.setting.codistillation.weight > 0

    def _count(self, cohort: Sequence[str], sent: Sequence[Logits]) -> None:
        """Logits up from every device of the cohort; the mean before them down, where there was one."""
        spec, before, devices = self.context.spec, self.run_state, len(cohort)
        ledger, numbers = before.ledger, sum(logits.size for logits in sent)
        self.run_state = msgspec.structs.replace(
            before,
            round=before.round + 1,
            ledger=Ledger(
                ledger.communicated + numbers,
                ledger.fedavg_communicated + devices * spec.size,
                ledger.fedavg_uplink_bytes + devices * FLOAT32_BYTES * len(self.context.initial),
            ),
            uplink_bytes=before.uplink_bytes + FLOAT32_BYTES * numbers,
            downlink_bytes=before.downlink_bytes + (0 if self._mean is None else FLOAT32_BYTES * numbers),
        )
