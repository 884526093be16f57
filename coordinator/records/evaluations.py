"""The evaluations of a run so far: which round was best, and whether training still makes it better. Pure."""

from __future__ import annotations

from collections.abc import Mapping


class Evaluations:
    """What evaluations came to, in order.

    Args:
        scores: of earlier ones, by rounds done: their accuracy, or whatever the task judges by.
        lower_is_better: whether a lower score is the better one.

    Attributes:
        last: the last one's rounds done and score; ``None`` before the first.
        best: those of the best one, which is the first of several equal ones.
        since_best: evaluations since then.
    """

    def __init__(self, scores: Mapping[int, float], *, lower_is_better: bool = False) -> None:
        self._lower_is_better = lower_is_better
        self.last: tuple[int, float] | None = None
        self.best: tuple[int, float] | None = None
        self.since_best = 0
        for rounds in sorted(scores):
            self.add(rounds, scores[rounds])

    def add(self, rounds: int, score: float) -> None:
        """Take in the next one."""
        self.last = (rounds, score)
        if self.best is None or (score < self.best[1] if self._lower_is_better else score > self.best[1]):
            self.best, self.since_best = self.last, 0
        else:
            self.since_best += 1

    def stalled(self, patience: int) -> bool:
        """Whether so many in a row were no better; never, for a patience of 0."""
        return 0 < patience <= self.since_best
