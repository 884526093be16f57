"""The activation cache: the input side's activations wait in a file, not in memory, until training reads them.

Rows are appended as they are computed, and read one by one into the batch that wants them. There is no memory map: its
pages would count as the process's memory, and a write through one kills the process on a full disk, where `pwrite`
fails with an error.

The file has no name in its folder, so that nothing is left of it when the process ends, however it ends.
"""

from __future__ import annotations

import errno
import math
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from lamina.models.errors import ConfigError

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

Rows = NDArray[np.float32]
Element = Literal["float32", "float16"]
_LARGEST_HALF = np.float32(65504)


class ActivationCacheFull(ConfigError):
    """The disk has no room for the activations."""


class ActivationCache:
    """Rows of one shape, in a file.

    Args:
        folder: on the disk that is to hold them; it is made if need be.
        row_shape: shape of one row.
        element: ``float32`` keeps them exactly; ``float16`` takes half of the room, and three digits of each number.

    Raises:
        ConfigError: the folder can't be written to.
    """

    def __init__(self, folder: Path, row_shape: Sequence[int], element: Element = "float32") -> None:
        self._folder = folder
        self._row_shape = tuple(row_shape)
        self._dtype = np.dtype(element)
        self._row_bytes = self._dtype.itemsize * math.prod(row_shape)
        self._count = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 - `close` closes it
        except OSError as error:
            raise ConfigError(f"folder {folder}: can't keep activations there: {error.strerror}") from error

    def __len__(self) -> int:
        return self._count

    def append(self, rows: Rows) -> None:
        """Write rows (B, *row_shape) after those that are there.

        Raises:
            ActivationCacheFull: the disk is full. The rows before are unharmed.
        """
        if self._dtype == np.float16:
            rows = np.clip(rows, -_LARGEST_HALF, _LARGEST_HALF)  # beyond it there is only infinity
        left = np.ascontiguousarray(rows, self._dtype).data.cast("B")
        position = self._count * self._row_bytes
        try:
            while left:
                written = os.pwrite(self._file.fileno(), left, position)
                left, position = left[written:], position + written
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            raise ActivationCacheFull(
                f"folder {self._folder}: the disk is full after {position / 2**20:.1f} MiB of activations: "
                f"make room, or give the agent another folder"
            ) from error
        self._count += len(rows)

    def read(self, positions: NDArray[np.int64]) -> Rows:
        """Copies of the rows at ``positions`` (B,), in that order: (B, *row_shape).

        Raises:
            IndexError: there is no such row.
        """
        if len(positions) and not 0 <= positions.min() <= positions.max() < self._count:
            raise IndexError(f"rows {positions.min()} to {positions.max()} of {self._count}")
        rows = np.empty((len(positions), *self._row_shape), self._dtype)
        for row, position in zip(rows, positions.tolist(), strict=True):
            os.preadv(self._file.fileno(), [row.data.cast("B")], position * self._row_bytes)
        return rows.astype(np.float32, copy=False)

    def clear(self) -> None:
        """Forget all rows, and give their room on the disk back."""
        self._file.truncate(0)
        self._count = 0

    def close(self) -> None:
        """Give everything back."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
