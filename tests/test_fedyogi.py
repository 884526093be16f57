"""FedYogi: a step by hand, the paper's pseudocode, and what tells it from FedAdam."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.coordinator.algorithms import fedadam, fedyogi
from lamina.coordinator.algorithms.server import next_value
from lamina.coordinator.settings import Server

NUMBERS = st.lists(st.floats(-8, 8, width=16), min_size=2, max_size=2)


def test_a_step_by_hand() -> None:
    # Delta = 3, from v = 4^2: m = 0.5 * 3 = 1.5; v = 16 - 0.25 * 9 * sign(16 - 9) = 13.75
    server = Server("fedyogi", lr=2, beta=0.5, beta2=0.75, tau=4)
    value, memory = next_value(server, np.float32([1]), np.float32([4]), None, 1)
    assert value.tolist() == pytest.approx([1 + 2 * 1.5 / (math.sqrt(13.75) + 4)], rel=1e-6)
    assert memory is not None
    assert memory.tolist() == [1.5, 13.75]


def test_one_large_change_moves_the_second_moment_less_than_fedadams_decay() -> None:
    # v = 1 and no change at all: FedAdam forgets v by a tenth, FedYogi by nothing
    server, memory = Server("fedyogi", beta2=0.9), np.float32([[0], [1]])
    assert fedyogi.step(np.zeros(1), memory, server)[1][1].tolist() == [1]
    assert fedadam.step(np.zeros(1), memory, server)[1][1].tolist() == pytest.approx([0.9])


@given(st.lists(NUMBERS, min_size=1, max_size=5))
def test_several_steps_are_those_of_the_pseudocode(averages: list[list[float]]) -> None:
    server, value, memory = Server("fedyogi", lr=0.5, tau=0.1), np.zeros(2, np.float32), None
    x, m, v = [0.0] * 2, [0.0] * 2, [0.01] * 2
    for average in averages:
        value, memory = next_value(server, value, np.float32(average), memory, 2)
        for k in range(2):
            delta = average[k] - x[k]
            m[k] = 0.9 * m[k] + 0.1 * delta
            v[k] -= 0.01 * delta**2 * np.sign(v[k] - delta**2)
            x[k] += 0.5 * m[k] / (math.sqrt(v[k]) + 0.1)
    np.testing.assert_allclose(value, x, rtol=1e-3, atol=1e-3)
