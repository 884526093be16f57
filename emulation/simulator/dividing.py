"""Divides C devices over G lanes that work beside each other: consecutively, so that the longest is shortest.

Each lane (a process, a machine, a GPU) gets a run of consecutive devices, and a round lasts as long as its longest
lane. The division is exact. With S the running sum of the costs and T_g(c) the longest of g lanes over the first c
devices,

    T_1(c) = S_c;    T_g(c) = min over k <= c of max(T_{g-1}(k), S_c - S_k)

As k grows, T_{g-1}(k) never falls and S_c - S_k never rises, so the minimum lies where they cross, and a bisection
finds it: O(G C log C) for the whole table, against O(G C^2) for a search of every k.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from itertools import accumulate, pairwise


def divide(costs: Sequence[float], lanes: int) -> list[range]:
    """The devices of each lane, as ranges of indices; ranges at the end may be empty where lanes outnumber devices.

    Args:
        costs: of each device, in seconds or any unit; finite and not negative.
        lanes: how many there are.

    Raises:
        ValueError: there is no lane, or a cost is out of its range.
    """
    if lanes < 1:
        raise ValueError(f"{lanes} lanes: there must be one at least")
    if not all(math.isfinite(cost) and cost >= 0 for cost in costs):
        raise ValueError(f"costs must be finite and not negative: {list(costs)}")
    sums = [Fraction(0), *accumulate(map(Fraction, costs))]  # exact, so no rounding decides between divisions
    longest = list(sums)  # T_1
    splits: list[list[int]] = []  # k of T_2, T_3, ...
    for _ in range(1, lanes):
        chosen = [_best_split(longest, sums, count) for count in range(len(sums))]
        longest = [max(longest[k], sums[count] - sums[k]) for count, k in enumerate(chosen)]
        splits.append(chosen)
    edges = [len(costs)]
    for chosen in reversed(splits):
        edges.append(chosen[edges[-1]])
    edges.append(0)
    return [range(start, stop) for start, stop in pairwise(reversed(edges))]


def longest_lane(costs: Sequence[float], division: Sequence[range]) -> float:
    """What the most loaded lane takes."""
    return max(math.fsum(costs[index] for index in lane) for lane in division)


def _best_split(longest: Sequence[Fraction], sums: Sequence[Fraction], count: int) -> int:
    """K that minimises max(longest[k], sums[count] - sums[k]): the first where the left reaches the right, or the last
    before it.
    """
    low, high = 0, count
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if longest[middle] >= sums[count] - sums[middle] else (middle + 1, high)
    before = max(low - 1, 0)
    return min((before, low), key=lambda k: max(longest[k], sums[count] - sums[k]))
