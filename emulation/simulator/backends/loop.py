"""The plain backend does one task after another, in this process. Every other backend is judged by it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from lamina.emulation.readers.raw import Array
from lamina.emulation.simulator.backends.run_arrays import RunArrays, private_arrays
from lamina.emulation.simulator.backends.task_runner import TaskRunner
from lamina.emulation.simulator.backends.tasks import RunTask, TaskResult, TaskSettings
from lamina.emulation.simulator.rows import layer_offsets


class Loop:
    """See the module.

    Args:
        runner: does the work.
    """

    name = "loop"

    def __init__(self, runner: TaskRunner) -> None:
        self._runner = runner

    @property
    def arrays(self) -> RunArrays:
        """The arrays that hold the states."""
        return self._runner.arrays

    def carry_out(self, tasks: Sequence[RunTask]) -> list[TaskResult]:
        """Do all of them; outcomes in the order of the tasks."""
        with one_thread():
            return [self._runner.carry_out(task) for task in tasks]


_LARGEST_FOLLOWED = 31 * 2**20  # bytes; glibc stops at 32 MiB


@contextmanager
def looping(common: TaskSettings, slots: int, data: Sequence[Array]) -> Iterator[Loop]:
    """A loop over arrays of its own; arguments as those of `private_arrays`."""
    keep_freed_memory()
    yield Loop(TaskRunner(common, private_arrays(slots, layer_offsets(common.spec)[-1], data)))


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread for torch's operators: how many there are shows in the last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def keep_freed_memory() -> None:
    """Make the allocator keep what a step frees for the next step, which else faults every page in again.

    glibc's threshold for handing memory back follows the largest block that was ever freed, up to this size.
    """
    np.empty(_LARGEST_FOLLOWED, np.uint8)
