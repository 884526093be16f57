"""The shortest list of events that still fails, by delta debugging (Zeller and Hildebrandt, 2002)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

_T = TypeVar("_T")


def shortest_failing(events: Sequence[_T], fails: Callable[[Sequence[_T]], bool]) -> list[_T]:
    """A part of ``events``, in order, that fails and of which no event can be left out.

    Args:
        events: they fail together.
        fails: whether some of them do; asked again and again.
    """
    left, parts = list(events), 2
    while len(left) >= 2:
        size = -(-len(left) // parts)
        pieces = [left[start : start + size] for start in range(0, len(left), size)]
        smaller = next((piece for piece in pieces if fails(piece)), None)
        if smaller is not None:
            left, parts = smaller, 2
            continue
        rests = [[event for other in pieces if other is not piece for event in other] for piece in pieces]
        rest = next((rest for rest in rests if fails(rest)), None) if len(pieces) > 2 else None
        if rest is not None:
            left, parts = rest, max(parts - 1, 2)
        elif parts >= len(left):
            break
        else:
            parts = min(2 * parts, len(left))
    return [] if left and fails([]) else left
