"""A child process that is killed, stopped and frozen by its own pid, and whose words are kept in a file."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path


class Program:
    """A program that can be started again and again; one of its processes runs at a time.

    Args:
        command: the program and its arguments.
        log: file that its standard output and standard error are appended to.
        environment: of its processes; ``None`` is that of this process.
    """

    def __init__(self, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> None:
        self.command = tuple(command)
        self.log = log
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id of the present process."""
        assert self._process is not None, "the program was started"
        return self._process.pid

    @property
    def status(self) -> int | None:
        """The exit status of the last process; ``None`` while it runs, or before the first one."""
        return None if self._process is None else self._process.poll()

    @property
    def running(self) -> bool:
        """Whether a process runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def words(self) -> str:
        """Everything that its processes have said."""
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""

    def start(self, *arguments: str) -> None:
        """Start a process, with these arguments after the usual ones."""
        assert not self.running, f"{self.command[0]} runs already"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                [*self.command, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=None if self._environment is None else dict(self._environment),
                start_new_session=True,
            )

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; nothing happens where the process has ended."""
        if self.running:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once, as a power cut of this program alone would."""
        self.signal(signal.SIGKILL)
        self.wait()

    def terminate(self) -> None:
        """Ask it to end, and wait until it has."""
        self.signal(signal.SIGTERM)
        self.wait()

    def freeze(self) -> None:
        """Stop it where it is, with its connections open."""
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self.signal(signal.SIGCONT)

    def wait(self, limit_s: float = 120.0) -> int:
        """The exit status, once the process has ended.

        Raises:
            TimeoutError: it has not ended within ``limit_s``.
        """
        assert self._process is not None, "the program was started"
        try:
            return self._process.wait(limit_s)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"{Path(self.command[0]).name} still runs after {limit_s:g} s") from None

    def close(self) -> None:
        """End it, whatever state it is in."""
        if self.running:
            with suppress(ProcessLookupError):
                self.thaw()
                self.kill()


def wait_until(condition: Callable[[], bool], limit_s: float = 240.0, what: str = "") -> float:
    """Return the seconds that it took until ``condition`` held.

    Raises:
        TimeoutError: it did not hold within ``limit_s``.
    """
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > limit_s:
            raise TimeoutError(f"{what or 'what was waited for'} did not happen within {limit_s:g} s")
        time.sleep(0.02)
    return time.monotonic() - began
