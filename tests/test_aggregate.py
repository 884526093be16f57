"""Folds: the same bits in any order, what is refused, and every rule against its slow twin."""

import random
import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from lamina.coordinator.folds.aggregate import FOLDS, Aggregate, Fold, LayerFold, rule
from lamina.coordinator.folds.exact import LARGEST_TERM, MOST_TERMS
from lamina.coordinator.folds.robust import trimmed_mean
from lamina.models.errors import ConfigError, RejectedUpdate
from tests import twins

Update = tuple[str, NDArray[np.float32], float]


def vector(*values: float) -> NDArray[np.float32]:
    return np.array(values, np.float32)


def folded(updates: list[Update], size: int | None = None, name: str = "mean") -> Fold:
    length = updates[0][1].size
    fold = rule(name)(length, length if size is None else size)
    for device, delta, weight in updates:
        fold.add(device, delta, weight)
    return fold


def finish(updates: list[Update], base: NDArray[np.float32], size: int | None = None, name: str = "mean") -> Aggregate:
    return folded(updates, size, name).finish(base)


def bits(aggregate: Aggregate) -> tuple[bytes, float, float, tuple[str, ...]]:
    return aggregate.value.tobytes(), aggregate.discrepancy_numerator, aggregate.weight, aggregate.devices


@st.composite
def updates_of_one_layer(draw: st.DrawFn) -> tuple[list[Update], NDArray[np.float32]]:
    """Up to 6 devices' updates of up to 5 elements, of any size that a fold takes, and their base."""
    size = draw(st.integers(1, 5))
    scale = draw(st.sampled_from([2.0**-20, 1.0, 2.0**15]))
    numbers = st.lists(st.floats(-scale, scale, width=32), min_size=size, max_size=size)
    weights = st.sampled_from([1.0, 1.1, 7.3, 600.0, 12345.6789, 2.0**20])
    count = draw(st.integers(1, 6))
    updates = [(f"d{i}", vector(*draw(numbers)), draw(weights)) for i in range(count)]
    return updates, vector(*draw(numbers))


# -- the mean ----------------------------------------------------------------------------------------------------------


def test_two_devices_meet_in_the_middle() -> None:
    # base (10, 20), deltas (1, -2) and (3, 2): mean delta (2, 0); both are 1^2 + 2^2 = 5 away from it
    result = finish([("a", vector(1, -2), 1.0), ("b", vector(3, 2), 1.0)], vector(10, 20))
    assert result.value.tolist() == [12, 20]
    assert result.discrepancy_numerator == 5
    assert result.weight == 2
    assert result.devices == ("a", "b")


def test_weights_count() -> None:
    # (1*4 + 3*0)/4 = 1; sum w/W (u - x)^2 = 1/4 * 9 + 3/4 * 1 = 3
    result = finish([("a", vector(4), 1.0), ("b", vector(0), 3.0)], vector(0))
    assert result.value.tolist() == [1]
    assert result.discrepancy_numerator == 3


def test_statistics_are_averaged_but_do_not_count_as_drift() -> None:
    # one parameter (drift 1), one statistic (drift 10^4)
    result = finish([("a", vector(1, 100), 1.0), ("b", vector(-1, -100), 1.0)], vector(0, 7), size=1)
    assert result.value.tolist() == [0, 7]
    assert result.discrepancy_numerator == 1


def test_a_fold_can_go_on_after_its_value_was_asked_for() -> None:
    fold = folded([("a", vector(2), 1.0)])
    assert fold.finish(vector(0)).value.tolist() == [2]
    fold.add("b", vector(4), 1.0)
    assert fold.finish(vector(0)).value.tolist() == [3]


def test_the_base_and_the_deltas_stay_as_they_are() -> None:
    base, delta = vector(1, 2), vector(0.5, 0.25)
    finish([("a", delta, 1.0)], base)
    assert base.tolist() == [1, 2]
    assert delta.tolist() == [0.5, 0.25]


@given(updates_of_one_layer())
def test_the_mean_is_that_of_rational_arithmetic(case: tuple[list[Update], NDArray[np.float32]]) -> None:
    updates, base = case
    deltas, weights = [delta.tolist() for _, delta, _ in updates], [weight for *_, weight in updates]
    assert finish(updates, base).value.tolist() == twins.exact_mean(base.tolist(), deltas, weights).tolist()


@given(updates_of_one_layer())
def test_the_error_keeps_its_bound(case: tuple[list[Update], NDArray[np.float32]]) -> None:
    updates, _ = case
    length = updates[0][1].size
    value = finish(updates, np.zeros(length, np.float32)).value.tolist()
    whole = sum(Fraction(weight) for *_, weight in updates)
    for k in range(length):
        true = sum(Fraction(weight * float(delta[k])) for _, delta, weight in updates) / whole
        grid, rounding = Fraction(2) ** -37, Fraction(2) ** -23 * abs(true)  # the latter to float64 twice, then float32
        assert abs(Fraction(value[k]) - true) <= grid + rounding


