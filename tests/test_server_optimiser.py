"""Server optimisers: steps by hand, slow twins, and what they leave alone."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from lamina.coordinator.algorithms.catalogue import found
from lamina.coordinator.algorithms.server_optimiser import ServerOptimiser, moved
from lamina.coordinator.settings import Server

NUMBERS = st.lists(st.floats(-8, 8, width=16), min_size=3, max_size=3)


def vector(*values: float) -> NDArray[np.float32]:
    return np.array(values, np.float32)


def start(name: str, size: int, tau: float = 1e-3) -> NDArray[np.float32]:
    return found(ServerOptimiser)[name].start(size, tau)


def step(
    name: str, value: NDArray[np.float32], average: NDArray[np.float32], memory: NDArray[np.float32], **rates: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    return moved(found(ServerOptimiser)[name], Server(name, **rates), value, average, memory)


def test_fedavgm_keeps_moving_where_updates_point() -> None:
    # Delta = 2, then 0: m = 2, then 0.5 * 2 + 0 = 1
    value, memory = step("fedavgm", vector(1), vector(3), start("fedavgm", 1), beta=0.5)
    assert (value.tolist(), memory.tolist()) == ([3], [[2]])
    value, memory = step("fedavgm", value, value, memory, beta=0.5)
    assert (value.tolist(), memory.tolist()) == ([4], [[1]])


def test_fedadam_divides_by_the_size_of_changes() -> None:
    # Delta = 3: m = 0.5 * 3 = 1.5; v = 0.75 * 4^2 + 0.25 * 9 = 14.25; step = 2 * 1.5 / (sqrt(14.25) + 4)
    memory = start("fedadam", 1, tau=4)
    value, memory = step("fedadam", vector(1), vector(4), memory, lr=2, beta=0.5, beta2=0.75, tau=4)
    assert value.tolist() == pytest.approx([1 + 3 / (math.sqrt(14.25) + 4)], rel=1e-6)
    assert memory.tolist() == [[1.5], [14.25]]


@given(NUMBERS, NUMBERS)
def test_fedavgm_without_momentum_is_the_aggregate(value: list[float], aggregate: list[float]) -> None:
    result, _ = step("fedavgm", vector(*value), vector(*aggregate), start("fedavgm", 3), lr=1, beta=0)
    assert result.tolist() == vector(*aggregate).tolist()


@given(st.lists(NUMBERS, min_size=1, max_size=5))
def test_several_steps_are_those_of_the_pseudocode(aggregates: list[list[float]]) -> None:
    plain, adaptive = vector(0, 0, 0), vector(0, 0, 0)
    plain_state, adaptive_state = start("fedavgm", 3), start("fedadam", 3, tau=0.1)
    x, m, y, n, v = [0.0] * 3, [0.0] * 3, [0.0] * 3, [0.0] * 3, [0.01] * 3
    for aggregate in aggregates:
        plain, plain_state = step("fedavgm", plain, vector(*aggregate), plain_state, lr=0.5)
        adaptive, adaptive_state = step("fedadam", adaptive, vector(*aggregate), adaptive_state, lr=0.5, tau=0.1)
        for k in range(3):
            m[k] = 0.9 * m[k] + (aggregate[k] - x[k])
            x[k] += 0.5 * m[k]
            delta = aggregate[k] - y[k]
            n[k] = 0.9 * n[k] + 0.1 * delta
            v[k] = 0.99 * v[k] + 0.01 * delta**2
            y[k] += 0.5 * n[k] / (math.sqrt(v[k]) + 0.1)
    np.testing.assert_allclose(plain, x, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(adaptive, y, rtol=1e-4, atol=1e-4)


def test_statistics_take_the_aggregate_and_nothing_given_changes() -> None:
    # two parameters, one statistic
    value, aggregate = vector(0, 0, 5), vector(1, 1, 9)
    for name in found(ServerOptimiser):
        memory = start(name, 2)
        before = memory.copy()
        assert step(name, value, aggregate, memory, lr=0.5)[0][2] == 9
        np.testing.assert_array_equal(memory, before)
    assert (value.tolist(), aggregate.tolist()) == ([0, 0, 5], [1, 1, 9])


def test_vectors_that_do_not_fit_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        step("fedavgm", vector(1, 2), vector(1), start("fedavgm", 1))
    with pytest.raises(ValueError, match="memory of 3"):
        step("fedadam", vector(1, 2), vector(1, 2), start("fedadam", 3))
