"""The C ratio and FedAvg's bytes: by hand, and by the paper's formula."""

from collections.abc import Collection, Mapping
from fractions import Fraction

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.coordinator.algorithms.fedavg import due
from lamina.coordinator.algorithms.fedlama import adjust
from lamina.coordinator.records.accounting import Ledger
from lamina.models.spec import ModelSpec
from tests.small_federation import model

SMALL = model([100, 10, 1], statistics=[0, 4, 0])


def ledger(spec: ModelSpec, *rounds: tuple[Mapping[str, int], Collection[int]]) -> Ledger:
    total = Ledger()
    for cuts, due_ in rounds:
        total = total.after_round(spec, cuts, due_)
    return total


def test_before_the_first_round_there_is_nothing_to_compare() -> None:
    assert Ledger().c_ratio == 1.0


def test_the_ratio_is_that_of_the_parameters_sent() -> None:
    # strong devices only: (111 + 11) / (2 * 111), whatever their number
    strong = {"a": 0, "b": 0, "c": 0}
    assert ledger(SMALL, (strong, (0, 1, 2)), (strong, (1, 2))).c_ratio == pytest.approx(122 / 222)


def test_a_layer_counts_as_often_as_it_has_trainers() -> None:
    # |T| = 1, 2, 2. FedAvg: 100 + 2*10 + 2*1 = 122; due is layer 1: 20
    assert ledger(SMALL, ({"a": 0, "b": 1}, (1,))) == Ledger(
        communicated=20, fedavg_communicated=122, fedavg_uplink_bytes=2 * 4 * 115
    )


def test_fedavg_sends_the_whole_network_with_its_statistics() -> None:
    # 111 parameters, 4 statistics, 4 bytes each; 3 devices in one round, 1 in the next, whatever is due
    total = ledger(SMALL, ({"a": 0, "b": 1, "c": 2}, ()), ({"a": 2}, (2,)))
    assert total.fedavg_uplink_bytes == (3 + 1) * 115 * 4


def test_an_empty_cohort_sends_nothing() -> None:
    assert ledger(SMALL, ({}, (0, 1, 2))) == Ledger()


def test_a_ledger_survives_a_restart() -> None:
    total = ledger(SMALL, ({"a": 0}, (0, 1)))
    assert msgspec.json.decode(msgspec.json.encode(total), type=Ledger) == total


LAYERS = st.lists(st.tuples(st.floats(0, 10), st.integers(1, 1000)), min_size=1, max_size=6)


@given(LAYERS, st.integers(1, 5), st.integers(1, 4), st.integers(1, 3))
def test_c_is_1_minus_f_times_1_minus_1_over_phi(
    layers: list[tuple[float, int]], phi: int, tau: int, cohort: int
) -> None:
    sizes = [size for _, size in layers]
    result = adjust([d for d, _ in layers], sizes, tau, phi)
    strong = {f"d{index}": 0 for index in range(cohort)}
    cycle = [(strong, due(result.intervals, tau, (round_ + 1) * tau)) for round_ in range(phi)]
    total = ledger(model(sizes), *cycle)
    relaxed = Fraction(sum(sizes[layer] for layer in result.order[: result.crossing]), sum(sizes))  # f
    c = Fraction(total.communicated, total.fedavg_communicated)
    assert c == 1 - relaxed * (1 - Fraction(1, phi))
    assert Fraction(1, phi) <= c <= 1


@given(LAYERS, st.integers(1, 4), st.dictionaries(st.sampled_from("abcd"), st.integers(0, 3), min_size=1))
def test_with_cuts_c_keeps_its_range(layers: list[tuple[float, int]], phi: int, cuts: dict[str, int]) -> None:
    sizes = [size for _, size in layers]
    taus = adjust([d for d, _ in layers], sizes, 1, phi).intervals
    total = ledger(model(sizes), *((cuts, due(taus, 1, round_ + 1)) for round_ in range(phi)))
    assert 1 / phi <= total.c_ratio <= 1
