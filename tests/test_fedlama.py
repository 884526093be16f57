"""Intervals from discrepancies: by hand, by the properties of the curves, and in whole federations against the twin."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lamina.coordinator.algorithms.fedlama import Adjustment, adjust, discrepancy
from lamina.coordinator.algorithms.selection import draw
from tests import small_federation, twins

# d_l and dim_l of up to eight layers
LAYERS = st.lists(st.tuples(st.floats(0, 1e6), st.integers(1, 10**7)), min_size=1, max_size=8)


def parts(layers: Sequence[tuple[float, int]]) -> tuple[list[float], list[int]]:
    return [d for d, _ in layers], [dim for _, dim in layers]


def test_the_discrepancy_is_per_step_and_parameter() -> None:
    assert discrepancy(12.0, tau=3, dim=2) == 2.0


@pytest.mark.parametrize(("tau", "dim"), [(0, 2), (3, 0)])
def test_a_discrepancy_over_nothing_is_a_mistake(tau: int, dim: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        discrepancy(1.0, tau, dim)


def test_layers_are_relaxed_up_to_the_crossing() -> None:
    # d = 4, 1, 2 with dim = 1, 4, 1: d*dim = 4, 4, 2 of 10. Ascending: layer 1, 2, 0.
    # D = 4/10, 6/10, 1;  S = 4/6, 5/6, 1;  1 - S = 1/3 < 0.4: it crosses at the first, which is included.
    assert adjust([4, 1, 2], [1, 4, 1], 5, 3) == Adjustment(
        intervals=(5, 15, 5), order=(1, 2, 0), d_curve=(0.4, 0.6, 1.0), s_curve=(4 / 6, 5 / 6, 1.0), crossing=1
    )


def test_a_tie_of_the_curves_is_no_crossing() -> None:
    # D = 1/4, 1; S = 3/4, 1; 1 - S = 1/4 is not below D = 1/4: one more layer
    assert adjust([1, 9], [3, 1], 1, 2).crossing == 2


def test_layers_that_drift_alike_are_taken_by_index() -> None:
    # D = S = 1/4, 2/4, 3/4, 1: the third is the first with 1 - S < D
    result = adjust([1, 1, 1, 1], [5, 5, 5, 5], 1, 2)
    assert result.order == (0, 1, 2, 3)
    assert result.intervals == (2, 2, 2, 1)
    assert adjust([1, 1, 1, 1], [5, 5, 5, 5], 1, 2, accelerate=True).order == (0, 1, 2, 3)


@pytest.mark.parametrize("accelerate", [False, True])
def test_where_nothing_drifts_every_layer_is_relaxed(accelerate: bool) -> None:
    result = adjust([0, 0, 0], [1, 2, 3], 4, 2, accelerate=accelerate)
    assert result.intervals == (8, 8, 8)
    assert result.d_curve == (0, 0, 0)


def test_one_layer_is_relaxed_and_accelerating_kept() -> None:
    assert adjust([3.0], [10], 4, 2).intervals == (8,)
    assert adjust([3.0], [10], 4, 2, accelerate=True).intervals == (4,)


def test_only_relaxable_layers_are_relaxed() -> None:
    # Kernels 0 and 2, norms 1 and 3. d*dim = 10, 6, 40, 44 of 100. S counts kernels only, D all:
    # D = 0.1, 0.5; S = 0.2, 1: it crosses at the second (0 < 0.5).
    result = adjust([1, 3, 1.0 + 2**-20, 4], [10, 2, 40, 11], 2, 4, relaxable={0, 2})
    assert result.order == (0, 2)
    assert result.s_curve == (0.2, 1.0)
    assert result.d_curve == pytest.approx((0.1, 0.5), rel=1e-5)
    assert result.intervals == (8, 2, 8, 2)


def test_a_layer_without_parameters_changes_nothing_for_the_others() -> None:
    # Ascending: layer 1, 0, 2. d*dim = 0, 2, 8 of 10: D = 0, 0.2, 1; S = 0, 2/3, 1: it crosses at the last.
    result = adjust([1, 0, 8], [2, 0, 1], 2, 3)
    assert (result.order, result.crossing) == ((1, 0, 2), 3)
    assert result.s_curve[0] == 0
    assert adjust([1, 8], [2, 1], 2, 3).crossing == 2
    assert adjust([0.0], [0], 2, 3).intervals == (6,)


def test_nothing_relaxable_changes_nothing() -> None:
    assert adjust([1, 2], [1, 1], 3, 2, relaxable=()) == Adjustment((3, 3), (), (), (), 0)


def test_accelerating_keeps_the_layers_that_drift_most() -> None:
    # Descending: layer 2, 0, 1. d*dim = 2, 1, 7 of 10; D = 0.7, 0.9, 1; S = 1/8, 3/8, 1.
    # 1 - D = 0.3, 0.1, 0: the second is the first below S, and included.
    assert adjust([1, 0.2, 7], [2, 5, 1], 5, 3, accelerate=True) == Adjustment(
        intervals=(5, 15, 5), order=(2, 0, 1), d_curve=(0.7, 0.9, 1.0), s_curve=(0.125, 0.375, 1.0), crossing=2
    )


@given(LAYERS, st.integers(1, 20), st.integers(2, 8))
def test_accelerating_keeps_one_layer_more(layers: list[tuple[float, int]], tau: int, phi: int) -> None:
    d, sizes = parts(layers)
    assume(len(set(d)) == len(d))  # layers that drift alike are in the same order in both, so not mirrored
    assume(any(d))
    relaxed = adjust(d, sizes, tau, phi)
    accelerated = adjust(d, sizes, tau, phi, accelerate=True)
    assert accelerated.order == relaxed.order[::-1]
    kept = {layer for layer, interval in enumerate(relaxed.intervals) if interval == tau}
    kept_faster = {layer for layer, interval in enumerate(accelerated.intervals) if interval == tau}
    assert kept <= kept_faster
    assert len(kept_faster) - len(kept) <= 2  # the layer at the crossing, and one where the curves meet exactly


@given(LAYERS, st.integers(1, 20), st.integers(1, 8))
def test_the_intervals_are_those_of_the_pseudocode(layers: list[tuple[float, int]], tau: int, phi: int) -> None:
    d, sizes = parts(layers)
    result = adjust(d, sizes, tau, phi)
    assume(any(d))  # the pseudocode divides by the whole
    assume(not any(abs(1 - s - b) < 1e-9 for b, s in zip(result.d_curve, result.s_curve, strict=True)))
    assert list(result.intervals) == twins.adjust(d, sizes, tau, phi)


@given(LAYERS, st.booleans())
def test_d_lies_at_or_below_s_all_along(layers: list[tuple[float, int]], kernels_only: bool) -> None:
    d, sizes = parts(layers)
    result = adjust(d, sizes, 1, 2, relaxable=range(0, len(d), 2) if kernels_only else None)
    assert all(b <= s for b, s in zip(result.d_curve, result.s_curve, strict=True))
    assert list(result.d_curve) == sorted(result.d_curve)
    assert result.s_curve[-1] == 1.0


@given(LAYERS, st.integers(-30, 30))
def test_scaling_all_discrepancies_changes_nothing(layers: list[tuple[float, int]], power: int) -> None:
    d, sizes = parts(layers)
    assume(all(x == 0 or x > 1e-200 for x in d))  # below, float64 would round the scaled ones
    assert adjust([x * 2.0**power for x in d], sizes, 3, 4) == adjust(d, sizes, 3, 4)


@given(LAYERS)
def test_phi_1_is_fedavg(layers: list[tuple[float, int]]) -> None:
    assert set(adjust(*parts(layers), 7, 1).intervals) == {7}


@pytest.mark.parametrize(
    ("d", "sizes", "tau", "phi", "message"),
    [
        ([1.0], [1, 2], 1, 1, "1 discrepancies for 2 layers"),
        ([], [], 1, 1, "0 layers"),
        ([float("nan")], [1], 1, 1, "finite"),
        ([float("inf")], [1], 1, 1, "finite"),
        ([-1.0], [1], 1, 1, "not negative"),
        ([1.0], [-1], 1, 1, "sizes can't be negative"),
        ([1.0], [1], 0, 1, "at least 1"),
        ([1.0], [1], 1, 0, "at least 1"),
    ],
)
def test_impossible_numbers_are_a_mistake(d: list[float], sizes: list[int], tau: int, phi: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        adjust(d, sizes, tau, phi)


# -- whole federations -------------------------------------------------------------------------------------------------

SIZES = (4, 3, 6, 2)
DEVICES = [f"d{index}" for index in range(6)]


def start(seed: int) -> list[list[float]]:
    rng = np.random.default_rng([seed, 99])
    return [rng.normal(size=size).astype(np.float32).tolist() for size in SIZES]


def run(seed: int, **changes: object) -> small_federation.Run:
    options = {
        "local_steps": 3, "phi": 3, "cycles": 4, "lr": 0.02,
        "cohort": lambda cycle: draw(DEVICES, 0.5, seed, cycle),
    }  # fmt: skip
    losses = twins.quadratics(len(DEVICES), SIZES, seed)
    return small_federation.run(losses, start(seed), **(options | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_a_federation_goes_as_the_paper_says(seed: int, weighted: bool) -> None:
    weights = {name: 1.0 + 7 * index * weighted for index, name in enumerate(DEVICES)}
    ours = run(seed, weights=weights)
    theirs = twins.fedlama(
        twins.quadratics(len(DEVICES), SIZES, seed), start(seed), local_steps=3, phi=3, steps=4 * 9, lr=0.02,
        cohort=lambda cycle: draw(DEVICES, 0.5, seed, cycle), weights=weights,
    )  # fmt: skip
    assert ours.intervals == theirs.intervals
    assert ours.sent == theirs.sent
    np.testing.assert_allclose(ours.discrepancy, theirs.discrepancy, rtol=1e-3)
    for layer, values in enumerate(theirs.values):
        np.testing.assert_allclose(ours.vectors[layer], values, rtol=1e-4, atol=1e-5)


def test_these_federations_do_relax_some_layers_and_not_others() -> None:
    taus = [tau for seed in range(4) for course in run(seed).intervals for tau in course]
    assert set(taus) == {3, 9}


@pytest.mark.parametrize("seed", range(3))
def test_phi_1_equals_fedavg_to_the_bit(seed: int) -> None:
    course = run(seed, phi=1, cycles=8)
    fedavg = twins.fedavg(
        twins.quadratics(len(DEVICES), SIZES, seed), start(seed), local_steps=3, rounds=8, lr=0.02,
        cohort=lambda cycle: draw(DEVICES, 0.5, seed, cycle),
    )  # fmt: skip
    assert [v.tobytes() for v in course.vectors] == [v.tobytes() for v in fedavg]
    assert course.ledger.c_ratio == 1.0


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_arrival_does_not_show_in_a_whole_run(seed: int) -> None:
    first, second = run(seed, arrival_seed=1), run(seed, arrival_seed=2)
    assert [v.tobytes() for v in first.vectors] == [v.tobytes() for v in second.vectors]
    assert first.discrepancy == second.discrepancy


@pytest.mark.parametrize("seed", range(3))
def test_after_each_cycle_all_active_devices_hold_the_same(seed: int) -> None:
    course = run(seed)
    assert len(course.at_cycle_end) == 4
    for held in course.at_cycle_end:
        assert len(held) == 3
        assert len({b"".join(vector.tobytes() for vector in vectors) for vectors in held.values()}) == 1
