"""Devices over lanes: as good as the best of all divisions, and consecutive."""

from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.emulation.simulator.dividing import divide, longest_lane


def brute_force(costs: list[int], lanes: int) -> int:
    """The shortest longest lane, over every way to set lanes - 1 edges."""
    places = [place for place in range(len(costs) + 1) for _ in range(lanes)]
    edges = {tuple(sorted(chosen)) for chosen in combinations(places, lanes - 1)}
    return min(max(sum(costs[a:b]) for a, b in pairwise((0, *chosen, len(costs)))) for chosen in edges)


@given(costs=st.lists(st.integers(0, 20), max_size=6), lanes=st.integers(1, 3))
def test_no_division_is_better(costs: list[int], lanes: int) -> None:
    division = divide(costs, lanes)
    assert longest_lane(costs, division) == brute_force(costs, lanes)


@given(costs=st.lists(st.floats(0, 1e6), max_size=40), lanes=st.integers(1, 50))
def test_every_device_is_in_one_lane_and_in_order(costs: list[float], lanes: int) -> None:
    division = divide(costs, lanes)
    assert len(division) == lanes
    assert [index for lane in division for index in lane] == list(range(len(costs)))


def test_one_long_device_has_a_lane_of_its_own() -> None:
    # 1 + 1 + 1 beside 9: any division with 9 and a neighbour together takes 10 or more
    assert divide([1, 1, 1, 9], 2) == [range(0, 3), range(3, 4)]


@pytest.mark.parametrize(("costs", "lanes"), [([1.0], 0), ([-1.0], 1), ([float("nan")], 1), ([float("inf")], 2)])
def test_what_can_not_be_divided_is_refused(costs: list[float], lanes: int) -> None:
    with pytest.raises(ValueError, match=r"lane|finite"):
        divide(costs, lanes)
