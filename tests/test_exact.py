"""Sums in fixed point: exact up to their bounds, in one word and in two, in every pass."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from lamina.coordinator.folds.exact import GRID, LARGEST_TERM, MOST_TERMS, ExactSum
from lamina.coordinator.folds.grid import LANES
from tests import twins

NEAR = 2.0**15
LARGEST_FLOAT = float(np.float32(LARGEST_TERM))


def vector(*values: float) -> NDArray[np.float32]:
    return np.array(values, np.float32)


def add(total: ExactSum, delta: NDArray[np.float32], weight: float = 1.0) -> ExactSum:
    if total.add_near(delta, weight, delta.size) is None:
        total.add_far(delta, weight, delta.size)
    return total


def sum_of(*terms: float) -> ExactSum:
    """Of float64 terms: what float32 does not hold comes as 1 times a weight."""
    total = ExactSum(1)
    for term in terms:
        add(total, vector(1), term)
    return total


def exact(total: ExactSum, k: int = 0) -> Fraction:
    near, far = total.words()
    return Fraction(int(near[k])) * Fraction(GRID) + (0 if far is None else int(far[k]))


@pytest.mark.parametrize(
    ("term", "steps"),
    [(GRID, 1), (0.5 * GRID, 0), (1.5 * GRID, 2), (2.5 * GRID, 2), (-0.75 * GRID, -1), (1.5, 3 * 2**35), (0.0, 0)],
)
@pytest.mark.parametrize("shift", [0.0, LARGEST_TERM], ids=["near", "far"])
def test_a_term_is_rounded_to_the_grid_half_to_even(term: float, steps: int, shift: float) -> None:
    assert exact(sum_of(shift, term)) == steps * Fraction(GRID) + Fraction(shift)


@given(st.lists(st.floats(-LARGEST_TERM, LARGEST_TERM) | st.floats(-NEAR, NEAR) | st.floats(-1, 1), max_size=20))
def test_a_sum_is_that_of_its_rounded_terms(terms: list[float]) -> None:
    expected = Fraction(sum(round(Fraction(term) * twins.GRID) for term in terms), twins.GRID)
    total = sum_of(*terms)
    assert exact(total) == expected
    assert total.value(0, 1).item() == float(expected)


@given(st.lists(st.floats(-LARGEST_TERM, LARGEST_TERM) | st.floats(-1, 1), max_size=12), st.data())
def test_the_words_tell_the_sum_and_not_its_history(terms: list[float], data: st.DataObject) -> None:
    flat, tree = sum_of(*terms), sum_of()
    parts = [sum_of() for _ in range(3)]
    for term in data.draw(st.permutations(terms)):
        add(data.draw(st.sampled_from(parts)), vector(1), term)
    for part in parts:
        tree.merge(part)
    assert [word is None or word.tolist() for word in flat.words()] == [
        word is None or word.tolist() for word in tree.words()
    ]
    assert flat.value(0, 1) == tree.value(0, 1)


@pytest.mark.parametrize("term", [LARGEST_TERM, -LARGEST_TERM, LARGEST_TERM - 0.5, 1 - GRID, 0.5 - GRID, 0.5, -1.5])
def test_as_many_terms_as_it_has_room_for_are_summed_exactly(term: float) -> None:
    total, terms = sum_of(term), 1
    while 2 * terms + 1 <= MOST_TERMS:
        total.merge(total)
        add(total, vector(1), term)
        terms = 2 * terms + 1
    assert terms == MOST_TERMS - 1
    assert exact(total) == terms * Fraction(term)


def test_an_ordinary_sum_takes_one_word() -> None:
    assert sum_of(1000.0, -2.5, 2.0**14).words()[1] is None
    assert sum_of(LARGEST_TERM).words()[1] is not None
    # what went out of the first word's bounds and came back is as if it had never been there
    assert sum_of(LARGEST_TERM, 1.5, -LARGEST_TERM).words()[1] is None


def test_many_ordinary_terms_move_to_the_second_word_in_time() -> None:
    # 4096 terms of 2^15 are 2^27: what the first word has no room for
    total = ExactSum(1)
    for _ in range(4096):
        assert total.add_near(vector(NEAR), 1.0, 1) == NEAR**2
    assert exact(total) == 2**27


@given(
    st.lists(st.floats(-(2.0**20), 2.0**20, width=32), min_size=1, max_size=5),
    st.sampled_from([1.0, 3.0, 1.1, 600.0]),
    st.integers(0, 5),
)
def test_the_norm_is_that_of_the_parameters(values: list[float], weight: float, parameters: int) -> None:
    delta = vector(*values)
    square = ExactSum(delta.size).add_far(delta, weight, parameters)
    assert square == pytest.approx(sum((weight * float(x)) ** 2 for x in delta[:parameters]), rel=1e-14)
    near = ExactSum(delta.size).add_near(delta, weight, parameters)
    assert near in (None, square)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 2.0**16])
def test_what_has_no_room_near_leaves_no_trace(bad: float) -> None:
    total, rng = ExactSum(1000), np.random.default_rng(0)
    delta = rng.normal(size=1000).astype(np.float32)
    add(total, delta)
    before = total.words()[0].tobytes()
    wrong = delta.copy()
    wrong[700] = bad
    assert total.add_near(wrong, 1.0, 500) is None
    assert total.words()[0].tobytes() == before


def test_words_come_back_as_a_sum_that_goes_on() -> None:
    for terms in ([1.5, -2.25], [LARGEST_TERM, 0.75]):
        again = ExactSum.of_words(*sum_of(*terms).words())
        add(again, vector(1), 3.0)
        assert exact(again) == sum(map(Fraction, terms)) + 3


def test_words_out_of_bounds_are_refused() -> None:
    word = np.array([2**63 - 1], np.int64)
    with pytest.raises(ValueError, match="first word"):
        ExactSum.of_words(word, None)
    with pytest.raises(ValueError, match="second word"):
        ExactSum.of_words(np.zeros(1, np.int64), word)


def halves_added(lanes: list[float]) -> float:
    """The sum of a norm's lanes; its order is part of the promise, too."""
    while len(lanes) > 1:
        half = len(lanes) // 2
        lanes = [lanes[i] + lanes[half + i] for i in range(half)]
    return lanes[0]


