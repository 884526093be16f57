"""Divides a device's samples into those that it trains on and those that it keeps to judge models by.

Nothing that is kept is ever trained on, whatever happens: which part a sample is in follows from the sample alone.

    a sample by itself    from a hash of its inputs: so copies of it are in one part, on every device
    a window of a series  from the rows that it covers: some stretches of rows are kept. A window inside one of these is
                          kept, a window that touches none is trained on, and one that lies across an end is neither

So a restart, another order and further samples change nothing, and no window of one part has a row of the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lamina.models.arrays import Indices
from lamina.models.readers.rows import Array, Rows
from lamina.models.samples import LabelledSamples, Stored

LARGEST_SHARE = 0.5

_BLOCK = 1024  # samples looked at together
_KEY = b"lamina held out"
_SPANS = 2  # a stretch of rows that is kept is so many windows long


class Parts(NamedTuple):
    """Indices of samples, ascending.

    Attributes:
        trained: those that are trained on; one at least.
        kept: those that models are judged by.
    """

    trained: Indices
    kept: Indices


def divided(data: LabelledSamples, share: float) -> Parts:
    """The two parts of a device's samples.

    Args:
        data: its samples.
        share: about so much of them is kept; 0 keeps none. Where nothing would be left to train on, none is kept.
    """
    everything = np.arange(len(data))
    if not share:
        return Parts(everything, everything[:0])
    stretches = data.stretches
    trained, kept = _by_content(data, share) if stretches is None else _by_rows(stretches, share)
    if not trained.any():
        return Parts(everything, everything[:0])
    return Parts(np.flatnonzero(trained), np.flatnonzero(kept))


def _by_rows(stretches: NDArray[np.integer[Any]], share: float) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which windows are trained on, and which are kept, by the rows (series, first, stop) that each covers."""
    first, stop = stretches[:, 1], stretches[:, 2]
    length = _SPANS * int((stop - first).max())
    period = max(int(np.ceil(length / share)), length + 1)
    place = first % period  # rows 0 to length of each period are kept
    within = place + (stop - first)
    return (place >= length) & (within <= period), within <= length


def _by_content(data: LabelledSamples, share: float) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which samples are trained on, and which are kept, by the numbers in each; targets may be numbered anew."""
    kept, below = np.zeros(len(data), bool), int(share * 2**64)
    arrays = [part for _, part in sorted(data.parts.items())]
    for start in range(0, len(data), _BLOCK):
        blocks = [np.ascontiguousarray(array[start : start + _BLOCK]) for array in arrays]
        for place in range(len(blocks[0])):
            digest = blake2b(digest_size=8, key=_KEY)
            for block in blocks:
                digest.update(block[place].tobytes())
            kept[start + place] = int.from_bytes(digest.digest(), "big") < below
    return ~kept, kept


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
    """The samples to train on, and those that are kept, by `divided`; ``None`` where none is.

    Args:
        samples: all of them.
        share: of them is kept, up to `LARGEST_SHARE`; 0: none.
    """
    trained, kept = divided(samples, share)
    if len(trained) == len(samples):
        return samples, None
    return _chosen(samples, trained), _chosen(samples, kept) if len(kept) else None


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
    stretches = None if samples.stretches is None else samples.stretches[indices]
    return replace(samples, x=chosen, y=y, stretches=stretches)
