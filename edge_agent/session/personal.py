"""A device's personal layers, which it trains and never sends: their values after the last rounds that it trained.

They are not the coordinator's to give: a round begins from what this device made of them, whether it goes on in its
cycle, begins afresh in the next one, or was away. The values of the last two rounds are kept, by the round that comes
next, so that a round which is trained once more (its device was killed, or the coordinator lost it) begins where it
began the first time:

    trained rounds .. 6, 7      {7: values after round 6, 8: values after round 7}
    plan of round 8 or later    begins from 8
    plan of round 7 once more   begins from 7, and writes 8 anew

Where a coordinator goes back further, training begins from the oldest. A device that has trained no round yet begins
from the bundle's initial values.
"""

from __future__ import annotations

from collections.abc import Mapping

from lamina.models.arrays import Vector

_KEPT = 2

Values = dict[str, Vector]
"""Of every personal layer that was trained, by the layer's name: (vector_size,)."""


class PersonalValues:
    """One device's values, after its last rounds.

    Args:
        generations: what `generations` was, to go on from.

    Attributes:
        generations: the values, by the round that comes next.
    """

    def __init__(self, generations: Mapping[int, Values] | None = None) -> None:
        self.generations: dict[int, Values] = dict(generations or {})

    def before(self, round_: int) -> Values:
        """What a round begins from; empty before the first one."""
        if not self.generations:
            return {}
        passed = [start for start in self.generations if start <= round_]
        return self.generations[max(passed) if passed else min(self.generations)]

    def after(self, round_: int, trained: Values) -> None:
        """A round was trained, to its end; layers that it left alone keep their values."""
        values = self.before(round_) | {name: vector.copy() for name, vector in trained.items()}
        earlier = {start: held for start, held in self.generations.items() if start <= round_}
        earlier.setdefault(round_, self.before(round_))
        kept = sorted(earlier)[-(_KEPT - 1) :]
        self.generations = {start: earlier[start] for start in kept} | {round_ + 1: values}
