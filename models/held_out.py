"""Sets samples aside that a device does not train on, so that it can judge models by them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from lamina.models.arrays import Indices
from lamina.models.readers.rows import Array, Rows
from lamina.models.samples import LabelledSamples, Stored

LARGEST_SHARE = 0.5


class ChosenRows(Rows):
    """Some rows of others, which stay where they are: in memory, on disk, or not made yet.

    Args:
        rows: (N, ...).
        indices: which of them, (M,).
    """

    def __init__(self, rows: Stored, indices: Indices) -> None:
        self._rows, self._indices = rows, indices
        self.shape = (len(indices), *rows.shape[1:])
        self.dtype = np.dtype(rows.dtype)

    def _made(self, indices: Indices) -> Array:
        return np.asarray(self._rows[self._indices[indices]])


def parted(samples: LabelledSamples, share: float) -> tuple[LabelledSamples, LabelledSamples | None]:
    """The samples to train on, and those that are set aside.

    Every k-th one is set aside, so that a set that grows at its end keeps those that it had, and one that is sorted
    gives some of each kind. Where there are fewer than k, none is.

    Args:
        samples: all of them.
        share: to be set aside, up to `LARGEST_SHARE`; 0: none.
    """
    if not share:
        return samples, None
    every = max(round(1 / min(share, LARGEST_SHARE)), 2)
    places = np.arange(len(samples))
    aside = places % every == every - 1
    if not aside.any():
        return samples, None
    return _chosen(samples, np.flatnonzero(~aside)), _chosen(samples, np.flatnonzero(aside))


def at_most(samples: LabelledSamples, count: int) -> LabelledSamples:
    """So many of the samples, or all of them, spread evenly."""
    if len(samples) <= count:
        return samples
    return _chosen(samples, np.linspace(0, len(samples) - 1, count).round().astype(np.int64))


def _chosen(samples: LabelledSamples, indices: Indices) -> LabelledSamples:
    x, y = samples.x, samples.y
    chosen = (
        {name: ChosenRows(part, indices) for name, part in x.items()}
        if isinstance(x, Mapping)
        else ChosenRows(x, indices)
    )
    if y is not None:
        y = y[indices] if isinstance(y, np.ndarray) else ChosenRows(y, indices)
    return replace(samples, x=chosen, y=y)
