"""One program at a time writes in a folder. A second one is told who holds it, and since when.

The lock is ``flock`` on a file, which the operating system releases when its holder ends, however it ends. What the
file says is for people alone.
"""

from __future__ import annotations

import fcntl
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

import msgspec

from lamina.models.decoding import from_json
from lamina.models.errors import ConfigError

LOCK_NAME = "lock"


class Holder(msgspec.Struct, frozen=True):
    """The program that holds a folder.

    Attributes:
        program: its name, such as ``lamina run``.
        process: its id.
        host: the machine's name.
        since: local time, ISO 8601.
    """

    program: str
    process: int
    host: str
    since: str

    @classmethod
    def this(cls, program: str) -> Holder:
        """This process, from now on."""
        return cls(program, os.getpid(), platform.node(), datetime.now().astimezone().isoformat(timespec="seconds"))


@contextmanager
def held(folder: Path, program: str) -> Iterator[None]:
    """Hold a folder, which is made if need be, as long as the context is open.

    Raises:
        ConfigError: another program holds it, or the folder can't be written to.
    """
    path = folder / LOCK_NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise ConfigError(f"folder {folder}: can't be written to: {error.strerror}") from error
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"folder {folder}: {_holder(file)}: end it first, or choose another folder") from None
        with suppress(OSError):  # on a full disk it is held all the same
            os.ftruncate(file, 0)
            os.pwrite(file, msgspec.json.encode(Holder.this(program)) + b"\n", 0)
        yield
    finally:
        os.close(file)


def _holder(file: int) -> str:
    try:
        holder = from_json(os.pread(file, 4096, 0), Holder)
    except msgspec.DecodeError:  # it has only just begun
        return "another program uses it"
    return f"{holder.program} (process {holder.process} on {holder.host}) has used it since {holder.since}"
