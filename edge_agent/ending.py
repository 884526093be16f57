"""A process that was asked to end ends, also where a graph that it was given never does."""

from __future__ import annotations

import logging
import os
import threading

log = logging.getLogger("lamina.agent")

PATIENCE_S = 8.0
"""How long a step may go on after the process was asked to end. The state on the disk is whole at any time."""


def end_by_force_after(wait_s: float, status: int) -> threading.Timer:
    """Have the process end with a status after some seconds, whatever its threads are doing; cancelled, it goes on."""

    def end() -> None:
        log.warning("a training step goes on %.0f s after the agent was asked to end: ending without it", wait_s)
        logging.shutdown()
        os._exit(status)

    timer = threading.Timer(wait_s, end)
    timer.daemon = True
    timer.start()
    return timer