@given(updates_of_one_layer())
def test_the_drift_is_that_of_its_definition(case: tuple[list[Update], NDArray[np.float32]]) -> None:
    updates, base = case
    deltas, weights = [delta.tolist() for _, delta, _ in updates], [weight for *_, weight in updates]
    expected = twins.spread(twins.mean(deltas, weights), deltas, weights)
    # The sum is a difference of second moments: its error is relative to these. 2^-36 is the mean's own grid.
    moment = twins.spread([0.0] * base.size, deltas, weights)
    tolerance = 1e-12 * moment + 2**-36 * base.size * moment**0.5
    assert finish(updates, base).discrepancy_numerator == pytest.approx(expected, rel=0, abs=tolerance)


@pytest.mark.parametrize("value", [1 / 3, 1e-7, 12345.678])
def test_devices_that_agree_have_no_drift_and_never_a_negative_one(value: float) -> None:
    agreeing = [(f"d{i}", np.full(100, value, np.float32), 1.0 + i) for i in range(7)]
    drift = finish(agreeing, np.zeros(100, np.float32)).discrepancy_numerator
    assert 0 <= drift <= 1e-3 * 100 * value**2


def test_layers_longer_than_a_block_are_summed_whole() -> None:
    rng = np.random.default_rng(0)
    length, size = 3 * 8192 + 5, 8192 + 77  # statistics begin inside the second block
    deltas = rng.normal(size=(3, length)).astype(np.float32)
    base = rng.normal(size=length).astype(np.float32)
    result = finish([(f"d{i}", delta, 2.0 + i) for i, delta in enumerate(deltas)], base, size)
    weights = np.array([2, 3, 4]) / 9
    mean = weights @ deltas.astype(np.float64)
    np.testing.assert_allclose(result.value, base + mean, rtol=1e-6, atol=1e-7)
    drift = weights @ np.square(deltas - mean)[:, :size].sum(axis=1)
    assert result.discrepancy_numerator == pytest.approx(drift, rel=1e-9)


def test_memory_does_not_grow_with_the_cohort() -> None:
    length = 1_000_000
    delta = np.ones(length, np.float32)
    fold = LayerFold(length, length)
    fold.add("first", delta, 1.0)
    tracemalloc.start()
    try:
        for index in range(50):
            fold.add(f"d{index}", delta, 1.0)
        assert tracemalloc.get_traced_memory()[1] < delta.nbytes // 4
    finally:
        tracemalloc.stop()


# -- order -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(FOLDS))
@given(case=updates_of_one_layer(), order=st.randoms(use_true_random=False))
def test_any_order_of_arrival_gives_the_same_bits(
    name: str, case: tuple[list[Update], NDArray[np.float32]], order: random.Random
) -> None:
    updates, base = case
    shuffled = order.sample(updates, len(updates))
    assert bits(finish(updates, base, name=name)) == bits(finish(shuffled, base, name=name))


def test_plain_float_sums_do_depend_on_the_order() -> None:
    # What the test above would not notice if its numbers were tame: in float32, 1 + 2^-24 + 2^-24 depends on the order.
    updates = [("a", vector(1), 1.0), ("b", vector(2**-24), 1.0), ("c", vector(2**-24), 1.0)]
    first, *rest = (delta for _, delta, _ in updates)
    assert first + rest[0] + rest[1] != rest[0] + rest[1] + first
    assert bits(finish(updates, vector(0))) == bits(finish(updates[::-1], vector(0)))


@given(updates_of_one_layer(), st.data())
def test_folds_of_parts_merge_into_the_flat_fold(
    case: tuple[list[Update], NDArray[np.float32]], data: st.DataObject
) -> None:
    updates, base = case
    merged = LayerFold(base.size, base.size)
    parts = [LayerFold(base.size, base.size) for _ in range(3)]
    for update in updates:
        data.draw(st.sampled_from(parts)).add(*update)
    for part in data.draw(st.permutations(parts)):
        merged.merge(part)
    assert bits(merged.finish(base)) == bits(finish(updates, base))


def test_a_device_in_two_parts_is_refused() -> None:
    fold, other = folded([("a", vector(1), 1.0)]), folded([("b", vector(9), 1.0), ("a", vector(9), 1.0)])
    assert isinstance(fold, LayerFold)
    assert isinstance(other, LayerFold)
    with pytest.raises(RejectedUpdate, match="duplicate: a is in both"):
        fold.merge(other)
    assert fold.finish(vector(0)).value.tolist() == [1]