def test_lengths_around_the_lanes_and_blocks_are_summed_whole() -> None:
    rng = np.random.default_rng(1)
    for size in (1, LANES - 1, LANES, LANES + 1, 3 * LANES + 7, 128 * LANES, 128 * LANES + 300):
        delta = rng.normal(size=size).astype(np.float32)
        total = ExactSum(size, compiled=False)
        square = total.add_near(delta, 3.0, size - 1)
        steps = [round(Fraction(3 * float(x)) * twins.GRID) for x in delta]
        assert total.words()[0].tolist() == steps
        lanes = [0.0] * LANES  # the order of the additions is part of the promise
        for k, x in enumerate(delta[: size - 1].tolist()):
            lanes[k % LANES] += (3 * x) * (3 * x)
        assert square == halves_added(lanes)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("far", [False, True])
def test_a_mean_is_read_and_added_in_float64_and_rounded_once(compiled: bool, far: bool) -> None:
    if compiled:
        pytest.importorskip("numba")
    rng = np.random.default_rng(2)
    for size in (1, LANES + 1, 3 * LANES + 7, 128 * LANES + 300):
        base = rng.normal(size=size).astype(np.float32)
        sum_ = ExactSum(size, compiled=compiled)
        for weight in (3.0, 5.0):
            add(sum_, (rng.normal(size=size) * (2.0**20 if far else 1)).astype(np.float32), weight)
        parameters = size - size // 3
        value, square = sum_.mean_from(base, 8.0, parameters)
        mean = sum_.value(0, size) / 8.0
        assert value.tobytes() == (base + mean).astype(np.float32).tobytes()
        lanes = [0.0] * LANES
        for k, x in enumerate(mean[:parameters].tolist()):
            lanes[k % LANES] += x * x
        assert square == halves_added(lanes)
