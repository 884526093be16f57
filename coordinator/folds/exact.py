"""Sums of vectors that do not depend on the order of their terms: in fixed point, where addition is exact.

Every term is rounded, once, to a multiple of 2^-36 (half to even), and the multiples are summed as integers. Integer
addition is associative and commutative: any order, and any tree of partial sums, ends in the same bits.

An ordinary layer's sums fit one int64 an element: multiples of 2^-36 up to 2^27. Where the norms of the terms do not
promise that, a second int64 holds the whole numbers, so that terms up to 2^35 are taken, 2^18 of them. Both words
together are one exact number; how it is spread over them shows in no result.

Rounding to the grid is one float64 addition: in [2^16, 2^17) float64 has steps of 2^-36, so the bits of
``term + 1.5 * 2^16``, read as an integer, are those of 1.5 * 2^16 plus the term's multiple. The constant is taken off
once for all terms (integers wrap, so it can't overflow).

Error: each term moves by at most 2^-37, so a sum of n terms by n * 2^-37, plus one float64 rounding when it is read.
For weights of at least 1, a weighted mean moves by at most 2^-37 (7.3e-12): under half a unit in the last place of
every float32 from 2^-13 (1.2e-4) upwards.

The idea is that of binned, pre-rounded summation: Demmel and Nguyen, "Fast Reproducible Floating-Point Summation"
(ARITH 2013), with one bin fixed in advance, because deltas and weights have known bounds.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from lamina.broker.wire.foldable import Delta, Floats
from lamina.coordinator.folds.cohort_pass import cohort_pass
from lamina.coordinator.folds.grid import BIAS, GRID, LANES, SNAP, Doubles, Steps
from lamina.coordinator.folds.numpy_passes import AddPass, Scratch, blocks, total, totals
from lamina.coordinator.folds.passes import add_pass, mean_pass

__all__ = ["GRID", "LARGEST_TERM", "MOST_TERMS", "Doubles", "ExactSum", "Steps"]

LARGEST_TERM = 2.0**35
"""Bound on the size of each term's elements."""

MOST_TERMS = 2**18
"""How many terms one sum has room for, merged sums included."""

_GRID_BITS = 36
assert GRID == 2.0**-_GRID_BITS

_NEAR = 2.0**15  # terms up to here are rounded by adding SNAP
_ROOM = 2.0**25  # sums up to here stay in the first word: two of them, and a term, still fit
_TOGETHER = 2**10  # terms that may be added before it is looked whether there is room: 2^10 of 2^15 are one more _ROOM


