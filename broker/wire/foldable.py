"""Deltas as their codec has them, which a fold can add without writing them out as floats first.

A fold walks over a delta in blocks, and asks for one block of float32 at a time: so a codec may decode while the
coordinator folds, and the whole vector never exists. What it gives is to the bit what its ``decode`` gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

INT8_BLOCK = 256
"""Elements that share a scale in `Int8Blocks`."""


class Delta(Protocol):
    """A float32 vector (n,), or something that gives a slice of one as it is asked for.

    Attributes:
        size: n.
    """

    @property
    def size(self) -> int: ...  # noqa: D102 - see Attributes

    def __getitem__(self, part: slice, /) -> Floats:
        """Elements ``[start, stop)`` of the vector, float32; to be read only."""


@dataclass(frozen=True, slots=True, eq=False)
class Int8Blocks:
    """Whole numbers in blocks of 256 with a scale each: element k is ``quanta[k] * scales[(first + k) // 256]``.

    Attributes:
        quanta: int8 (n,).
        scales: float32, one a block, from the one that element 0 lies in.
        first: place of element 0 in its block, 0 to 255.
    """

    quanta: NDArray[np.int8]
    scales: Floats
    first: int = 0

    def __post_init__(self) -> None:
        blocks = -(-(self.first + self.quanta.size) // INT8_BLOCK)
        if self.quanta.dtype != np.int8 or self.scales.dtype != np.float32 or self.scales.shape != (blocks,):
            raise ValueError(f"{self.quanta.size} quanta need {blocks} scales, not {self.scales.shape}")

    @property
    def size(self) -> int:
        """Elements."""
        return self.quanta.size

    def cut(self, start: int, stop: int) -> Int8Blocks:
        """Elements ``[start, stop)``, still as whole numbers."""
        begin, end = self.first + start, self.first + stop
        scales = self.scales[begin // INT8_BLOCK : -(-end // INT8_BLOCK)]
        return Int8Blocks(self.quanta[start:stop], scales[: -(-(begin % INT8_BLOCK + stop - start) // INT8_BLOCK)],
                          begin % INT8_BLOCK)  # fmt: skip

    def __getitem__(self, part: slice) -> Floats:
        """Elements of the vector."""
        start, stop, _ = part.indices(self.size)
        values = self.quanta[start:stop].astype(np.float32)
        begin = self.first + start
        head = min(-begin % INT8_BLOCK, values.size)  # up to the first edge of a block
        rows = (values.size - head) // INT8_BLOCK
        tail = head + rows * INT8_BLOCK
        block = begin // INT8_BLOCK
        if head:
            values[:head] *= self.scales[block]
            block += 1
        table = values[head:tail].reshape(rows, INT8_BLOCK)
        table *= self.scales[block : block + rows, None]
        if tail < values.size:
            values[tail:] *= self.scales[block + rows]
        return values


class Joined:
    """Deltas one after the other: a layer's kernel in whole numbers, for instance, and its norm in floats.

    Attributes:
        parts: in their order.
        edges: where each starts, and where the last one ends.
    """

    def __init__(self, parts: Sequence[Delta]) -> None:
        self.parts = tuple(parts)
        self.edges = (0, *accumulate(part.size for part in self.parts))

    @property
    def size(self) -> int:
        """Elements of all."""
        return self.edges[-1]

    def overlaps(self, start: int, stop: int) -> list[tuple[Delta, int, int]]:
        """The parts that ``[start, stop)`` touches, and from where to where in each."""
        return [
            (part, max(start, begin) - begin, min(stop, end) - begin)
            for part, (begin, end) in zip(self.parts, pairwise(self.edges), strict=True)
            if max(start, begin) < min(stop, end)
        ]

    def __getitem__(self, part: slice) -> Floats:
        """Elements of the vector."""
        start, stop, _ = part.indices(self.size)
        pieces = [piece[begin:end] for piece, begin, end in self.overlaps(start, stop)]
        return np.concatenate(pieces) if pieces else np.empty(0, np.float32)
