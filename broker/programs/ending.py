"""How a program ends that is asked to: SIGTERM and Ctrl-C alike cancel what runs, which then says goodbye.

A second signal ends it at once; and so does time, where something runs that nobody can cancel.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import signal
import sys
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from lamina.broker.programs.exit_status import ExitStatus
from lamina.models.errors import require

_T = TypeVar("_T")

log = logging.getLogger("lamina")

STATUS_OF = {signal.SIGINT: ExitStatus.INTERRUPTED, signal.SIGTERM: ExitStatus.TERMINATED}
"""The exit status of a program that a signal kept from its end, as shells have it."""


def run_until_signalled(main: Coroutine[Any, Any, _T], *, patience_s: float | None = None) -> _T | signal.Signals:
    """What the coroutine returns, or the signal that ended it.

    Args:
        main: the program.
        patience_s: seconds after a signal in which it must have ended: then the process is ended, whatever its threads
            are doing; ``None`` waits for it.
    """
    forced: list[threading.Timer] = []
    try:
        return asyncio.run(_until_signalled(main, patience_s, forced))
    finally:  # the loop has waited for its threads by now
        for timer in forced:
            timer.cancel()


def end_by_force_after(wait_s: float, status: int) -> threading.Timer:
    """Have the process end with a status after some seconds, unless the timer is cancelled."""

    def end() -> None:
        log.warning("something goes on %.0f s after the program was asked to end: ending without it", wait_s)
        logging.shutdown()
        os._exit(status)

    timer = threading.Timer(wait_s, end)
    timer.daemon = True
    timer.start()
    return timer


async def _until_signalled(
    main: Coroutine[Any, Any, _T], patience_s: float | None, forced: list[threading.Timer]
) -> _T | signal.Signals:
    running = asyncio.ensure_future(main)
    caught: list[signal.Signals] = []
    loop = asyncio.get_running_loop()

    def end(number: signal.Signals) -> None:
        caught.append(number)
        running.cancel()
        if patience_s is not None:
            forced.append(end_by_force_after(patience_s, STATUS_OF[number]))
        for each in STATUS_OF:  # the next one does what it would have done without us
            loop.remove_signal_handler(each)
            signal.signal(each, signal.SIG_DFL)

    for number in STATUS_OF:
        loop.add_signal_handler(number, end, number)
    try:
        return await running
    except asyncio.CancelledError:
        if caught:
            return caught[0]
        raise


def refuse_windows(platform: str = sys.platform) -> None:
    """Say plainly what is not supported, before something fails for want of it.

    Raises:
        ConfigError: this is Windows.
    """
    require(platform != "win32", "Windows is not supported: run it in WSL 2, or in the container of the Dockerfile")


_ADVICE: dict[int | None, str] = {
    errno.ENOSPC: "free some space, and start again: what was written before is unharmed",
    errno.EDQUOT: "free some space, and start again: what was written before is unharmed",
    errno.EROFS: "make it writable, or choose another folder",
    errno.EACCES: "give this user the right to it, or choose another folder",
    errno.EPERM: "give this user the right to it, or choose another folder",
    errno.EIO: "look at the disk, and at the system's log",
}


def said_of(error: OSError) -> str:
    """An error of the operating system in one line: what is wrong, with which file, and what to do."""
    files = " and ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
    text = f"{files}: {error.strerror}" if files else str(error)
    return f"{text}; {_ADVICE[error.errno]}" if files and error.errno in _ADVICE else text


def drop_output() -> None:
    """Have what is still to be printed go nowhere: whoever read standard output has closed it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