def test_a_full_fold_takes_no_more() -> None:
    full, single = LayerFold(1, 1), LayerFold(1, 1)
    single.add("one more", vector(1), 1.0)
    full._weights = dict.fromkeys(map(str, range(MOST_TERMS)), 1.0)  # as if so many had come: adding them takes long
    with pytest.raises(RejectedUpdate, match=r"out_of_bounds: .* 262144"):
        full.add("one more", vector(1), 1.0)
    with pytest.raises(RejectedUpdate, match=r"out_of_bounds: .* 262144"):
        full.merge(single)


def test_a_layer_has_no_more_parameters_than_elements() -> None:
    with pytest.raises(ValueError, match="2 elements can't have 3 parameters"):
        LayerFold(2, 3)


def test_parts_of_different_layers_do_not_merge() -> None:
    with pytest.raises(ValueError, match="3 elements"):
        LayerFold(2, 2).merge(LayerFold(3, 2))


# -- what is refused, by every rule ------------------------------------------------------------------------------------

OUT_OF_BOUNDS = float(np.nextafter(np.float32(LARGEST_TERM), np.float32(np.inf)))


@pytest.mark.parametrize("name", sorted(FOLDS))
@pytest.mark.parametrize(
    ("device", "delta", "weight", "reason"),
    [
        ("a", vector(0, 0), 1.0, "duplicate"),
        ("b", vector(0, np.nan), 1.0, "not_finite"),
        ("b", vector(np.inf, 0), 1.0, "not_finite"),
        ("b", vector(0, -np.inf), 1.0, "not_finite"),
        ("b", vector(np.inf, np.nan), 1.0, "not_finite"),
        ("b", vector(0, 0), float("nan"), "not_finite"),
        ("b", vector(0, 0), float("inf"), "not_finite"),
        ("b", vector(0, OUT_OF_BOUNDS), 1.0, "out_of_bounds"),
        ("b", vector(-OUT_OF_BOUNDS, 0), 1.0, "out_of_bounds"),
        ("b", vector(2.0**34, 0), 3.0, "out_of_bounds"),
        ("b", vector(0, 0), 0.5, "out_of_bounds"),
        ("b", vector(0, 0), 0.0, "out_of_bounds"),
        ("b", vector(0, 0), -1.0, "out_of_bounds"),
        ("b", vector(0, 0), 2.0**30, "out_of_bounds"),
    ],
)
def test_a_refused_update_leaves_no_trace(
    name: str, device: str, delta: NDArray[np.float32], weight: float, reason: str
) -> None:
    fold = folded([("a", vector(1, 2), 1.0)], name=name)
    with pytest.raises(RejectedUpdate) as refusal:
        fold.add(device, delta, weight)
    assert refusal.value.reason == reason
    assert (fold.count, fold.devices) == (1, ("a",))
    assert fold.finish(vector(0, 0)).value.tolist() == [1, 2]


@pytest.mark.parametrize("name", sorted(FOLDS))
def test_the_largest_terms_are_taken(name: str) -> None:
    # +-2^35 cancel, and the small one is still there
    updates = [("a", vector(2.0**35), 1.0), ("b", vector(-(2.0**35)), 1.0), ("c", vector(0.75), 1.0)]
    expected = {"mean": 0.25, "median": 0.75, "trimmed_mean": 0.75, "clipped_mean": 0.25}
    assert finish(updates, vector(0), name=name).value.tolist() == [expected[name]]


@pytest.mark.parametrize("name", sorted(FOLDS))
def test_vectors_of_another_shape_or_type_are_a_mistake(name: str) -> None:
    fold = folded([("a", vector(1, 2), 1.0)], name=name)
    with pytest.raises(ValueError, match=r"the delta of b is float32 \(3,\)"):
        fold.add("b", vector(1, 2, 3), 1.0)
    with pytest.raises(ValueError, match="float64"):
        fold.add("b", np.zeros(2), 1.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="the base is"):
        fold.finish(vector(1))


@pytest.mark.parametrize("name", sorted(FOLDS))
def test_nothing_folded_has_no_value(name: str) -> None:
    with pytest.raises(ValueError, match="nothing was folded"):
        rule(name)(2, 2).finish(vector(0, 0))


def test_an_unknown_rule_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="'medain'; did you mean 'median'"):
        rule("medain")
    with pytest.raises(ConfigError, match="there are clipped_mean, mean, median, trimmed_mean"):
        rule("xyz")


# -- robust rules ------------------------------------------------------------------------------------------------------


def equal_updates(*deltas: NDArray[np.float32]) -> list[Update]:
    return [(f"d{i}", delta, 1.0) for i, delta in enumerate(deltas)]


