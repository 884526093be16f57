"""When is a layer due?"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.coordinator.algorithms.fedavg import due, intervals


def test_every_layer_has_the_interval_of_a_round() -> None:
    assert intervals(3, 10) == (10, 10, 10)


def test_every_layer_is_due_after_every_round() -> None:
    assert [due(intervals(2, 5), 5, step) for step in (5, 10, 15)] == [(0, 1)] * 3


def test_a_relaxed_layer_is_due_when_its_interval_divides_the_step() -> None:
    # tau = (5, 20, 10): after 5, 10, 15 and 20 steps
    assert [due((5, 20, 10), 5, step) for step in (5, 10, 15, 20)] == [(0,), (0, 2), (0,), (0, 1, 2)]


def test_devices_meet_at_the_end_of_a_round_only() -> None:
    with pytest.raises(ValueError, match="step 7 ends no round of 5"):
        due((5, 5), 5, 7)
    with pytest.raises(ValueError, match="step 0"):
        due((5, 5), 5, 0)


def test_an_interval_is_a_whole_number_of_rounds() -> None:
    with pytest.raises(ValueError, match="7 steps"):
        due((5, 7), 5, 5)


@pytest.mark.parametrize(("layers", "local_steps"), [(0, 5), (3, 0)])
def test_nothing_to_average_is_refused(layers: int, local_steps: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        intervals(layers, local_steps)


@given(
    st.lists(st.booleans(), min_size=1, max_size=8),
    st.integers(1, 6),
    st.integers(1, 4),
    st.integers(0, 3),
)
def test_every_layer_is_due_at_the_end_of_a_cycle(relaxed: list[bool], phi: int, tau: int, cycle: int) -> None:
    taus = [tau * phi if relax else tau for relax in relaxed]
    assert due(taus, tau, (cycle + 1) * phi * tau) == tuple(range(len(taus)))
