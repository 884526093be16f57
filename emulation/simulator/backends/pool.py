"""Processes with one thread each, over shared memory: the backend for networks whose steps take milliseconds.

The processes stay from the first round to the last. They are forked from a server that has torch loaded, so each of
them starts at once and shares its pages. A round costs each of them one message: the list of tasks. Which it takes is
decided by a counter that all share, so nobody waits while there is work; it does not show in the results.
"""

from __future__ import annotations

import signal
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, ForkServerProcess
from typing import Any

from lamina.emulation.readers.raw import Array
from lamina.emulation.simulator.backends.processes import context
from lamina.emulation.simulator.backends.run_arrays import RunArrays, SharedArrays, shared_arrays
from lamina.emulation.simulator.backends.tasks import RunTask, TaskResult, TaskSettings
from lamina.emulation.simulator.rows import layer_offsets
from lamina.models.errors import LaminaError
from lamina.models.machine import usable_cores

_END_S = 5.0  # for a process to end when it is told to


@dataclass(frozen=True)
class PoolWorker:
    """A process, and the pipe to it."""

    process: ForkServerProcess
    pipe: Connection


class Pool:
    """See the module.

    Args:
        lanes: the processes.
        arrays: where the states are.
        counter: of tasks taken, shared with the processes.
    """

    name = "pool"

    def __init__(self, lanes: Sequence[PoolWorker], arrays: RunArrays, counter: Any) -> None:
        self.arrays = arrays
        self._lanes = lanes
        self._counter = counter

    def carry_out(self, tasks: Sequence[RunTask]) -> list[TaskResult]:
        """Do all of them; outcomes in the order of the tasks.

        Raises:
            LaminaError: a process failed, or vanished.
        """
        self._counter.value = 0
        for lane in self._lanes:
            self._told(lane, list(tasks))
        outcomes: dict[int, TaskResult] = {}
        for lane in self._lanes:
            outcomes.update(_answer(lane))
        return [outcomes[index] for index in range(len(tasks))]

    def _told(self, lane: PoolWorker, tasks: list[RunTask]) -> None:
        try:
            lane.pipe.send(tasks)
        except OSError as error:
            raise _vanished(lane) from error


@contextmanager
def pooling(common: TaskSettings, slots: int, data: Sequence[Array], processes: int = 0) -> Iterator[Pool]:
    """A pool over arrays of its own; 0 processes are as many as this program may use cores."""
    with shared_arrays(slots, layer_offsets(common.spec)[-1], data) as shared:
        del data  # the arrays have a copy: whoever called may let go of the original
        starting = context()
        counter = starting.Value("q", 0)
        lanes = [_start(starting, common, shared, counter) for _ in range(processes or usable_cores())]
        try:
            yield Pool(lanes, shared.open(), counter)
        finally:
            _end(lanes)


def _start(starting: ForkServerContext, common: TaskSettings, shared: SharedArrays, counter: Any) -> PoolWorker:
    ours, theirs = starting.Pipe()
    process = starting.Process(target=_serve, args=(common, shared, counter, theirs), daemon=True, name="lamina-lane")
    process.start()
    theirs.close()
    return PoolWorker(process, ours)


def _end(lanes: Sequence[PoolWorker]) -> None:
    for lane in lanes:
        lane.pipe.close()  # what they wait for: they end
    for lane in lanes:
        lane.process.join(_END_S)
        if lane.process.is_alive():
            lane.process.kill()
            lane.process.join()
        lane.process.close()


def _answer(lane: PoolWorker) -> dict[int, TaskResult]:
    """The outcomes of one lane, by the place of their tasks."""
    ready = wait([lane.pipe, lane.process.sentinel])
    if lane.pipe not in ready:
        raise _vanished(lane)
    try:
        answer: dict[int, TaskResult] | str = lane.pipe.recv()
    except (EOFError, OSError) as error:
        raise _vanished(lane) from error
    if isinstance(answer, str):
        raise LaminaError(f"a process of the simulator failed: {answer}")
    return answer


def _vanished(lane: PoolWorker) -> LaminaError:
    lane.process.join(_END_S)
    return LaminaError(
        f"a process of the simulator ended with status {lane.process.exitcode}; -9 is most often a lack of memory: "
        f"use fewer processes"
    )


def _serve(common: TaskSettings, shared: SharedArrays, counter: Any, pipe: Connection) -> None:
    """What runs in a lane: take tasks until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to all; the parent decides
    import torch

    from lamina.emulation.simulator.backends.loop import keep_freed_memory
    from lamina.emulation.simulator.backends.task_runner import TaskRunner

    torch.set_num_threads(1)
    keep_freed_memory()
    runner: TaskRunner | None = None
    while True:
        try:
            tasks: list[RunTask] = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            runner = runner or TaskRunner(common, shared.open())
            done: dict[int, TaskResult] = {}
            while (index := _taken(counter)) < len(tasks):
                done[index] = runner.carry_out(tasks[index])
            pipe.send(done)
        except Exception as error:
            pipe.send(f"{type(error).__name__}: {error}\n{traceback.format_exc()}")


def _taken(counter: Any) -> int:
    """The index of the next task, which is then this process's."""
    with counter.get_lock():
        index = int(counter.value)
        counter.value = index + 1
    return index
