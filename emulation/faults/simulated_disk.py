"""A disk that loses, tears and reorders what was not synced, drawn from a seed.

It stands in for `lamina.models.storage.disk.DISK` wherever a ``disk`` is taken. How it is used:

    disk = SimulatedDisk(seed=7)
    disk.stop_after(12)                     # the 13th change raises `Stopped`, and so does each after it
    try:
        run_something(disk)
    except Stopped:
        pass
    disk = disk.after_power_cut()           # or disk.after_kill(): what the next start finds
    run_something_again(disk)

A power cut keeps what was synced, and of the rest what the seed says: every 512 bytes of a file on their own, the old
ones, the new ones, or zeros; every new, renamed or removed name on its own, unless its folder was synced. A kill keeps
every finished change, and a part of the one that it interrupts. A folder is there for good once it is made.

A disk may also be full (`room_bytes`), read-only (`read_only`), or wrong (`flip_bit`).
"""

from __future__ import annotations

import errno
import io
import os
import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from io import BufferedIOBase
from pathlib import Path

from lamina.models.storage.disk import Content

_SECTOR_BYTES = 512


class Stopped(BaseException):
    """The machine lost its power, or the process was killed, during this change. No program may catch it."""


@dataclass(eq=False)
class _File:
    """A file's content: as programs see it, and as it was when it was last synced."""

    content: bytearray = field(default_factory=bytearray)
    synced: bytes = b""


@dataclass
class _Folder:
    """The names in a folder: as programs see them, as they were last synced, and the changes since, in order.

    A change gives names to files; a name without a file is one that is removed.
    """

    names: dict[str, _File] = field(default_factory=dict)
    synced: dict[str, _File] = field(default_factory=dict)
    changes: list[dict[str, _File | None]] = field(default_factory=list)

    def change(self, change: dict[str, _File | None]) -> None:
        self.changes.append(change)
        _apply(self.names, change)


