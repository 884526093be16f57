"""Who trains a layer, and whole federations with cuts against the twin of the paper's algorithm."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.coordinator.algorithms.embracing import trainers
from tests import small_federation, twins

SIZES = (4, 3, 6, 2)


def test_the_trainers_of_a_layer_are_those_whose_cut_lies_at_or_before_it() -> None:
    cuts = {"weak": 3, "strong": 0, "moderate": 2}
    assert trainers(cuts, 0) == ("strong",)
    assert trainers(cuts, 2) == ("moderate", "strong")
    assert trainers(cuts, 3) == ("moderate", "strong", "weak")
    assert trainers({"weak": 3}, 2) == ()


# -- whole federations -------------------------------------------------------------------------------------------------


def start(seed: int) -> list[list[float]]:
    rng = np.random.default_rng([seed, 99])
    return [rng.normal(size=size).astype(np.float32).tolist() for size in SIZES]


def run(losses: twins.Quadratics, seed: int, cuts: dict[str, int], **changes: object) -> small_federation.Run:
    options = {"local_steps": 3, "phi": 1, "cycles": 6, "lr": 0.02, "cohort": lambda cycle: sorted(cuts), "cuts": cuts}
    return small_federation.run(losses, start(seed), **(options | changes))  # type: ignore[arg-type]


CUTS = [
    {"d0": 0, "d1": 0, "d2": 2, "d3": 3, "d4": 3},
    {"d0": 1, "d1": 2, "d2": 3},  # nobody trains layer 0
    {"d0": 3, "d1": 0},
]


@pytest.mark.parametrize("cuts", CUTS)
@pytest.mark.parametrize("seed", range(3))
def test_a_federation_goes_as_the_paper_says(seed: int, cuts: dict[str, int]) -> None:
    losses = twins.quadratics(len(cuts), SIZES, seed)
    ours = run(losses, seed, cuts)
    theirs = twins.embracing(losses, start(seed), local_steps=3, rounds=6, lr=0.02, cuts=cuts)
    assert ours.sent == theirs.sent
    for layer, values in enumerate(theirs.values):
        np.testing.assert_allclose(ours.vectors[layer], values, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("cuts", CUTS)
@pytest.mark.parametrize("phi", [1, 3])
def test_a_weak_devices_input_side_stays_at_the_global_value(phi: int, cuts: dict[str, int]) -> None:
    course = run(twins.quadratics(len(cuts), SIZES, 0), 0, cuts, phi=phi, cycles=3)
    assert any(len(local) for local, _ in course.frozen)
    for local, global_ in course.frozen:
        assert [vector.tobytes() for vector in local] == [vector.tobytes() for vector in global_]


def test_a_layer_that_nobody_trains_keeps_its_value() -> None:
    course = run(twins.quadratics(3, SIZES, 0), 0, {"d0": 1, "d1": 2, "d2": 3})
    assert course.values[0] == start(0)[0]
    assert all(course.values[layer] != start(0)[layer] for layer in (1, 2, 3))


def test_the_divisor_of_a_layer_is_the_number_of_its_trainers() -> None:
    # Updates of 1 from each trainer, then a layer moves by (1 + ... + 1)/|T_l| = 1, whatever |T_l|.
    losses = twins.Quadratics(
        curvature={name: [[0.0] * size for size in SIZES] for name in ("d0", "d1", "d2")},
        centre={name: [[0.0] * size for size in SIZES] for name in ("d0", "d1", "d2")},
        target=dict.fromkeys(("d0", "d1", "d2"), 1.0),
    )
    zeros = [[0.0] * size for size in SIZES]
    course = small_federation.run(
        losses, zeros, local_steps=1, phi=1, cycles=1, lr=1.0, cohort=lambda cycle: ["d0", "d1", "d2"],
        cuts={"d0": 0, "d1": 2, "d2": 3},
    )  # fmt: skip
    assert course.values == [[1.0] * size for size in SIZES]
    assert course.sent == [(1, 0, 1), (1, 1, 1), (1, 2, 2), (1, 3, 3)]


@pytest.mark.parametrize("seed", range(3))
def test_all_strong_equals_fedavg_to_the_bit(seed: int) -> None:
    losses, strong = twins.quadratics(4, SIZES, seed), {f"d{i}": 0 for i in range(4)}
    fedavg = twins.fedavg(losses, start(seed), local_steps=3, rounds=6, lr=0.02, cohort=lambda cycle: sorted(strong))
    assert [v.tobytes() for v in run(losses, seed, strong).vectors] == [v.tobytes() for v in fedavg]


@pytest.mark.parametrize("cuts", CUTS)
def test_cuts_and_intervals_compose_as_the_twin_says(cuts: dict[str, int]) -> None:
    losses = twins.quadratics(len(cuts), SIZES, 5)
    ours = run(losses, 5, cuts, phi=2)
    theirs = twins.fedlama(
        losses, start(5), local_steps=3, phi=2, steps=6 * 6, lr=0.02, cohort=lambda cycle: sorted(cuts),
        weights=dict.fromkeys(cuts, 1.0), cuts=cuts,
    )  # fmt: skip
    assert ours.sent == theirs.sent
    assert ours.intervals == theirs.intervals
    assert any(tau == 6 for taus in ours.intervals for tau in taus)
    for layer, values in enumerate(theirs.values):
        np.testing.assert_allclose(ours.vectors[layer], values, rtol=1e-4, atol=1e-5)


@given(st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 5), min_size=1), st.integers(0, 4))
def test_later_layers_have_more_trainers(cuts: dict[str, int], layer: int) -> None:
    assert set(trainers(cuts, layer)) <= set(trainers(cuts, layer + 1))
    assert set(trainers(cuts, 5)) == set(cuts)
