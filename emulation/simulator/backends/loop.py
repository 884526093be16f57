"""The plain way: one task after another, in this process. Every other way is judged by it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from lamina.emulation.readers.raw import Array
from lamina.emulation.simulator.backends.arena import Arena, private_arena
from lamina.emulation.simulator.backends.task_runner import Station
from lamina.emulation.simulator.backends.tasks import Outcome, Recipe, Task
from lamina.emulation.simulator.rows import layer_offsets


class Loop:
    """See the module.

    Args:
        station: does the work.
    """

    name = "loop"

    def __init__(self, station: Station) -> None:
        self._station = station

    @property
    def arena(self) -> Arena:
        """Where the states are."""
        return self._station.arena

    def carry_out(self, tasks: Sequence[Task]) -> list[Outcome]:
        """Do all of them; outcomes in the order of the tasks."""
        with one_thread():
            return [self._station.carry_out(task) for task in tasks]


_LARGEST_FOLLOWED = 31 * 2**20  # bytes; glibc stops at 32 MiB


@contextmanager
def looping(recipe: Recipe, slots: int, data: Sequence[Array]) -> Iterator[Loop]:
    """A loop over an arena of its own; arguments as those of `private_arena`."""
    keep_freed_memory()
    yield Loop(Station(recipe, private_arena(slots, layer_offsets(recipe.spec)[-1], data)))


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
