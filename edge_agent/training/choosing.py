"""Chooses how to run a training graph, from measurements of each way that are taken in turns.

A board does other things meanwhile, so a single pass may compare one way's quiet moment with another's busy one. Here
every turn measures all ways that are left, and a way counts by the median, over the turns, of its ratio to the plain
way in the same turn. The plain way is the standard form on one thread: a way that is no faster is never chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from lamina.edge_agent.training.engine import STANDARD, ExecutionMode
from lamina.models.manifest import PARALLEL

TURNS = 3
IN_THE_RUNNING = 1.5  # times the fastest way's ratio: a way above that is measured no more
MUCH_FASTER = 0.97  # of the plain way's time: below that, another one is taken

Measure = Callable[[ExecutionMode], float]


@dataclass(frozen=True)
class Measured:
    """What was found.

    Attributes:
        mode: the fastest one.
        seconds: of a step in each mode that was measured: its ratio to the plain one, times what that took.
    """

    mode: ExecutionMode
    seconds: Mapping[ExecutionMode, float]


def candidates(forms: Sequence[str], threads: int) -> list[ExecutionMode]:
    """The ways to run a graph that has these forms on up to so many threads, the plain one first.

    On one thread the form for several is left out, and on several the one for one thread where there is the other.
    """
    alone = [ExecutionMode(form) for form in forms if form != PARALLEL]
    shared = [form for form in forms if form != STANDARD or PARALLEL not in forms]
    numbers = sorted({number for number in (threads // 2, threads) if number > 1})
    together = [ExecutionMode(form, number) for number in numbers for form in shared]
    return [*alone, *together, *(ExecutionMode(mode.form, mode.threads, spinning=True) for mode in together)]


def choose(modes: Sequence[ExecutionMode], measure: Measure) -> Measured:
    """The fastest of some modes; the first one, unless another is clearly faster.

    Spinning is measured, from the second turn on, in the mode with several threads that is the fastest without it.

    Args:
        modes: the plain one first.
        measure: gives the seconds of a step in a mode.
    """
    plain, *_ = left = [mode for mode in modes if not mode.spinning]
    turns: list[dict[ExecutionMode, float]] = []
    for turn in range(TURNS if len(modes) > 1 else 1):
        in_order = left if turn % 2 == 0 else left[::-1]  # so that what gets slower all the while favours none
        turns.append({mode: measure(mode) for mode in in_order})
        ratios = _ratios(turns, plain)
        least = min(ratios.values())
        left = [mode for mode in ratios if mode == plain or ratios[mode] <= IN_THE_RUNNING * least]
        left += [mode for mode in _spinning(modes, ratios) if mode not in ratios]
    best = min(ratios, key=ratios.__getitem__)
    of_plain = median(turn[plain] for turn in turns)
    seconds = {mode: ratio * of_plain for mode, ratio in ratios.items()}
    return Measured(best if ratios[best] <= MUCH_FASTER else plain, seconds)


def _ratios(turns: Sequence[Mapping[ExecutionMode, float]], plain: ExecutionMode) -> dict[ExecutionMode, float]:
    """Each mode's time over the plain one's in the same turn, the median of its turns."""
    measured = dict.fromkeys(mode for turn in turns for mode in turn)
    return {mode: median(turn[mode] / turn[plain] for turn in turns if mode in turn) for mode in measured}


def _spinning(modes: Sequence[ExecutionMode], ratios: Mapping[ExecutionMode, float]) -> list[ExecutionMode]:
    """The mode that is worth to be measured with threads that spin."""
    several = [mode for mode in ratios if mode.threads > 1 and not mode.spinning]
    if not several:
        return []
    best = min(several, key=ratios.__getitem__)
    return [mode for mode in modes if mode == ExecutionMode(best.form, best.threads, spinning=True)]
