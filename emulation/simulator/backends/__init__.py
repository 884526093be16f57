"""In which ways can tasks be carried out? Four, behind one seam; which is quickest depends on network and machine.

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

from lamina.emulation.simulator.backends.arena import Arena
from lamina.emulation.simulator.backends.tasks import Outcome, Task


class Way(Protocol):
    """Carries out tasks on an arena."""

    @property
    def name(self) -> str:
        """``loop``, ``pool``, ``stack`` or ``ray``."""

    @property
    def arena(self) -> Arena:
        """Where the states are."""

    def carry_out(self, tasks: Sequence[Task]) -> list[Outcome]:
        """Do all of them; outcomes in the order of the tasks. No two tasks are of one slot."""
