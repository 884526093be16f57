"""Which chunks of global values are asked for by topics of their own, because the values did not come at once.

A broker whose queue is short sends the beginning of what it kept and drops the rest, each time in the same way. So a
few chunks of one value are asked for, and, when these are here, the next ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

AT_ONCE = 8  # chunks; a short queue has room for them

_Piece = tuple[str, int]


class Pieces:
    """The chunks that are asked for, by layer and index."""

    def __init__(self) -> None:
        self._layers: list[str] = []  # that are insisted on, the one at hand first
        self._asked: set[_Piece] = set()
        self.came_at = float("-inf")  # a chunk of any value

    def is_coming(self, now: float, within_s: float) -> bool:
        """Whether a chunk of some value has come within so many seconds."""
        return now - self.came_at < within_s

    def insist(self, layers: Iterable[str]) -> None:
        """Ask for these layers from now on."""
        self._layers = list(layers)

    def came(self, layer: str, index: int, now: float, *, whole: bool) -> bool:
        """A chunk has come, and maybe made the value whole. Whether the next ones are to be asked for."""
        self.came_at = now
        if not self._layers:
            return False
        self._asked.discard((layer, index))
        if whole and layer in self._layers:
            self._layers.remove(layer)
            return True
        return not self._asked

    def turn(self, missing: Callable[[str, int], list[int]]) -> tuple[list[_Piece], list[_Piece]]:
        """What is not asked for any more, and what is now.

        Args:
            missing: the first chunks that are missing of a layer, so many at most.
        """
        before = sorted(self._asked)
        layer = self._layers[:1]
        self._asked = {(name, index) for name in layer for index in missing(name, AT_ONCE)}
        return before, sorted(self._asked)

    def leave(self) -> list[_Piece]:
        """Ask for nothing any more; returns what was."""
        asked, self._asked, self._layers = sorted(self._asked), set(), []
        return asked
