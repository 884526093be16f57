"""Four backends carry out a simulation's tasks, behind one seam; which is quickest depends on network and machine.

===========  ======================================================================================================
``loop``     one after another, in this process
``pool``     by processes with one thread each, over shared memory
``stack``    all devices' networks as one, along a leading dimension: for small dense networks
``ray``      by processes on many machines
===========  ======================================================================================================

``loop``, ``pool`` and ``ray`` give the same bits, whatever the number of processes. ``stack`` adds up in another order,
so it agrees to float tolerance.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from lamina.emulation.simulator.backends.run_arrays import RunArrays
from lamina.emulation.simulator.backends.tasks import RunTask, TaskResult


class Backend(Protocol):
    """Carries out tasks on a run's arrays."""

    @property
    def name(self) -> str:
        """``loop``, ``pool``, ``stack`` or ``ray``."""

    @property
    def arrays(self) -> RunArrays:
        """The arrays that hold the states."""

    def carry_out(self, tasks: Sequence[RunTask]) -> list[TaskResult]:
        """Do all of them; outcomes in the order of the tasks. No two tasks are of one slot."""
