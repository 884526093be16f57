"""The passes in plain NumPy: they walk over a delta in blocks that stay in a core's cache, eight times for each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np

from lamina.broker.wire.foldable import Delta, Floats, Joined
from lamina.coordinator.folds.grid import GRID, LANES, SNAP, Doubles, Steps

_BLOCK = 128 * LANES  # elements: the scratch blocks and the sums' slice fill half of a 1 MiB cache


class AddPass(Protocol):
    """Adds ``weight * delta`` to sums, or takes it back."""

    def __call__(
        self, sums: Steps, delta: Delta, start: int, weight: float, take_back: bool, lanes: Doubles, /
    ) -> None:
        """Add the elements of ``delta`` from ``start`` on to all of ``sums``, and their squares to ``lanes``."""


class MeanPass(Protocol):
    """Reads a mean from sums, and adds it to a base."""

    def __call__(
        self, sums: Steps, base: Floats, weight: float, parameters: int, value: Floats, lanes: Doubles, /
    ) -> None:
        """Set ``value`` to ``base + sums * GRID / weight``, and add the squares of the quotient to ``lanes``.

        In float64, with one rounding to float32. Of the quotient, the first ``parameters`` elements count.
        """


def add_in_blocks(sums: Steps, delta: Delta, start: int, weight: float, take_back: bool, lanes: Doubles) -> None:
    """The pass in numpy; see `AddPass`."""
    scratch = Scratch(sums.size)
    step = np.subtract if take_back else np.add
    with np.errstate(invalid="ignore"):  # NaN and infinity show in the norm
        for first, last in blocks(sums.size):
            term = scratch.term[: last - first]
            np.copyto(term, delta[start + first : start + last])
            if weight != 1.0:
                term *= weight
            scratch.add_squares(term, lanes)
            term += SNAP
            step(sums[first:last], term.view(np.int64), out=sums[first:last])


def mean_in_blocks(sums: Steps, base: Floats, weight: float, parameters: int, value: Floats, lanes: Doubles) -> None:
    """The pass in numpy; see `MeanPass`."""
    scratch = Scratch(sums.size)
    for start, stop in blocks(sums.size):
        mean = scratch.term[: stop - start]
        np.multiply(sums[start:stop], GRID, out=mean)
        mean /= weight
        scratch.add_squares(mean[: max(0, parameters - start)], lanes)
        np.add(base[start:stop], mean, out=value[start:stop], casting="same_kind")


def add_parts(
    add: AddPass, sums: Steps, delta: Joined, start: int, weight: float, take_back: bool, lanes: Doubles
) -> None:
    """The pass over one part after the other, as if they were one vector."""
    done = 0
    for part, begin, end in delta.overlaps(start, start + sums.size):
        stop, phase = done + end - begin, done % LANES
        turned = np.roll(lanes, -phase)  # the part's first element goes to the lane that is its turn
        add(sums[done:stop], part, begin, weight, take_back, turned)
        lanes[:] = np.roll(turned, phase)
        done = stop


class Scratch:
    """Scratch memory for blocks of terms and of their squares.

    Attributes:
        term: of the length of a block, or of the shorter vector.
    """

    def __init__(self, size: int) -> None:
        length = min(_BLOCK, size)
        self.term: Doubles = np.empty(length)
        self._squares: Doubles = np.empty((length // LANES + 1, LANES))

    def add_squares(self, term: Doubles, lanes: Doubles) -> None:
        """Add the squares of ``term``'s elements to the lanes. A vector's blocks, but for its last, fill all lanes."""
        rows = term.size // LANES
        stop = rows * LANES
        if rows:
            table = self._squares[: rows + 1]
            table[0] = lanes
            np.square(term[:stop].reshape(rows, LANES), out=table[1:])
            np.add.reduce(table, axis=0, out=lanes)  # row by row: each lane's additions in ascending k
        lanes[: term.size - stop] += np.square(term[stop:])


def total(lanes: Doubles) -> float:
    """The sum of the lanes, (LANES,)."""
    return float(totals(lanes[None])[0])


def totals(lanes: Doubles) -> Doubles:
    """The sum of each row of lanes, (m, LANES) to (m,), halves added to halves."""
    while lanes.shape[1] > 1:
        half = lanes.shape[1] // 2
        lanes = lanes[:, :half] + lanes[:, half:]
    return lanes[:, 0]


def blocks(size: int) -> Iterator[tuple[int, int]]:
    """Bounds of the blocks that a vector is walked in."""
    for first in range(0, size, _BLOCK):
        yield first, min(first + _BLOCK, size)
