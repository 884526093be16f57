"""A whole cohort's deltas are added to a fixed-point sum at once, to the bits of `folds.numpy_passes` one by one.

A server that holds all local values, such as a simulator, would spend more on the calls than on the sums if it added
device by device: a small layer has 300 elements. Here one call takes a layer of all devices, as a matrix:

    delta[i, k] = local[i, k] - base[k]                     in float32, as a device sends it
    term[i, k] = weights[i] delta[i, k]                     in float64
    sums[k] += bits of (term[i, k] + SNAP)                  integers: any order of i
    lanes[i, k % LANES] += term[i, k]^2                     in ascending k, for every i
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from lamina.broker.wire.foldable import Floats
from lamina.coordinator.folds.grid import LANES, SNAP, Doubles, Steps
from lamina.coordinator.folds.passes import worth_compiling

WORTH_LOADING = 1 << 21
"""Elements of a matrix from which on the compiled pass is worth loading; numpy takes 4 ms for so many."""

_ROOM = 256 * LANES  # elements of the scratch blocks, which stay in a core's cache


class CohortPass(Protocol):
    """Adds ``weights[i] * (local[i] - base)`` of every device i to sums."""

    def __call__(self, sums: Steps, local: Floats, base: Floats, weights: Doubles, lanes: Doubles, /) -> None:
        """Add to ``sums`` (n,), and each device's squares to its ``lanes`` (m, LANES).

        ``local`` (m, n) may be columns of a larger matrix; ``base`` is (n,), and ``weights`` (m,).
        """


def cohort_pass(elements: int, compiled: bool | None = None) -> CohortPass:
    """The pass for matrices of so many elements; ``compiled`` as in `lamina.coordinator.folds.passes.add_pass`."""
    if not (worth_compiling(elements, WORTH_LOADING) if compiled is None else compiled):
        return add_rows_in_blocks
    from lamina.coordinator.folds.compiled import add_rows_compiled  # numba takes a second to load

    return add_rows_compiled


def add_rows_in_blocks(sums: Steps, local: Floats, base: Floats, weights: Doubles, lanes: Doubles) -> None:
    """The pass in numpy: of small layers many devices at a time, of large ones a block of one device."""
    length = min(_ROOM, -(-max(1, sums.size) // LANES) * LANES)
    together = max(1, _ROOM // length)
    scratch = _CohortScratch(min(together, len(local)), length // LANES)
    for top in range(0, len(local), together):
        devices = slice(top, top + together)
        for left in range(0, sums.size, length):
            block = slice(left, left + length)
            scratch.add(sums[block], local[devices, block], base[block], weights[devices], lanes[devices], left > 0)


class _CohortScratch:
    """Scratch memory for terms and their squares, for so many devices, in so many rows of lanes."""

    def __init__(self, devices: int, rows: int) -> None:
        self._terms: Doubles = np.empty((devices, rows * LANES))
        self._squares: Doubles = np.empty(devices * (rows + 1) * LANES)

    def add(self, sums: Steps, local: Floats, base: Floats, weights: Doubles, lanes: Doubles, begun: bool) -> None:
        """Add a block; where devices have begun with another one, their lanes come before the block's squares."""
        devices, size = local.shape
        rows = -(-size // LANES)
        padded = self._terms[:devices, : rows * LANES]  # whole rows: what lies beyond the block adds 0 to its lanes
        terms, above = padded[:, :size], int(begun)
        squares = self._squares[: devices * (rows + above) * LANES].reshape(devices, rows + above, LANES)
        padded[:, size:] = 0
        with np.errstate(invalid="ignore", over="ignore"):  # NaN and infinity show in the norm
            np.subtract(local, base, out=terms)  # in float32, written out as float64
            if np.any(weights != 1.0):
                terms *= weights[:, None]
            if begun:
                squares[:, 0] = lanes
            np.square(padded.reshape(devices, rows, LANES), out=squares[:, above:])  # a view: full rows, or one device
            np.add.reduce(squares, axis=1, out=lanes)  # row by row: each lane's additions in ascending k
            terms += SNAP
        steps = terms.view(np.int64)
        sums += steps[0] if devices == 1 else np.add.reduce(steps, axis=0)
