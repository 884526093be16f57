"""The accuracies of a run so far: which round was best, and whether training still makes it better. Pure."""

from __future__ import annotations

from collections.abc import Mapping


class Evaluations:
    """What evaluations came to, in order.

    Args:
        accuracies: of earlier ones, by rounds done.

    Attributes:
        last: the last one's rounds done and accuracy; ``None`` before the first.
        best: those of the best one, which is the first of several equal ones.
        since_best: evaluations since then.
    """

    def __init__(self, accuracies: Mapping[int, float]) -> None:
        self.last: tuple[int, float] | None = None
        self.best: tuple[int, float] | None = None
        self.since_best = 0
        for rounds in sorted(accuracies):
            self.add(rounds, accuracies[rounds])

    def add(self, rounds: int, accuracy: float) -> None:
        """Take in the next one."""
        self.last = (rounds, accuracy)
        if self.best is None or accuracy > self.best[1]:
            self.best, self.since_best = self.last, 0
        else:
            self.since_best += 1

    def stalled(self, patience: int) -> bool:
        """Whether so many in a row were no better; never, for a patience of 0."""
        return 0 < patience <= self.since_best