class ExactSum:
    """A running sum of vectors, each times its weight, that does not depend on their order.

    The caller keeps to `LARGEST_TERM` and `MOST_TERMS`. Memory: 8 bytes an element; 16 once terms are large.

    Args:
        size: elements of each vector.
        compiled: which pass to add by: the compiled one, numpy's, or (None) the one that suits the size.
    """

    def __init__(self, size: int, *, compiled: bool | None = None) -> None:
        self._near: Steps = np.zeros(size, np.int64)  # (n,) multiples of GRID, and `_biases` times BIAS
        self._far: Steps | None = None  # (n,) whole numbers
        self._biases = 0
        self._reach = 0.0  # no element of the near word is larger
        self._compiled = compiled
        self._pass: AddPass = add_pass(size, compiled)

    @property
    def size(self) -> int:
        """Elements."""
        return self._near.size

    def add_near(self, delta: Delta, weight: float, parameters: int) -> float | None:
        """Add ``weight * delta``; ``None``, and nothing is changed, where it is too large for this, or not finite.

        One pass over the delta. What it finds out at its end, that the norm is too large, is no harm: what was added
        exactly is taken back exactly.

        Args:
            delta: of ``size`` elements.
            weight: what to multiply it by, in float64.
            parameters: how many of its first elements count for the norm that is returned.

        Returns:
            The squared norm of the first ``parameters`` elements of ``weight * delta``.
        """
        squares = self.add_within(delta, weight, parameters, (math.inf, math.inf))
        return None if squares is None else squares[0]

    def add_within(
        self, delta: Delta, weight: float, parameters: int, most: tuple[float, float]
    ) -> tuple[float, float] | None:
        """Add ``weight * delta`` as `add_near` does, unless one of its two norms is larger than ``most`` allows.

        Args:
            delta: of ``size`` elements.
            weight: what to multiply it by, in float64.
            parameters: how many of its first elements the first norm is of; the second is of the others.
            most: the largest norms of ``weight * delta`` that are taken.

        Returns:
            The squares of both norms; ``None``, and nothing is changed, where it was not added.
        """
        lanes = np.zeros((2, LANES))
        squares, others = lanes
        self._add(delta, weight, parameters, squares, others)
        counted, rest = totals(lanes).tolist()
        norm = math.sqrt(counted + rest)
        if not (norm <= _NEAR and math.sqrt(counted) <= most[0] and math.sqrt(rest) <= most[1]):  # or NaN
            self._add(delta, weight, parameters, squares, others, take_back=True)
            return None
        self._grow(norm)
        return float(counted), float(rest)

    def add_rows(self, local: Floats, base: Floats, weights: Doubles, parameters: int) -> Doubles:
        """Add ``weights[i] * (local[i] - base)`` for every i, as `add_near` does; those it would not take stay out.

        Args:
            local: (m, size).
            base: (size,).
            weights: (m,).
            parameters: as in `add_near`.

        Returns:
            what `add_near` returns for each, (m,); NaN where that is ``None``.
        """
        squares = np.empty(len(local))
        for first in range(0, len(local), _TOGETHER):
            part = slice(first, first + _TOGETHER)
            squares[part] = self._add_rows(local[part], base, weights[part], parameters)
        return squares

    def add_far(self, delta: Delta, weight: float, parameters: int) -> float:
        """Add ``weight * delta``, whose elements are finite and up to `LARGEST_TERM`; otherwise as `add_near`."""
        far = self._widen()
        squares, scratch = np.zeros(LANES), Scratch(self.size)
        for start, stop in blocks(self.size):
            term = delta[start:stop].astype(np.float64)
            term *= weight
            scratch.add_squares(term[: max(0, parameters - start)], squares)
            whole = np.rint(term)
            far[start:stop] += whole.astype(np.int64)
            term -= whole  # exact: both are multiples of the term's last bit, and the result is smaller than either
            term += SNAP
            self._near[start:stop] += term.view(np.int64)
        self._biases += 1
        self._grow(1.0)
        return total(squares)

    def merge(self, other: ExactSum) -> None:
        """Add another sum's terms to this one. The other one stays what it is."""
        if other._far is not None:
            far = self._widen()
            far += other._far
        self._near += other._near
        self._biases += other._biases
        self._grow(other._reach)

    def value(self, start: int, stop: int) -> Doubles:
        """The sum's elements ``[start, stop)``, each rounded to float64 once."""
        self._settle()
        if self._far is None:
            return self._near[start:stop].astype(np.float64) * GRID
        self._carry(self._far)
        return self._far[start:stop] + self._near[start:stop] * GRID  # two exact numbers, and one rounding

    def mean_from(self, base: Floats, weight: float, parameters: int) -> tuple[Floats, float]:
        """``base`` and, on top of it, the sum over ``weight``, in float64, each element rounded to float32 once.

        Returns:
            that, (n,), and the squared norm of the first ``parameters`` elements of the sum over ``weight``.
        """
        value, lanes = np.empty(self.size, np.float32), np.zeros(LANES)
        if self._far is None:
            self._settle()
            mean_pass(self.size, self._compiled)(self._near, base, weight, parameters, value, lanes)
            return value, total(lanes)
        scratch = Scratch(self.size)
        for start, stop in blocks(self.size):
            mean = self.value(start, stop) / weight
            scratch.add_squares(mean[: max(0, parameters - start)], lanes)
            value[start:stop] = base[start:stop] + mean
        return value, total(lanes)

    def words(self) -> tuple[Steps, Steps | None]:
        """The sum as integers: multiples of `GRID`, and whole numbers to be added where these have no room.

        The same terms give the same words in any order.
        """
        self._settle()
        if self._far is not None:
            self._carry(self._far)
            if not np.any(np.abs(self._far) >= 2 * _ROOM):
                self._near += self._far << _GRID_BITS
                self._far, self._reach = None, 2 * _ROOM
        return self._near, self._far

    @classmethod
    def of_words(cls, near: NDArray[np.int64], far: NDArray[np.int64] | None) -> ExactSum:
        """The sum that `words` came from, in memory of its own.

        Raises:
            ValueError: no sum has such words.
        """
        sum_ = cls(near.size)
        sum_._near[:] = near
        sum_._reach = float(np.abs(near.astype(np.float64)).max(initial=0.0)) * GRID
        if sum_._reach > 2 * _ROOM:
            raise ValueError(f"a sum of {sum_._reach:.3g} is out of the first word's bounds")
        if far is not None:
            if np.abs(far.astype(np.float64)).max(initial=0.0) > LARGEST_TERM * MOST_TERMS:
                raise ValueError("a sum is out of the second word's bounds")
            sum_._far = far.copy()
        sum_._grow(0.0)
        return sum_

    def _add(
        self,
        delta: Delta,
        weight: float,
        parameters: int,
        squares: Doubles,
        others: Doubles,
        *,
        take_back: bool = False,
    ) -> None:
        self._pass(self._near[:parameters], delta, 0, weight, take_back, squares)
        if parameters < self._near.size:
            self._pass(self._near[parameters:], delta, parameters, weight, take_back, others)
        self._biases += -1 if take_back else 1

    def _add_rows(self, local: Floats, base: Floats, weights: Doubles, parameters: int) -> Doubles:
        """`add_rows`, of `_TOGETHER` at most."""
        add = cohort_pass(local.size, self._compiled)
        squares, others = np.zeros((len(local), LANES)), np.zeros((len(local), LANES))
        add(self._near[:parameters], local[:, :parameters], base[:parameters], weights, squares)
        add(self._near[parameters:], local[:, parameters:], base[parameters:], weights, others)
        self._biases += len(local)
        found = totals(squares)
        norms = np.sqrt(found + totals(others))
        strays = np.flatnonzero(~(norms <= _NEAR))  # or NaN
        for index in strays.tolist():
            with np.errstate(invalid="ignore", over="ignore"):
                delta = local[index] - base
            self._add(delta, float(weights[index]), parameters, squares[0], others[0], take_back=True)
        found[strays] = np.nan
        norms[strays] = 0.0
        self._grow(math.fsum(norms))
        return found

    def _grow(self, reach: float) -> None:
        """The near word may have grown by so much: make room in it while two of them still fit."""
        self._reach += reach
        if self._reach > _ROOM:
            self._carry(self._widen())

    def _widen(self) -> Steps:
        if self._far is None:
            self._far = np.zeros(self.size, np.int64)
        return self._far

    def _carry(self, far: Steps) -> None:
        """Move whole numbers to the far word: at most one half stays."""
        self._settle()
        whole = (self._near + (1 << (_GRID_BITS - 1))) >> _GRID_BITS
        far += whole
        whole <<= _GRID_BITS
        self._near -= whole
        self._reach = 1.0

    def _settle(self) -> None:
        """Take off what rounding the terms has left in every element."""
        if self._biases:
            wrapped = (self._biases * BIAS + 2**63) % 2**64 - 2**63
            self._near -= np.int64(wrapped)
            self._biases = 0
