"""Cohorts: the same wherever they are drawn, fair, and of the size asked for."""

from collections import Counter
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.coordinator.algorithms.selection import draw

GOLDEN = [
    ("board-1", "board-5", "board-6"),
    ("board-1", "board-3", "board-4"),
    ("board-2", "board-5", "board-6"),
]
NAMES = st.sets(st.text("abcdef0123456789.-_", min_size=1, max_size=8), min_size=1, max_size=12)


def test_a_draw_is_the_same_on_every_machine() -> None:
    fleet = [f"board-{index}" for index in range(8)]
    assert [draw(fleet, 3, seed=7, cycle=cycle) for cycle in range(3)] == GOLDEN


@given(NAMES, st.floats(0.01, 12), st.integers(-(2**70), 2**70), st.integers(0, 2**40), st.randoms())
def test_the_order_of_registration_does_not_matter(devices, active, seed, cycle, order) -> None:  # type: ignore[no-untyped-def]
    shuffled = order.sample(sorted(devices), len(devices))
    cohort = draw(devices, active, seed, cycle)
    assert cohort == draw(shuffled, active, seed, cycle) == draw(shuffled * 2, active, seed, cycle)
    assert list(cohort) == sorted(set(cohort))
    assert set(cohort) <= devices


@pytest.mark.parametrize(
    ("active", "size"),
    [(1.0, 10), (1, 10), (0.25, 3), (0.24, 2), (0.001, 1), (0.96, 10), (2, 2), (1.5, 2), (9, 9), (10, 10), (500, 10)],
)
def test_active_is_a_share_up_to_one_and_a_number_above(active: float, size: int) -> None:
    assert len(draw([f"d{index}" for index in range(10)], active, 0, 0)) == size


@pytest.mark.parametrize("active", [0.0, -1.0, float("nan")])
def test_nobody_active_is_a_mistake(active: float) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        draw(["a"], active, 0, 0)


def test_an_empty_fleet_has_an_empty_cohort() -> None:
    assert draw([], 0.5, 0, 0) == ()


def test_every_pair_is_drawn_as_often_as_any_other() -> None:
    # 10 pairs of 5 devices, 5000 cycles: 500 each, with a standard deviation of 21
    times = Counter(draw("abcde", 2, seed=1, cycle=cycle) for cycle in range(5000))
    assert set(times) == set(combinations("abcde", 2))
    assert all(400 < count < 600 for count in times.values())


def test_seeds_and_cycles_draw_apart() -> None:
    fleet = [f"d{index}" for index in range(64)]
    cohorts = {draw(fleet, 8, seed, cycle) for seed in range(-3, 8) for cycle in range(8)}
    assert len(cohorts) == 11 * 8
