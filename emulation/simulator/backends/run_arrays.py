"""The arrays of the virtual devices' states and of the data, which several processes can see without copies.

Only the active devices of a cycle have a state: a *slot* each. All others are an entry in a partition.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lamina.emulation.readers.raw import Array
from lamina.emulation.simulator.rows import Row, Rows, Runs, choose, chosen

_MEMORY_FILES = Path("/dev/shm")
_ROOM = 1.5  # of what is needed: others use the memory's file system, too

ARRAYS = ("rows", "momentum", "base", "x_train", "y_train", "x_test", "y_test")


@dataclass(frozen=True, eq=False)
class RunArrays:
    """Arrays that a run works on.

    Attributes:
        rows: the active devices' states, (slots, row_size).
        momentum: theirs, (slots, row_size).
        base: the global state, (row_size,).
        x_train: training samples of all devices, (N, *input_shape).
        y_train: their labels, (N,).
        x_test: held-out samples.
        y_test: their labels.
    """

    rows: Rows
    momentum: Rows
    base: Row
    x_train: Array
    y_train: Array
    x_test: Array
    y_test: Array

    def entering(self, slot: int, takes: Runs) -> Row:
        """A device's state as its round begins, to be read: its own row, with what it takes of the global state in it.

        Where it takes all, it is the global state itself, and the slot is left as it is: to write a row, and to read it
        again, would cost more than all else that a round does to it.
        """
        if takes == ((0, len(self.base)),):
            return self.base
        for start, stop in takes:
            self.rows[slot, start:stop] = self.base[start:stop]
        row: Row = self.rows[slot]
        return row

    def anchor(self, slot: int, personal: Runs) -> Row:
        """What FedProx pulls a device towards, to be read: the global state, with the device's own personal layers."""
        if not personal:
            return self.base
        anchor = self.base.copy()
        choose(anchor, personal, chosen(self.rows[slot], personal))
        return anchor


@dataclass(frozen=True)
class SharedArrays:
    """A run's arrays on files, as another process opens them.

    Attributes:
        folder: of the files.
        layouts: of each array: name, shape, type.
    """

    folder: Path
    layouts: tuple[tuple[str, tuple[int, ...], str], ...]

    def open(self) -> RunArrays:
        """The arrays, mapped: what one process writes, the others read."""
        return RunArrays(**{name: self._mapped(name, shape, dtype) for name, shape, dtype in self.layouts})

    def _mapped(self, name: str, shape: tuple[int, ...], dtype: str) -> Array:
        mapped = np.memmap(self.folder / name, np.dtype(dtype), "r+", shape=shape)
        return np.asarray(mapped)  # a plain array over the map: memmap's own methods cost microseconds each


def private_arrays(slots: int, row_size: int, data: Sequence[Array]) -> RunArrays:
    """Arrays of this process alone.

    Args:
        slots: active devices at once.
        row_size: elements of a state.
        data: x_train, y_train, x_test, y_test.
    """
    rows, momentum = np.zeros((slots, row_size), np.float32), np.zeros((slots, row_size), np.float32)
    return RunArrays(rows, momentum, np.zeros(row_size, np.float32), *data)


@contextmanager
def shared_arrays(slots: int, row_size: int, data: Sequence[Array]) -> Iterator[SharedArrays]:
    """Arrays on files in memory where there is room, else on disk; they vanish with the context."""
    shapes: list[tuple[int, ...]] = [(slots, row_size), (slots, row_size), (row_size,), *(part.shape for part in data)]
    types: list[np.dtype[Any]] = [*([np.dtype(np.float32)] * 3), *(part.dtype for part in data)]
    layouts = tuple((name, shape, kind.str) for name, shape, kind in zip(ARRAYS, shapes, types, strict=True))
    needed = sum(int(np.prod(shape)) * kind.itemsize for shape, kind in zip(shapes, types, strict=True))
    with tempfile.TemporaryDirectory(prefix="lamina-", dir=_memory_folder(needed)) as folder:
        for name, shape, dtype in layouts:
            np.memmap(Path(folder) / name, np.dtype(dtype), "w+", shape=shape)
        shared = SharedArrays(Path(folder), layouts)
        opened = shared.open()
        for array, part in zip((opened.x_train, opened.y_train, opened.x_test, opened.y_test), data, strict=True):
            array[...] = part
        del opened, array, part, data
        yield shared


def _memory_folder(needed_bytes: int) -> Path | None:
    """Return a folder whose files are memory, if it has the room; ``None`` is the usual place of temporary files."""
    if _MEMORY_FILES.is_dir() and shutil.disk_usage(_MEMORY_FILES).free > _ROOM * needed_bytes:
        return _MEMORY_FILES
    return None
