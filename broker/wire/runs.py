"""Groups neighbours that are worked on, or sent, at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def runs(sizes: Sequence[int], most: int) -> Iterator[slice]:
    """Slices that cover all items in their order, each of ``most`` at most; an item that is larger is a run alone."""
    start, filled = 0, 0
    for index, size in enumerate(sizes):
        if index > start and filled + size > most:
            yield slice(start, index)
            start, filled = index, 0
        filled += size
    if sizes:
        yield slice(start, len(sizes))
