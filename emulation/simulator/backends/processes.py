"""Starts the simulator's processes from a server that has torch loaded: at once, with its pages in common."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, TypeVar

from lamina.models.errors import LaminaError

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext

A = TypeVar("A")
T = TypeVar("T")


def context() -> ForkServerContext:
    """The context of all processes that the simulator starts."""
    # The server is started by `python -c`, which would put the current folder first on its path.
    os.environ["PYTHONSAFEPATH"] = "1"
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(["lamina.emulation.simulator.preloaded"])
    return found


def apart(function: Callable[[A], T], argument: A) -> T:
    """What the function makes of the argument, from a process of its own, whose memory goes with it; or what it raises.

    Raises:
        LaminaError: the process vanished.
    """
    with ProcessPoolExecutor(1, context()) as executor:
        try:
            return executor.submit(function, argument).result()
        except BrokenProcessPool as error:
            raise LaminaError("a process of the simulator vanished, most often for lack of memory") from error
