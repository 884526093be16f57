"""Processes on many machines, by Ray (the extra ``ray``): for what one machine can't hold or would take too long for.

Every lane is a Ray actor with the training set in its machine's object store. A round sends each lane its devices'
states and takes them back; which devices these are, `simulator.dividing` decides by the seconds that devices
of each variant have taken so far. Who computes does not show in the results.
"""

from __future__ import annotations

import importlib
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from lamina.emulation.readers.raw import Array
from lamina.emulation.simulator.backends.loop import one_thread
from lamina.emulation.simulator.backends.run_arrays import RunArrays, private_arrays
from lamina.emulation.simulator.backends.task_runner import TaskRunner
from lamina.emulation.simulator.backends.tasks import RunTask, TaskResult, TaskSettings, TrainingTask
from lamina.emulation.simulator.dividing import divide
from lamina.emulation.simulator.rows import Row, Rows, layer_offsets
from lamina.models.errors import ConfigError, LaminaError

_MEMORY = 0.7  # share of the last measurement in a cost: machines' loads change, but not that quickly

Done = tuple[list[TaskResult], list[float], Rows, Rows]
"""Outcomes, seconds, rows and momentum of a lane's tasks."""


class RayWorker:
    """What runs in an actor.

    Args:
        common: of the run.
        data: x_train, y_train, x_test, y_test.
    """

    def __init__(self, common: TaskSettings, *data: Array) -> None:
        self._common, self._data = common, data
        self._runner: TaskRunner | None = None

    def carry_out(self, tasks: list[RunTask], rows: Rows, momentum: Rows, base: Row) -> Done:
        """Do the tasks, whose devices' states are in ``rows``, in their order."""
        arrays = private_arrays(0, len(base), self._data)
        arrays = replace(arrays, rows=np.array(rows), momentum=np.array(momentum), base=np.array(base))
        runner = self._runner = self._runner or TaskRunner(self._common, arrays)
        runner.arrays = arrays
        outcomes, seconds, slot = [], [], 0
        with one_thread():
            for task in tasks:
                began = time.perf_counter()
                if isinstance(task, TrainingTask):
                    task, slot = replace(task, slot=slot), slot + 1
                outcomes.append(runner.carry_out(task))
                seconds.append(time.perf_counter() - began)
        return outcomes, seconds, arrays.rows, arrays.momentum


class RayLanes:
    """See the module.

    Args:
        ray: the package.
        actors: the lanes.
        arrays: of this process, where states are between rounds.
    """

    name = "ray"

    def __init__(self, ray: Any, actors: Sequence[Any], arrays: RunArrays) -> None:
        self.arrays = arrays
        self._ray, self._actors = ray, actors
        self._costs_s: dict[int, float] = {}

    def carry_out(self, tasks: Sequence[RunTask]) -> list[TaskResult]:
        """Do all of them; outcomes in the order of the tasks.

        Raises:
            LaminaError: a lane failed, or its machine vanished.
        """
        lanes = divide([self._cost_s(task) for task in tasks], len(self._actors))
        base = self._ray.put(self.arrays.base)
        asked = []
        for actor, lane in zip(self._actors, lanes, strict=True):
            mine = [tasks[index] for index in lane]
            slots = _slots(mine)
            rows, momentum = self.arrays.rows[slots], self.arrays.momentum[slots]
            asked.append((mine, slots, actor.carry_out.remote(mine, rows, momentum, base)))
        outcomes: list[TaskResult] = []
        for mine, slots, promised in asked:
            done, seconds, self.arrays.rows[slots], self.arrays.momentum[slots] = self._result(promised)
            outcomes += done
            for task, took_s in zip(mine, seconds, strict=True):
                self._learn(task, took_s)
        return outcomes

    def _result(self, promised: Any) -> Done:
        try:
            done: Done = self._ray.get(promised)
        except self._ray.exceptions.RayError as error:
            raise LaminaError(f"a lane on Ray failed: {error}") from error
        return done

    def _cost_s(self, task: RunTask) -> float:
        return self._costs_s.get(_kind(task), 1.0)

    def _learn(self, task: RunTask, took_s: float) -> None:
        known = self._costs_s.get(_kind(task), took_s)
        self._costs_s[_kind(task)] = _MEMORY * took_s + (1 - _MEMORY) * known


@contextmanager
def on_ray(
    common: TaskSettings, slots: int, data: Sequence[Array], lanes: int = 0, address: str = ""
) -> Iterator[RayLanes]:
    """Lanes on Ray over arrays of this process.

    Args:
        common: of the run.
        slots: active devices at once.
        data: x_train, y_train, x_test, y_test.
        lanes: how many; 0: one a core of the cluster, or a GPU where these compute.
        address: of a cluster; ``auto`` finds the one that runs here; empty starts one on this machine for the time.

    Raises:
        ConfigError: Ray isn't installed, or there is no such cluster.
    """
    try:
        ray: Any = importlib.import_module("ray")
    except ImportError as error:
        raise ConfigError("Ray isn't installed: pip install 'lamina-fl[ray]'") from error
    try:
        own = {} if address else {"num_cpus": lanes or None, "include_dashboard": False}
        ray.init(address=address or None, logging_level=logging.ERROR, log_to_driver=False, **own)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ConfigError(f"Ray at {address or 'this machine'}: {error}") from error
    try:
        unit = "GPU" if common.device.startswith("cuda") else "CPU"  # Ray hides GPUs from actors that ask for none
        count = lanes or max(1, int(ray.cluster_resources().get(unit, 1)))
        stored = [ray.put(part) for part in data]
        actor = ray.remote(**{f"num_{unit.lower()}s": 1})(RayWorker)
        actors = [actor.remote(common, *stored) for _ in range(count)]
        yield RayLanes(ray, actors, private_arrays(slots, layer_offsets(common.spec)[-1], data))
    finally:
        ray.shutdown()


def _slots(tasks: Sequence[RunTask]) -> list[int]:
    return [task.slot for task in tasks if isinstance(task, TrainingTask)]


def _kind(task: RunTask) -> int:
    """Tasks that take about as long as each other: a variant's trainings, or evaluations."""
    return task.variant if isinstance(task, TrainingTask) else -1