@given(updates_of_one_layer())
def test_the_median_is_that_of_each_coordinate(case: tuple[list[Update], NDArray[np.float32]]) -> None:
    updates, base = case
    deltas = [delta.tolist() for _, delta, _ in updates]
    centre = twins.median(deltas)
    result = finish(updates, base, name="median")
    assert result.value.tolist() == (base + np.array(centre)).astype(np.float32).tolist()
    expected = twins.spread(centre, deltas, [1.0] * len(deltas))
    assert result.discrepancy_numerator == pytest.approx(expected, rel=1e-9)


@given(updates_of_one_layer())
def test_the_trimmed_mean_leaves_out_a_fifth_at_each_end(case: tuple[list[Update], NDArray[np.float32]]) -> None:
    updates, base = case
    deltas = [delta.tolist() for _, delta, _ in updates]
    left_out = {1: 0, 2: 0, 3: 1, 4: 1, 5: 1, 6: 1}[len(deltas)]
    centre = twins.trimmed_mean(deltas, left_out)
    scale = max(abs(x) for delta in deltas for x in delta)
    value = finish(updates, base, name="trimmed_mean").value
    np.testing.assert_allclose(value, base + np.array(centre), rtol=1e-6, atol=1e-12 * scale)


@pytest.mark.parametrize("name", ["median", "trimmed_mean"])
def test_drift_is_that_of_the_parameters_in_robust_rules_too(name: str) -> None:
    # parameter: 1, 2, 6 around 2: (1 + 0 + 16) / 3; statistics would add thousands
    updates = equal_updates(vector(1, 100), vector(2, 200), vector(6, 300))
    result = finish(updates, vector(0, 0), size=1, name=name)
    assert result.value.tolist() == [2, 200]
    assert result.discrepancy_numerator == pytest.approx(17 / 3)


def test_a_share_of_many_devices_is_left_out() -> None:
    # ten devices, a fifth is two at each end: (2 + 3 + 4 + 5 + 6 + 7) / 6 = 4.5
    fold = trimmed_mean(1, 1)
    for i in (3, 1, 4, 0, 5, 9, 2, 6, 8, 7):
        fold.add(f"d{i}", vector(i if i < 8 else 1e6), 1.0)
    assert fold.finish(vector(0)).value.tolist() == [4.5]


def test_half_or_more_at_each_end_leaves_nothing() -> None:
    with pytest.raises(ValueError, match="one half"):
        trimmed_mean(1, 1, share=0.5)


@pytest.mark.parametrize("name", ["median", "trimmed_mean"])
def test_one_liar_can_not_leave_the_range_of_the_honest(name: str) -> None:
    honest = [vector(0.9, -1), vector(1.0, -1.1), vector(1.1, -0.9), vector(1.2, -1)]
    value = finish([*equal_updates(*honest), ("liar", vector(1e6, -1e6), 1e4)], vector(0, 0), name=name).value
    assert 0.9 <= value[0] <= 1.2
    assert -1.1 <= value[1] <= -0.9


def test_long_deltas_are_clipped_to_the_median_norm() -> None:
    # norms 5, 1 and 100: the median is 5, so (60, 80) counts as (3, 4). Mean of (3, 4), (1, 0), (3, 4)
    result = finish(equal_updates(vector(3, 4), vector(1, 0), vector(60, 80)), vector(0, 0), name="clipped_mean")
    np.testing.assert_allclose(result.value, [7 / 3, 8 / 3], rtol=1e-6)


def test_statistics_are_clipped_apart() -> None:
    # one parameter, norms 1, 1, 1: nothing to clip; one statistic, norms 10, 20, 900: the last counts as 20
    updates = equal_updates(vector(1, 10), vector(1, 20), vector(1, 900))
    result = finish(updates, vector(0, 0), size=1, name="clipped_mean")
    np.testing.assert_allclose(result.value, [1, 50 / 3], rtol=1e-6)
    assert result.discrepancy_numerator == 0


def test_clipping_counts_weights() -> None:
    # norms 1 and 1: (3 * 1 + 1 * -1) / 4
    updates = [("a", vector(1), 3.0), ("b", vector(-1), 1.0)]
    assert finish(updates, vector(0), name="clipped_mean").value.tolist() == [0.5]


@pytest.mark.parametrize("name", ["median", "trimmed_mean"])
def test_a_claimed_weight_does_not_buy_influence(name: str) -> None:
    updates = equal_updates(vector(1), vector(2), vector(3))
    heavy = [("d0", vector(1), 1e6), *updates[1:]]
    assert finish(heavy, vector(0), name=name).value == finish(updates, vector(0), name=name).value


def test_layers_longer_than_a_block_are_sorted_whole() -> None:
    deltas = np.random.default_rng(0).normal(size=(3, 200_003)).astype(np.float32)  # a block is 2^19 / 3 columns
    result = finish(equal_updates(*deltas), np.zeros(200_003, np.float32), name="median")
    assert result.value.tolist() == np.median(deltas, axis=0).tolist()
