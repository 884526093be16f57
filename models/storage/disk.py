"""The disk, as the programs use it: a small interface, so that a simulated disk can stand in for the real one.

A program that is killed loses nothing that `Disk.write`, `append`, `rename` or `remove` did. A machine that loses its
power keeps only what was synced; of the rest it may keep any part, in any order, torn anywhere:

    what must survive a power cut        call
    the content of a file                `sync` on the file
    that a name exists, or is gone       `sync_folder` on its folder

Whatever writes a file that is read again takes a ``disk``, by default `DISK`, the real one. A test, or the fault
simulation, passes a `lamina.emulation.faults.simulated_disk.SimulatedDisk` in its place: to ``Coordinator`` and
``Agent``, to ``Store``, ``History``, ``save_state`` and ``replace_file``.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from io import BufferedIOBase
from pathlib import Path
from typing import Protocol

Content = bytes | bytearray | memoryview


class Disk(Protocol):
    """A file system. Every method raises `OSError`, with the path in it, where the system refuses."""

    def open(self, path: Path) -> BufferedIOBase:
        """A file, to be read from its beginning."""

    def names(self, folder: Path) -> list[str]:
        """What a folder holds, ascending; empty where there is no such folder."""

    def make_folder(self, folder: Path) -> None:
        """Make a folder and those above it, where they are missing; they would survive a power cut."""

    def write(self, path: Path, parts: Iterable[Content]) -> None:
        """Write a file from its beginning, in place of what it held. A crash may leave it torn."""

    def append(self, path: Path, content: Content) -> None:
        """Write at the end of a file, which is made if need be. A crash may leave it torn."""

    def sync(self, path: Path) -> None:
        """Return when the content of a file would survive a power cut; its name may not."""

    def sync_folder(self, folder: Path) -> None:
        """Return when the names in a folder would survive a power cut: those made, renamed and removed so far."""

    def rename(self, path: Path, to: Path) -> None:
        """Give a file another name, at once, in place of the file that had it."""

    def remove(self, path: Path) -> None:
        """Remove a file; one that is not there is no error."""

    def remove_folder(self, folder: Path) -> None:
        """Remove a folder with all that is in it, for good; one that is not there is no error."""


class RealDisk:
    """The machine's own file system.

    Args:
        opener: of the files that are written, as ``open`` takes it; ``None`` is the usual one.
    """

    def __init__(self, opener: Callable[[str, int], int] | None = None) -> None:
        self._opener = opener

    def open(self, path: Path) -> BufferedIOBase:  # noqa: D102 - see Disk
        return path.open("rb")

    def names(self, folder: Path) -> list[str]:  # noqa: D102
        try:
            return sorted(os.listdir(folder))
        except FileNotFoundError:
            return []

    def make_folder(self, folder: Path) -> None:  # noqa: D102
        missing = [place for place in (folder, *folder.parents) if not place.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        for place in missing:
            self.sync_folder(place.parent)

    def write(self, path: Path, parts: Iterable[Content]) -> None:  # noqa: D102
        with _path_in_errors(path), open(path, "wb", opener=self._opener) as file:
            for part in parts:
                file.write(part)

    def append(self, path: Path, content: Content) -> None:  # noqa: D102
        with _path_in_errors(path), path.open("ab") as file:
            file.write(content)

    def sync(self, path: Path) -> None:  # noqa: D102
        with _path_in_errors(path), path.open("rb") as file:
            os.fsync(file.fileno())

    def sync_folder(self, folder: Path) -> None:  # noqa: D102
        with _path_in_errors(folder):
            opened = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(opened)
            finally:
                os.close(opened)

    def rename(self, path: Path, to: Path) -> None:  # noqa: D102
        os.replace(path, to)

    def remove(self, path: Path) -> None:  # noqa: D102
        path.unlink(missing_ok=True)

    def remove_folder(self, folder: Path) -> None:  # noqa: D102
        if folder.exists():
            shutil.rmtree(folder)
            self.sync_folder(folder.parent)


DISK: Disk = RealDisk()


def read(path: Path, disk: Disk = DISK) -> bytes:
    """All of a file."""
    with disk.open(path) as file:
        return file.read()


@contextmanager
def _path_in_errors(path: Path) -> Iterator[None]:
    """Name the path in an error of `write` or `fsync`, which know only the open file."""
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
