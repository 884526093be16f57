"""Samples that are made when they are asked for: windows of a series, decoded files. They take no memory before."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lamina.models.arrays import Indices

Array = NDArray[Any]


class Rows(ABC):
    """An array along whose first axis rows are made on demand; all else is known beforehand.

    Attributes:
        shape: (N, ...) of all rows.
        dtype: of their elements.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def __getitem__(self, which: Indices | slice) -> Array:
        """The rows at ``which``, (B, ...)."""
        indices = np.arange(*which.indices(len(self))) if isinstance(which, slice) else np.asarray(which)
        return self._made(indices)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """All rows, (N, ...), in memory."""
        whole = self[:]
        return whole if dtype is None else whole.astype(dtype, copy=False)

    @abstractmethod
    def _made(self, indices: Indices) -> Array:
        """The rows at ``indices`` (B,)."""


class Windows(Rows):
    """Stretches of a series, which overlap where they like.

    Args:
        series: (T, C).
        starts: first row of each window, (N,).
        length: rows in a window.
    """

    def __init__(self, series: Array, starts: Indices, length: int) -> None:
        self._series, self._starts = series, starts
        self._steps = np.arange(length)
        self.shape = (len(starts), length, *series.shape[1:])
        self.dtype = series.dtype

    def _made(self, indices: Indices) -> Array:
        taken: Array = self._series[self._starts[indices][:, np.newaxis] + self._steps]  # (B, length, C)
        return taken


class DecodedFiles(Rows):
    """Samples each of which is decoded from its file when it is asked for.

    Args:
        count: how many there are.
        shape: of one.
        dtype: of its elements.
        decode: makes the sample with an index.
    """

    def __init__(self, count: int, shape: tuple[int, ...], dtype: Any, decode: Callable[[int], Array]) -> None:
        self.shape = (count, *shape)
        self.dtype = np.dtype(dtype)
        self._decode = decode

    def _made(self, indices: Indices) -> Array:
        made = np.empty((len(indices), *self.shape[1:]), self.dtype)
        for place, index in enumerate(indices):
            made[place] = self._decode(int(index))
        return made


def held(rows: DecodedFiles, most_bytes: int) -> Array | Rows:
    """The same samples, in memory if they take at most so many bytes there."""
    return rows[:] if int(np.prod(rows.shape)) * rows.dtype.itemsize <= most_bytes else rows
