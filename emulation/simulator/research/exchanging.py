"""What happens in a round in which devices exchange logits? `research.codistillation`, in one loop.

It stands beside `simulator.simulation`, with the same records and checkpoints. There is no global state: in a
`State` of this loop, ``base`` holds the mean logits, flat, and ``rows`` every device's network, not the cohort's alone.
Momentum begins each round without, as a board's does each cycle.
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
from lamina.emulation.simulator.backends.arena import private_arena
from lamina.emulation.simulator.backends.loop import keep_freed_memory, one_thread
from lamina.emulation.simulator.backends.task_runner import Seat, Station
from lamina.emulation.simulator.backends.tasks import Outcome
from lamina.emulation.simulator.research.codistillation import Logits, consensus, distillation
from lamina.emulation.simulator.rows import Row, Rows, to_tensors
from lamina.emulation.simulator.run_context import Ground
from lamina.emulation.simulator.samples import Augmentation, batches
from lamina.emulation.simulator.simulation import Standing, State, round_record

_PUBLIC = "public samples"  # in the names by which their orders are drawn


class Exchange:
    """A run.

    Args:
        ground: what it stands on; it has public samples.
        state: to go on from; the beginning by default.
        clock: seconds, for the records.
    """

    def __init__(
        self, ground: Ground, state: State | None = None, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        keep_freed_memory()
        self.ground = ground
        self._clock = clock
        self._station = Station(ground.recipe, private_arena(0, len(ground.initial), ground.data))
        self._x, self._y = (self._station.moved(array) for array in ground.data[2:])
        self._public = self._station.moved(ground.public)
        self._shape = (len(ground.public), ground.spec.classes)
        self._slots = {device: slot for slot, device in enumerate(ground.setting.names)}
        if state is None:
            layers, steps = len(ground.spec.layers), ground.setting.training.local_steps
            self.standing = Standing(0, (), (steps,) * layers, (0.0,) * layers, (0,) * layers)
            self._mean: Logits | None = None
            self._rows: Rows = np.tile(ground.initial, (len(self._slots), 1))
        else:
            self.standing, self._rows = state.standing, state.rows.copy()
            self._mean = state.base.reshape(self._shape) if state.base.size else None

    @property
    def finished(self) -> bool:
        """All rounds are done."""
        return self.standing.round >= self.ground.setting.rounds

    def state(self) -> State:
        """A copy of all that is needed to go on."""
        nothing = np.zeros(0, np.float32)
        mean = nothing if self._mean is None else self._mean.ravel().copy()
        return State(self.standing, mean, self._rows.copy(), nothing.reshape(0, 0))

    def tensors(self) -> dict[str, Row]:
        """Every device's network, its tensors named ``device/tensor``; of a narrow one, where it lies in the whole."""
        spec, slots = self.ground.spec, self._slots
        return {
            f"{device}/{name}": value
            for device, slot in slots.items()
            for name, value in to_tensors(spec, self._rows[slot]).items()
        }

    def advance(self) -> tuple[RoundRecord, CycleRecord | None]:
        """Do one round, and give its record; there are no intervals to adjust."""
        began, setting, before = self._clock(), self.ground.setting, self.standing
        cohort = draw(setting.names, setting.cohorts.active, setting.seed, before.round)
        with one_thread():
            outcomes = [self._train(device) for device in cohort]
            sent = [self._conclude(device) for device in cohort] if self._talks else []
        self._count(cohort, sent)
        self._mean, refused = consensus(self._mean, sent)
        done = self.standing.round
        judged = done % setting.evaluation.every == 0 or self.finished
        accuracy = self._accuracy() if judged else None
        seconds = self._clock() - began
        self.standing = msgspec.structs.replace(self.standing, wall_s=before.wall_s + seconds)
        record = round_record(
            *(setting, self.standing, cohort, outcomes),
            expected=len(sent),
            refused=refused,
            accuracy=accuracy,
            seconds=seconds,
        )
        return record, None

    def own_accuracies(self) -> dict[str, float]:
        """Of each device's own network, on the samples that the device kept."""
        own = {device: place for device, place in self.ground.own.items() if device in self._slots}
        with one_thread():
            return {device: self._right(device, place) / len(place) for device, place in own.items()}

    # -- a round's parts ---------------------------------------------------------------------------------------------

    def _train(self, device: str) -> Outcome:
        """Local steps of one device, on its own samples and on the public ones."""
        ground, station, round_ = self.ground, self._station, self.standing.round
        setting, recipe, seat = ground.setting, ground.recipe, self._seated(device)
        steps, size, lr = setting.training.local_steps, recipe.batch_size, setting.lr(round_)
        order = batches(recipe.seed, device, round_, recipe.held[device], steps, size)
        everything = np.arange(len(ground.public))
        shown = batches(recipe.seed, f"{device}, {_PUBLIC}", round_, everything, steps, size)
        augment = Augmentation(recipe.seed, device, round_, order.size).apply if recipe.augment else None
        start = seat.network.start
        momentum, base = torch.zeros_like(seat.network.row[start:]), seat.network.row[start:].clone()
        loss, right = 0.0, 0
        for mine, public in zip(order, shown, strict=True):
            found = seat.network.accumulate(*station.batch(mine, augment))
            if self._mean is not None:
                targets = station.moved(self._mean[public])
                seat.network.add(self._public[public], distillation(targets, setting.codistillation))
            station.step(seat, momentum, base, lr)
            loss, right = loss + float(found[0]) * size, right + int(found[1])
        self._rows[self._slots[device]][seat.place] = seat.network.row.cpu().numpy()
        return Outcome(loss, right, order.size)

    def _conclude(self, device: str) -> Logits:
        """A device's logits for all public samples, (P, classes)."""
        network, size = self._seated(device).network, self.ground.setting.evaluation.batch_size
        logits: Logits = torch.cat([network.logits(x) for x in torch.split(self._public, size)]).cpu().numpy()
        return logits

    def _seated(self, device: str) -> Seat:
        """The network for a device's variant, with the device's values in it."""
        seat = self._station.seat(self.ground.variants[device])
        seat.network.row.copy_(torch.from_numpy(self._rows[self._slots[device]][seat.place]))
        return seat

    def _accuracy(self) -> float:
        """The mean over the devices, each with its own network, on the samples that judge for all."""
        everything = range(self.ground.judged)
        with one_thread():
            rights = [self._right(device, everything) for device in self._slots]
        return sum(rights) / (len(rights) * len(everything))

    def _right(self, device: str, place: range) -> int:
        """How many of these held-out samples a device's network classifies rightly."""
        network, size = self._seated(device).network, self.ground.setting.evaluation.batch_size
        right = 0
        for start in range(place.start, place.stop, size):
            part = slice(start, min(start + size, place.stop))
            right += network.judge(self._x[part], self._y[part])[0]
        return right

    @property
    def _talks(self) -> bool:
        """Without a weight nobody would listen, so nothing is sent: every device learns alone."""
        return self.ground.setting.codistillation.weight > 0

    def _count(self, cohort: Sequence[str], sent: Sequence[Logits]) -> None:
        """Logits up from every device of the cohort; the mean before them down, where there was one."""
        spec, before, devices = self.ground.spec, self.standing, len(cohort)
        ledger, numbers = before.ledger, sum(logits.size for logits in sent)
        self.standing = msgspec.structs.replace(
            before,
            round=before.round + 1,
            ledger=Ledger(
                ledger.communicated + numbers,
                ledger.fedavg_communicated + devices * spec.size,
                ledger.fedavg_uplink_bytes + devices * FLOAT32_BYTES * len(self.ground.initial),
            ),
            uplink_bytes=before.uplink_bytes + FLOAT32_BYTES * numbers,
            downlink_bytes=before.downlink_bytes + (0 if self._mean is None else FLOAT32_BYTES * numbers),
        )
