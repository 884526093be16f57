"""How is one delta added to a fixed-point sum? In one pass over it, which also takes its norm.

A pass does this to every element k, in float64:

    term = weight * delta[k]                            exact for whole weights
    sums[k] += bits of (term + SNAP)                    `lamina.coordinator.folds.exact` says why
    lanes[k % LANES] += term * term                     in ascending k

The order of the last line's additions is settled, here and in the compiled pass, and nothing is left to a BLAS: norms
come out the same, bit for bit, on every machine.

numpy walks over the delta in blocks that stay in a core's cache, eight times for each; `folds.compiled` does all
in one go, where numba is installed (``pip install lamina-fl[fast]``).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lamina.broker.wire.foldable import Delta, Floats, Joined

Doubles = NDArray[np.float64]
Steps = NDArray[np.int64]

GRID = 2.0**-36
"""What terms are rounded to."""

SNAP = 1.5 * 2.0**16
"""Added to a term of at most 2^15, it leaves the term's multiple of 2^-36 in the result's last bits."""

BIAS = int(np.array(SNAP).view(np.int64))
"""The bits of SNAP, which every term leaves in a sum beside its own."""

LANES = 256
"""Partial sums of a norm. Element k goes to lane ``k % LANES``."""

_BLOCK = 128 * LANES  # elements: the scratch blocks and the sums' slice fill half of a 1 MiB cache

_WORTH_LOADING = 1 << 16  # elements of a delta from which on the compiled pass is worth loading
_WORTH_LOADING_FIRST = 1 << 20  # elements that a round folds, in layers of whatever size
_COMPILED = "lamina.coordinator.folds.compiled"


class AddPass(Protocol):
    """Adds ``weight * delta`` to sums, or takes it back."""

    def __call__(
        self, sums: Steps, delta: Delta, start: int, weight: float, take_back: bool, lanes: Doubles, /
    ) -> None:
        """Add the elements of ``delta`` from ``start`` on to all of ``sums``, and their squares to ``lanes``."""


def add_pass(size: int, compiled: bool | None = None) -> AddPass:
    """The pass for vectors of ``size`` elements.

    Args:
        size: of the vector.
        compiled: True and False insist; None takes the compiled one where `worth_compiling`.

    Raises:
        ImportError: numba is insisted on, and isn't installed.
    """
    if not (worth_compiling(size, _WORTH_LOADING) if compiled is None else compiled):
        return add_in_blocks
    from lamina.coordinator.folds.compiled import add_compiled  # numba takes a second to load

    return add_compiled


class MeanPass(Protocol):
    """Reads a mean from sums, and adds it to a base."""

    def __call__(
        self, sums: Steps, base: Floats, weight: float, parameters: int, value: Floats, lanes: Doubles, /
    ) -> None:
        """Set ``value`` to ``base + sums * GRID / weight``, and add the squares of the quotient to ``lanes``.

        In float64, with one rounding to float32. Of the quotient, the first ``parameters`` elements count.
        """


def mean_pass(size: int, compiled: bool | None = None) -> MeanPass:
    """The pass for vectors of ``size`` elements; ``compiled`` as in `add_pass`."""
    if not (worth_compiling(size, _WORTH_LOADING) if compiled is None else compiled):
        return mean_in_blocks
    from lamina.coordinator.folds.compiled import mean_compiled

    return mean_compiled


def worth_compiling(elements: int, worth_loading: int) -> bool:
    """Whether to take the compiled pass, which gives the same bits: once it is loaded, always.

    Until then from ``worth_loading`` elements on, where numba is installed: it takes a second and 125 MiB.
    """
    return _COMPILED in sys.modules or (elements >= worth_loading and find_spec("numba") is not None)


def load_if_worth_it(elements: int) -> None:
    """Load the compiled pass, which takes a second, before a federation that folds so many elements a round begins."""
    if worth_compiling(elements, _WORTH_LOADING_FIRST):
        import_module(_COMPILED)


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
    """Where blocks of terms and of their squares stand meanwhile.

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
