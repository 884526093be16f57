"""Simulates the engine's memory arena: where blocks lie, and how much of it is touched.

ONNX Runtime's arena is TensorFlow's, after Lea's best fit with coalescing. It takes regions from the system, each twice
as large as the one before, cuts blocks from them in multiples of 256 bytes, leaves a free block whole where the request
is more than half of it, and joins neighbours that are free. The system counts the pages that were touched.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable
from dataclasses import dataclass, field

from lamina.models.graph.liveness import Allocation

_UNIT = 256
_FIRST_REGION = 1 << 20
_LARGEST_REGION = 1 << 30
_MOST_WASTE = 128 << 20


@dataclass(slots=True, eq=False)
class _Block:
    """A part of a region: where it begins, how long it is, and whether it is in use."""

    region: _Region
    start: int
    size: int
    used: bool = False


@dataclass(slots=True, eq=False)
class _Region:
    number: int
    blocks: list[_Block] = field(default_factory=list)
    touched: int = 0  # bytes from its start, at most: blocks are taken from the start on


@dataclass(slots=True)
class Arena:
    """The arena of one session."""

    _regions: list[_Region] = field(default_factory=list)
    _held: dict[str, _Block] = field(default_factory=dict)
    _vacant: list[_Block] = field(default_factory=list)  # those that are free, by rank
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
        block = self._fitting(size) or self._extended(size)
        region = block.region
        if block.size >= 2 * size or block.size - size >= _MOST_WASTE:
            rest = _Block(region, block.start + size, block.size - size)
            region.blocks.insert(region.blocks.index(block) + 1, rest)
            self._vacate(rest)
            block.size = size
        block.used = True
        region.touched = max(region.touched, block.start + size_bytes)
        self._held[tensor] = block

    def _fitting(self, size: int) -> _Block | None:
        """The smallest free block that is large enough, taken from those that are free."""
        at = bisect_left(self._vacant, (size, 0, 0), key=_rank)
        return self._vacant.pop(at) if at < len(self._vacant) else None

    def _extended(self, size: int) -> _Block:
        grown = size > self._next_region
        while size > self._next_region:
            self._next_region *= 2
        region = _Region(len(self._regions))
        region.blocks.append(_Block(region, 0, self._next_region))
        if not grown:
            self._next_region = min(2 * self._next_region, _LARGEST_REGION)
        self._regions.append(region)
        return region.blocks[0]

    def _free(self, tensor: str) -> None:
        if tensor not in self._held:  # of no bytes
            return
        block = self._held.pop(tensor)
        block.used = False
        blocks = block.region.blocks
        at = blocks.index(block)
        if at + 1 < len(blocks) and not blocks[at + 1].used:
            self._occupy(blocks[at + 1])
            block.size += blocks.pop(at + 1).size
        if at and not blocks[at - 1].used:
            self._occupy(blocks[at - 1])
            block.start, block.size = blocks[at - 1].start, block.size + blocks.pop(at - 1).size
        self._vacate(block)

    def _vacate(self, block: _Block) -> None:
        insort(self._vacant, block, key=_rank)

    def _occupy(self, block: _Block) -> None:
        del self._vacant[bisect_left(self._vacant, _rank(block), key=_rank)]


def _rank(block: _Block) -> tuple[int, int, int]:
    """Return the rank of a free block; of those that are large enough, the one of the least rank is taken."""
    return block.size, block.region.number, block.start
