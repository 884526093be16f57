"""The learning rate of every round: it warms up, and then falls in steps or along a cosine.

    warm-up     rises in a straight line: round r of w takes (r + 1)/w of the rate
    constant    stays
    steps       is divided at given shares of the rounds
    cosine      falls from the rate to a share f of it:  f + (1 - f) (1 + cos(pi t)) / 2,  t from 0 to 1

Sources: warm-up, Goyal et al. 2017 (arXiv 1706.02677); cosine, Loshchilov and Hutter 2017 (arXiv 1608.03983), without
restarts. All devices of a round take the same rate, so a schedule is the coordinator's alone.
"""

from __future__ import annotations

import math
from typing import Literal

import msgspec

Schedule = Literal["steps", "cosine"]


class LearningRate(msgspec.Struct, frozen=True):
    """How the rate goes over a training.

    Attributes:
        schedule: ``steps``, of which there may be none, or ``cosine``.
        warmup_rounds: in which the rate rises; 0: none.
        decay_at: of ``steps``: shares of the rounds after which the rate is divided.
        decay: the divisor.
        final_share: of ``cosine``: what share of the rate the last round has.
    """

    schedule: Schedule = "steps"
    warmup_rounds: int = 0
    decay_at: tuple[float, ...] = ()
    decay: float = 10.0
    final_share: float = 0.0

    def at(self, round_: int, rounds: int, rate: float) -> float:
        """The rate of a round.

        Args:
            round_: 0-based.
            rounds: of the whole training.
            rate: the highest.
        """
        if round_ < self.warmup_rounds:
            return rate * (round_ + 1) / self.warmup_rounds
        if self.schedule == "cosine":
            return rate * self._cosine(round_ - self.warmup_rounds, rounds - self.warmup_rounds)
        decays = sum(round_ >= share * rounds for share in self.decay_at)
        return rate / self.decay**decays

    def _cosine(self, round_: int, rounds: int) -> float:
        """The share of the rate that a round has, of those after the warm-up."""
        passed = min(1.0, round_ / max(1, rounds - 1))
        return self.final_share + (1 - self.final_share) * (1 + math.cos(math.pi * passed)) / 2
