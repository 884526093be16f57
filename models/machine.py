"""What every program of Lamina asks of the machine and of the Python that it runs on."""

from __future__ import annotations

import os
import sys


def usable_cores() -> int:
    """Processor cores that this process may run on; all of them where the platform can't confine a process."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def module_command(module: str) -> tuple[str, ...]:
    """The command line that runs a module of this project in a process of its own.

    ``-P`` keeps the current folder off the child's import path: a user's ``json.py`` or ``lamina/`` there is not ours.
    """
    return (sys.executable, "-P", "-m", module)
