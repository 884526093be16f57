"""The exit statuses of ``lamina`` and ``lamina-agent``; docs/exit-codes.md has a remedy for each."""

from __future__ import annotations

from enum import IntEnum


class ExitStatus(IntEnum):
    """What a program says to the shell that started it.

    Attributes:
        DONE: it did what it was asked to.
        INCOMPLETE: it ran, and what it was to reach or to find in order was not so.
        MISUSED: a person must change something: settings, files, permissions, flags; the message says what.
        WENT_BACK: devices did not keep a deployed model.
        INTERRUPTED: Ctrl-C ended it.
        TERMINATED: SIGTERM ended it.
    """

    DONE = 0
    INCOMPLETE = 1
    MISUSED = 2
    WENT_BACK = 3
    INTERRUPTED = 130
    TERMINATED = 143
