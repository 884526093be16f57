"""The services read one clock, that of their event loop, so a simulation that owns the loop owns their time."""

from __future__ import annotations

import asyncio


def now() -> float:
    """Seconds that only grow, on the running event loop's clock.

    Raises:
        RuntimeError: no event loop is running in this thread.
    """
    return asyncio.get_running_loop().time()
