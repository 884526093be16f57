"""Goes on comparing ways to do the same step, by the steps that are taken anyway.

The way that was chosen first may be the wrong one: the choice fell on a busy moment, or the board has something else to
do now. So now and then another way, the *challenger*, takes a few steps:

    best ──► challenger ──► best ──► challenger ──► the challenger is the best
                  │           │           │
                  └───────────┴───────────┴──► it lost: the best goes on

What the best took right before and right after is what the challenger is held against, whichever is less, so a busy
moment that falls on the best alone deceives nobody. It has to be clearly faster twice, and so has the former best to
come back: two ways that are equally fast do not alternate.

At first every challenger has its trial, one soon after the other, the most promising first. From then on a trial waits
until the time that trials cost is a small share of all; a way that lost is tried less often. Everything begins anew
when steps have come to take another time than usual.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Mapping
from statistics import median
from typing import Generic, TypeVar

BLOCK = 5  # steps that are compared with as many others
UNCOUNTED = 1  # steps after a change of way
PAUSE = 20  # steps of the best between two trials, at least
SHARE = 0.03  # of all time that trials may cost, once each challenger has had one
FASTER = 0.95  # of the best's time: a challenger has to be below
LESS_OFTEN = 1.25  # by which a lost trial makes a way look slower, when the next challenger is looked for
UNUSUAL = 1.3  # times the usual, or the usual times that: something has changed

Way = TypeVar("Way", bound=Hashable)


class Comparison(Generic[Way]):
    """Says in which way each step is to be taken, and is told how long it took.

    Args:
        expected: each way's time, in any unit, the same for all; the order of trials follows from it.
        best: the way to begin with.

    Attributes:
        way: the one in which the next step is to be taken.
        best: the fastest one, as far as it is known.
    """

    def __init__(self, expected: Mapping[Way, float], best: Way) -> None:
        self.way = self.best = best
        self._expected = dict(expected)
        self._lost = dict.fromkeys(self._expected, 0)  # trials, since everything began anew
        self._uncounted = UNCOUNTED
        self._steps: deque[float] = deque(maxlen=BLOCK)  # seconds of the steps of this block
        self._of_best: list[float] = []  # seconds of a step, by the blocks of this trial
        self._trials_won = 0
        self._challenger = best  # once it has taken steps
        self._of_challenger = 0.0
        self._since = 0  # steps of the best since the last trial
        self._usual: float | None = None
        self._all_s = self._trials_s = 0.0

    def took(self, seconds: float, changing_s: float = 0.0) -> None:
        """Count a step that was taken in `way`.

        Args:
            seconds: of the step.
            changing_s: it took to change to this way, if this is its first step.
        """
        self._all_s += seconds + changing_s
        if self.way != self.best or changing_s:
            self._trials_s += seconds + changing_s
        if self._uncounted:
            self._uncounted -= 1
            return
        self._steps.append(seconds)
        self._since += 1
        if len(self._steps) < BLOCK:
            return
        if self.way != self.best:
            self._challenger_did(median(self._steps))
        elif self._of_best:
            self._best_did(median(self._steps))
        elif self._since >= PAUSE:
            self._settled(median(self._steps))

    @property
    def expected(self) -> dict[Way, float]:
        """Each way's time, as far as it is known, in the unit in which it was given."""
        return dict(self._expected)

    def failed(self, way: Way) -> None:
        """Forget a way that can't be taken; another one than the best."""
        del self._expected[way], self._lost[way]
        self._end_trial()

    def _settled(self, seconds: float) -> None:
        """The best has taken steps for a while: perhaps another one had better take some."""
        self._usual = self._usual or seconds
        affordable = self._trials_s <= SHARE * self._all_s
        if affordable and not 1 / UNUSUAL < seconds / self._usual < UNUSUAL:
            self._usual, self._lost = seconds, dict.fromkeys(self._lost, 0)
        challengers = [way for way in self._expected if way != self.best and (affordable or not self._lost[way])]
        if challengers:
            self._of_best = [seconds]
            self._change_to(min(challengers, key=self._promise))

    def _promise(self, way: Way) -> float:
        return self._expected[way] * LESS_OFTEN ** self._lost[way]

    def _challenger_did(self, seconds: float) -> None:
        self._challenger, self._of_challenger = self.way, seconds
        if seconds >= FASTER * self._of_best[-1]:
            self._lose(self._of_best[-1])
        elif self._trials_won:
            self._win()
        else:
            self._change_to(self.best)

    def _best_did(self, seconds: float) -> None:
        self._of_best.append(seconds)
        if self._of_challenger >= FASTER * seconds:
            self._lose(min(self._of_best))
        else:
            self._trials_won += 1
            self._change_to(self._challenger)

    def _lose(self, of_best: float) -> None:
        self._lost[self._challenger] += 1
        self._expected[self._challenger] = self._expected[self.best] * self._of_challenger / of_best
        self._end_trial()

    def _win(self) -> None:
        """The challenger is the best from now on, and each of the others may challenge it."""
        former, self.best = self.best, self.way
        self._expected[self.best] = self._expected[former] * self._of_challenger / min(self._of_best)
        self._lost, self._usual = dict.fromkeys(self._lost, 0), None
        self._end_trial()

    def _end_trial(self) -> None:
        self._of_best, self._trials_won, self._since = [], 0, 0
        self._change_to(self.best)

    def _change_to(self, way: Way) -> None:
        self._uncounted = UNCOUNTED if way != self.way else 0
        self._steps.clear()
        self.way = way
