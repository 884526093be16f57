"""Folding a whole cohort at once gives the bits of folding one by one."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lamina.coordinator.folds import mean
from lamina.coordinator.folds.aggregate import Aggregate, LayerFold
from lamina.coordinator.folds.exact import ExactSum

Vectors = NDArray[np.float32]


PASSES = [False, pytest.param(True, marks=pytest.mark.skipif(not find_spec("numba"), reason="numba isn't installed"))]


@contextmanager
def insisting_on(compiled: bool) -> Iterator[None]:
    """Folds that are begun here take this pass, whatever their size."""
    with mock.patch.object(mean, "ExactSum", partial(ExactSum, compiled=compiled)):
        yield


def one_by_one(local: Vectors, base: Vectors, weights: list[float], size: int) -> Aggregate:
    fold = LayerFold(base.size, size)
    for index, (value, weight) in enumerate(zip(local, weights, strict=True)):
        fold.add(f"d{index}", value - base, weight)
    return fold.finish(base)


def together(local: Vectors, base: Vectors, weights: list[float], size: int) -> Aggregate:
    fold = LayerFold(base.size, size)
    fold.add_all([f"d{index}" for index in range(len(local))], local, base, weights)
    return fold.finish(base)


def bits(aggregate: Aggregate) -> tuple[bytes, float, float, tuple[str, ...]]:
    return aggregate.value.tobytes(), aggregate.discrepancy_numerator, aggregate.weight, aggregate.devices


@pytest.mark.parametrize("compiled", PASSES)
@settings(deadline=None)
@given(
    seed=st.integers(0, 2**32),
    devices=st.integers(1, 9),
    length=st.sampled_from([1, 5, 256, 300, 4096, 4097, 9000, 40_000]),
    scale=st.sampled_from([2.0**-30, 2.0**-13, 1.0, 2.0**9, 2.0**14]),
    weight=st.sampled_from([1.0, 7.3, 600.0]),
)
def test_the_bits_are_those_of_one_by_one(
    compiled: bool, seed: int, devices: int, length: int, scale: float, weight: float
) -> None:
    rng = np.random.default_rng(seed)
    size = int(rng.integers(0, length + 1))
    base = (scale * rng.standard_normal(length)).astype(np.float32)
    local = (base + scale * rng.standard_normal((devices, length))).astype(np.float32)
    weights = [weight * (1 + index % 3) for index in range(devices)]
    wide = np.concatenate([local[:, :2], local, local[:, :3]], axis=1)  # as a layer lies among others
    expected = bits(one_by_one(local, base, weights, size))
    with insisting_on(compiled):
        assert bits(together(wide[:, 2 : 2 + length], base, weights, size)) == expected


def test_ties_on_the_grid_go_to_even_in_both() -> None:
    # odd multiples of 2^-37 lie halfway between two grid points
    base, local = np.zeros(3, np.float32), np.array([[1, 3, 5], [-1, 3, 7]], np.float32) * np.float32(2.0**-37)
    assert bits(together(local, base, [1.0, 1.0], 3)) == bits(one_by_one(local, base, [1.0, 1.0], 3))


def test_one_by_one_and_together_mix() -> None:
    base, local = np.zeros(2, np.float32), np.array([[1, 2], [3, 4], [5, 6]], np.float32)
    fold = LayerFold(2, 2)
    fold.add("d0", local[0], 1.0)
    fold.add_all(["d1", "d2"], local[1:], base, [1.0, 1.0])
    assert bits(fold.finish(base)) == bits(one_by_one(local, base, [1.0] * 3, 2))
    assert fold.weighted_sum().tolist() == [9, 12]


@pytest.mark.parametrize("compiled", PASSES)
@pytest.mark.parametrize(
    ("value", "weight"), [(np.nan, 1.0), (np.inf, 1.0), (-np.inf, 7.3), (2.0**36, 1.0), (1.0, 0.5), (1.0, np.nan)]
)
def test_what_add_refuses_is_left_out(compiled: bool, value: float, weight: float) -> None:
    local = np.array([[1, 2], [value, 1], [5, 6]], np.float32)
    weights, base = [3.0, weight, 2.0], np.array([1, 1], np.float32)
    with insisting_on(compiled):
        fold = LayerFold(2, 1)
        assert fold.add_all(["first", "bad", "last"], local, base, weights) == ("bad",)
    only_good = LayerFold(2, 1)
    assert only_good.add_all(["first", "last"], local[[0, 2]], base, [3.0, 2.0]) == ()
    assert bits(fold.finish(base)) == bits(only_good.finish(base))


@pytest.mark.parametrize("compiled", PASSES)
def test_a_large_update_among_small_ones_is_added_in_two_words(compiled: bool) -> None:
    # 2^20 is beyond what one addition rounds to the grid, and within what a fold takes
    local, base = np.array([[1, 2], [2.0**20, 1], [3, 4]], np.float32), np.zeros(2, np.float32)
    with insisting_on(compiled):
        fold = LayerFold(2, 2)
        assert fold.add_all(["a", "b", "c"], local, base, [1.0] * 3) == ()
    assert fold.weighted_sum().tolist() == [2.0**20 + 4, 7]


@pytest.mark.parametrize("compiled", PASSES)
def test_more_devices_than_are_added_without_a_look_at_the_room(compiled: bool) -> None:
    # 2,500 terms of 2^14 pass the first word's 2^25
    local, base = np.full((2500, 3), 2.0**14, np.float32), np.zeros(3, np.float32)
    with insisting_on(compiled):
        fold = LayerFold(3, 3)
        fold.add_all([f"d{index}" for index in range(2500)], local, base, [1.0] * 2500)
    assert fold.weighted_sum().tolist() == [2500 * 2.0**14] * 3


def test_a_device_counts_once() -> None:
    fold, rows = LayerFold(1, 1), np.ones((2, 1), np.float32)
    assert fold.add_all(["a", "a"], rows, np.zeros(1, np.float32), [1.0, 1.0]) == ("a",)
    assert fold.add_all(["b", "a"], rows, np.zeros(1, np.float32), [1.0, 1.0]) == ("a",)
    assert fold.finish(np.zeros(1, np.float32)).devices == ("a", "b")


def test_shapes_that_do_not_fit_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="2 devices"):
        LayerFold(1, 1).add_all(["a", "b"], np.ones((1, 1), np.float32), np.zeros(1, np.float32), [1.0, 1.0])
