"""The disk of a simulated machine: what a program does to it takes virtual time, and a dead program does nothing to it.

So a program may be killed between any two changes that it makes in a thread, and in the middle of one.
"""

from __future__ import annotations

import random

from lamina.emulation.faults.simulated_disk import SimulatedDisk, Stopped
from lamina.emulation.faults.virtual_time import Killed, current_process, spend

_MOST_S = 0.004  # for a change


class MachineDisk(SimulatedDisk):
    """A `SimulatedDisk` on virtual time.

    Args:
        seed: of what a power cut keeps, and of how long changes take.
    """

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self._pace = random.Random(seed)

    def after_power_cut(self) -> MachineDisk:
        """What the next start finds on a machine that lost its power just now."""
        found = MachineDisk(self._pace.getrandbits(64))
        found._folders = super().after_power_cut()._folders
        return found

    def _count(self) -> None:
        process = current_process()
        if process is not None and not process.alive:
            raise Stopped
        super()._count()
        try:
            spend(self._pace.uniform(0.0, _MOST_S))
        except Killed:
            raise Stopped from None