class SimulatedDisk:
    """A `lamina.models.storage.disk.Disk` in memory.

    Args:
        seed: of what a power cut keeps, and of where a kill interrupts.

    Attributes:
        changes: how many were made: each write of a part, append, sync, rename and removal counts.
        room_bytes: what still fits; ``None``: anything. Space that is removed or replaced comes back.
        read_only: every change is refused.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._folders: dict[Path, _Folder] = {}
        self._stop_at: int | None = None
        self.changes = 0
        self.room_bytes: int | None = None
        self.read_only = False

    # -- what a program does -------------------------------------------------------------------------------------------

    def open(self, path: Path) -> BufferedIOBase:
        """A file, to be read from its beginning."""
        return io.BytesIO(bytes(self._file(path).content))

    def names(self, folder: Path) -> list[str]:
        """What a folder holds, ascending; empty where there is no such folder."""
        below = {place.name for place in self._folders if place.parent == folder and place != folder}
        here = self._folders.get(folder)
        return sorted(below | set(here.names if here else ()))

    def make_folder(self, folder: Path) -> None:
        """Make a folder and those above it, where they are missing; they would survive a power cut."""
        if folder not in self._folders:
            self._check_writable(folder)
        for place in (folder, *folder.parents):
            self._folders.setdefault(place, _Folder())

    def write(self, path: Path, parts: Iterable[Content]) -> None:
        """Write a file from its beginning, in place of what it held."""
        self._check_writable(path)
        folder = self._folder(path.parent)
        if path.name not in folder.names:
            self._count()
            folder.change({path.name: _File()})
        file = folder.names[path.name]
        self._give_back(file)
        file.content.clear()
        for part in parts:
            self._extend(path, file, bytes(part))

    def append(self, path: Path, content: Content) -> None:
        """Write at the end of a file, which is made if need be."""
        self._check_writable(path)
        folder = self._folder(path.parent)
        if path.name not in folder.names:
            self._count()
            folder.change({path.name: _File()})
        self._extend(path, folder.names[path.name], bytes(content))

    def sync(self, path: Path) -> None:
        """Return when the content of a file would survive a power cut; its name may not."""
        file = self._file(path)
        self._count()
        file.synced = bytes(file.content)

    def sync_folder(self, folder: Path) -> None:
        """Return when the names in a folder would survive a power cut."""
        found = self._folder(folder)
        self._count()
        found.synced = dict(found.names)
        found.changes.clear()

    def rename(self, path: Path, to: Path) -> None:
        """Give a file another name in the same folder, in place of the file that had it."""
        self._check_writable(path)
        if path.parent != to.parent:
            raise ValueError("the simulated disk renames within a folder alone")
        file, folder = self._file(path), self._folder(path.parent)
        self._count()
        if replaced := folder.names.get(to.name):
            self._give_back(replaced)
        folder.change({path.name: None, to.name: file})

    def remove(self, path: Path) -> None:
        """Remove a file; one that is not there is no error."""
        folder = self._folders.get(path.parent)
        if folder is None or path.name not in folder.names:
            return
        self._check_writable(path)
        self._count()
        self._give_back(folder.names[path.name])
        folder.change({path.name: None})

    def remove_folder(self, folder: Path) -> None:
        """Remove a folder with all that is in it; one that is not there is no error."""
        for place in [place for place in self._folders if folder in (place, *place.parents)]:
            for name in list(self._folders[place].names):
                self.remove(place / name)
            del self._folders[place]

    # -- what befalls it -----------------------------------------------------------------------------------------------

    def stop_after(self, changes: int) -> None:
        """Let so many more changes be made; the next one raises `Stopped`, and so does each after it."""
        self._stop_at = self.changes + changes

    def after_power_cut(self) -> SimulatedDisk:
        """What the next start finds on a machine that lost its power just now."""
        found = SimulatedDisk(self._random.getrandbits(64))
        likelihood = self._random.choice((0.0, 0.1, 0.5, 0.9, 1.0))  # that a change which was not synced is kept
        kept: dict[_File, _File] = {}
        for place, folder in self._folders.items():
            names = dict(folder.synced)
            for change in folder.changes:
                if self._random.random() < likelihood:
                    _apply(names, change)
            for file in names.values():
                if file not in kept:
                    content = self._torn(file, likelihood)
                    kept[file] = _File(bytearray(content), content)
            now = {name: kept[file] for name, file in names.items()}
            found._folders[place] = _Folder(now, dict(now))
        return found

    def after_kill(self) -> SimulatedDisk:
        """What the next start finds where the process was killed just now, and the machine lives: all of it.

        What was not synced is still not: a power cut after it may take it.
        """
        self._stop_at = None
        return self

    def flip_bit(self, path: Path) -> None:
        """Have one bit of a file read the wrong way from now on, if it has any."""
        file = self._file(path)
        if not file.content:
            return
        bit = self._random.randrange(8 * len(file.content))
        file.content[bit // 8] ^= 1 << bit % 8
        file.synced = bytes(file.content)

    # -- inside --------------------------------------------------------------------------------------------------------

    def _torn(self, file: _File, likelihood: float) -> bytes:
        """A file's content after a power cut: sector by sector the synced one, the new one, or zeros."""
        new, old = bytes(file.content), file.synced
        if new == old:
            return old
        size = len(old) if self._random.random() >= likelihood else self._random.choice((len(new), len(new), len(old)))
        content = bytearray()
        for start in range(0, size, _SECTOR_BYTES):
            stop = min(start + _SECTOR_BYTES, size)
            chosen = new if self._random.random() < likelihood else old
            content += chosen[start:stop].ljust(stop - start, b"\0")
        return bytes(content)

    def _extend(self, path: Path, file: _File, content: bytes) -> None:
        try:
            self._count()
        except Stopped:
            file.content += content[: self._random.randrange(len(content) + 1)]
            raise
        if self.room_bytes is not None:
            if len(content) > self.room_bytes:
                file.content += content[: self.room_bytes]
                self.room_bytes = 0
                raise _refused(errno.ENOSPC, path)
            self.room_bytes -= len(content)
        file.content += content

    def _give_back(self, file: _File) -> None:
        if self.room_bytes is not None:
            self.room_bytes += len(file.content)

    def _count(self) -> None:
        if self._stop_at is not None and self.changes >= self._stop_at:
            raise Stopped
        self.changes += 1

    def _check_writable(self, path: Path) -> None:
        if self.read_only:
            raise _refused(errno.EROFS, path)

    def _folder(self, folder: Path) -> _Folder:
        if folder not in self._folders:
            raise _refused(errno.ENOENT, folder)
        return self._folders[folder]

    def _file(self, path: Path) -> _File:
        folder = self._folders.get(path.parent)
        if folder is None or path.name not in folder.names:
            raise _refused(errno.ENOENT, path)
        return folder.names[path.name]


def _apply(names: dict[str, _File], change: dict[str, _File | None]) -> None:
    for name, file in change.items():
        if file is None:
            names.pop(name, None)
        else:
            names[name] = file


def _refused(number: int, path: Path) -> OSError:
    return OSError(number, os.strerror(number), str(path))
