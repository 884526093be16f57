"""A wrong choice is found out by the steps that are taken anyway, and a right one stays."""

import random
from collections.abc import Callable
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from lamina.edge_agent.training.comparison import BLOCK, PAUSE, SHARE, Comparison

WAYS = ("plain", "parallel", "blocked", "blocked, spinning", "parallel, spinning")
STEPS_A_ROUND = 10
A_TRIAL = PAUSE + 4 * (BLOCK + 1)  # steps, with the pause before it, if its challenger wins
ROUNDS_TO_FIND = len(WAYS) * A_TRIAL // STEPS_A_ROUND
CHANGING_S = 0.5

Times = Callable[[str, int], float]


def run(comparison: Comparison[str], seconds: Times, steps: int) -> list[str]:
    """The way of each step, where a step takes as long as ``seconds`` says by its way and number."""
    ways, before = [], comparison.way
    for step in range(steps):
        way = comparison.way
        comparison.took(seconds(way, step), CHANGING_S if way != before else 0.0)
        ways.append(way)
        before = way
    return ways


def bests(comparison: Comparison[str], seconds: Times, steps: int) -> list[str]:
    """The best way, as it is known after each step."""
    found = []
    for step in range(steps):
        comparison.took(seconds(comparison.way, step))
        found.append(comparison.best)
    return found


def noisy(speeds: dict[str, float], noise: float, seed: int) -> Times:
    """Steps that take up to ``noise`` longer than they would."""
    rng = random.Random(seed)
    return lambda way, step: speeds[way] * (1 + noise * rng.random())


speeds = st.lists(st.floats(0.2, 3.0), min_size=len(WAYS), max_size=len(WAYS)).map(
    lambda times: dict(zip(WAYS, times, strict=True))
)
estimates = st.lists(st.floats(0.05, 20.0), min_size=len(WAYS), max_size=len(WAYS)).map(
    lambda times: dict(zip(WAYS, times, strict=True))
)


@given(speeds, estimates, st.integers(0, 99))
def test_a_choice_from_a_busy_moment_is_found_out_within_some_rounds(
    speeds: dict[str, float], measured: dict[str, float], seed: int
) -> None:
    """Whatever was measured at first, noise of 8 % leaves in the end a way that is within some of the fastest."""
    comparison = Comparison(measured, min(WAYS, key=measured.__getitem__))
    run(comparison, noisy(speeds, 0.08, seed), len(WAYS) * ROUNDS_TO_FIND * STEPS_A_ROUND)
    assert speeds[comparison.best] <= 1.2 * min(speeds.values())


def test_the_case_that_was_seen_is_mended_within_eleven_rounds() -> None:
    """The choice fell on a busy moment, which lasted while the blocked form was measured."""
    measured = {"plain": 0.126, "blocked": 0.2, "blocked, spinning": 0.19}
    really = {"plain": 0.126, "blocked": 0.083, "blocked, spinning": 0.071}
    found = bests(Comparison(measured, "plain"), noisy(really, 0.1, 0), 110)
    assert found[-1] == "blocked, spinning"


@given(st.integers(0, 999))
def test_equally_fast_ways_do_not_alternate(seed: int) -> None:
    comparison = Comparison(dict.fromkeys(WAYS, 1.0), "plain")
    found = bests(comparison, noisy(dict.fromkeys(WAYS, 1.0), 0.1, seed), 5000)
    assert sum(a != b for a, b in pairwise(found)) <= 1


@given(st.integers(0, 99), st.integers(0, 400), st.integers(1, 60))
def test_a_busy_moment_while_training_does_not_dethrone_the_fastest_for_long(
    seed: int, start: int, length: int
) -> None:
    speeds = {"plain": 1.0, "parallel": 0.9, "blocked": 0.6}
    quiet = noisy(speeds, 0.08, seed)

    def seconds(way: str, step: int) -> float:
        return quiet(way, step) * (3.0 if start <= step < start + length else 1.0)

    comparison = Comparison(speeds, "blocked")
    found = bests(comparison, seconds, start + length + 4 * A_TRIAL)
    assert found[-1] == "blocked"


def test_the_board_has_something_else_to_do_now_and_another_way_becomes_the_fastest() -> None:
    def seconds(way: str, step: int) -> float:
        return {"one thread": 0.1, "two threads": 0.07 if step < 2000 else 0.18}[way]

    comparison = Comparison({"one thread": 0.1, "two threads": 0.07}, "two threads")
    found = bests(comparison, seconds, 2200)
    assert found[1999] == "two threads"
    assert found[-1] == "one thread"


def test_trials_cost_a_small_share_of_the_time() -> None:
    speeds = {"plain": 0.1, "parallel": 0.15, "blocked": 0.08}
    comparison = Comparison(speeds, "blocked")
    ways = run(comparison, noisy(speeds, 0.05, 1), 20_000)
    changes = sum(a != b for a, b in pairwise(ways))
    others = sum(speeds[way] for way in ways if way != "blocked")
    assert (changes * CHANGING_S + others) / sum(speeds[way] for way in ways) < 1.5 * SHARE
    assert comparison.best == "blocked"


def test_the_first_step_after_a_change_does_not_count() -> None:
    """It is slow, as memory is not there yet; the challenger wins nevertheless."""
    before = ["plain"]

    def seconds(way: str, step: int) -> float:
        first, before[0] = way != before[0], way
        return {"plain": 1.0, "blocked": 0.8}[way] * (5.0 if first else 1.0)

    assert bests(Comparison({"plain": 1.0, "blocked": 2.0}, "plain"), seconds, 60)[-1] == "blocked"


def test_a_way_that_can_not_be_taken_is_never_tried_again() -> None:
    comparison = Comparison({"plain": 1.0, "blocked": 0.5}, "plain")
    while comparison.way == "plain":
        comparison.took(1.0)
    comparison.failed("blocked")
    assert set(run(comparison, lambda way, step: 1.0, 1000)) == {"plain"}


def test_a_single_way_is_taken_always() -> None:
    assert set(run(Comparison({"plain": 1.0}, "plain"), lambda way, step: 1.0, 200)) == {"plain"}
