"""How much does the engine take for what it allocates? Its arena, played through: where blocks lie, what is touched.

ONNX Runtime's arena is TensorFlow's, after Lea's best fit with coalescing. It takes regions from the system, each twice
as large as the one before, cuts blocks from them in multiples of 256 bytes, leaves a free block whole where the request
is more than half of it, and joins neighbours that are free. The system counts the pages that were touched.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from models.graph.liveness import Allocation

_UNIT = 256
_FIRST_REGION = 1 << 20
_LARGEST_REGION = 1 << 30
_MOST_WASTE = 128 << 20
_LAST_BIN = 20


@dataclass(slots=True, eq=False)
class _Block:
    """A part of a region: where it begins, how long it is, and whether it is in use."""

    start: int
    size: int
    used: bool = False


@dataclass(slots=True)
class _Region:
    blocks: list[_Block]
    touched: int = 0  # bytes from its start, at most: blocks are taken from the start on


@dataclass(slots=True)
class Arena:
    """The arena of one session."""

    _regions: list[_Region] = field(default_factory=list)
    _held: dict[str, tuple[_Region, _Block]] = field(default_factory=dict)
    _next_region: int = _FIRST_REGION

    @property
    def touched_bytes(self) -> int:
        """What it has touched so far, and so what the process takes for it."""
        return sum(region.touched for region in self._regions)

    def run(self, allocations: Iterable[Allocation]) -> None:
        """Play through one run of a graph."""
        for allocation in allocations:
            if allocation.size_bytes is None:
                self._free(allocation.tensor)
            elif allocation.size_bytes:
                self._allocate(allocation.tensor, allocation.size_bytes)

    def _allocate(self, tensor: str, size_bytes: int) -> None:
        size = -(-size_bytes // _UNIT) * _UNIT
        region, block = self._fitting(size) or self._extended(size)
        if block.size >= 2 * size or block.size - size >= _MOST_WASTE:
            region.blocks.insert(region.blocks.index(block) + 1, _Block(block.start + size, block.size - size))
            block.size = size
        block.used = True
        region.touched = max(region.touched, block.start + size_bytes)
        self._held[tensor] = region, block

    def _fitting(self, size: int) -> tuple[_Region, _Block] | None:
        """The smallest free block of the lowest bin that has one."""
        free = (
            (_bin(block.size), block.size, index, block.start, region, block)
            for index, region in enumerate(self._regions)
            for block in region.blocks
            if not block.used and block.size >= size
        )
        best = min(free, key=lambda candidate: candidate[:4], default=None)
        return best and best[4:]

    def _extended(self, size: int) -> tuple[_Region, _Block]:
        grown = size > self._next_region
        while size > self._next_region:
            self._next_region *= 2
        region = _Region([_Block(0, self._next_region)])
        if not grown:
            self._next_region = min(2 * self._next_region, _LARGEST_REGION)
        self._regions.append(region)
        return region, region.blocks[0]

    def _free(self, tensor: str) -> None:
        if tensor not in self._held:  # of no bytes
            return
        region, block = self._held.pop(tensor)
        block.used = False
        at = region.blocks.index(block)
        for first in (at, at - 1):  # join what follows, then what comes before
            if 0 <= first < len(region.blocks) - 1:
                before, after = region.blocks[first : first + 2]
                if not before.used and not after.used:
                    before.size += after.size
                    del region.blocks[first + 1]


def _bin(size: int) -> int:
    return min((size // _UNIT).bit_length() - 1, _LAST_BIN)
