"""FedNova: steps by hand, against the paper's formula, and what a device can't gain by it."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.broker.wire.local_work import GRADIENT_WEIGHT, LocalWork
from lamina.coordinator.algorithms import fednova
from lamina.coordinator.algorithms.local_algorithm import Cohort, LayerFacts
from lamina.coordinator.folds.mean import LayerFold
from lamina.coordinator.folds.named_scalars import NamedScalars
from lamina.edge_agent.session.local_memory import LocalMemory
from lamina.models.errors import RejectedUpdate

FACTS = LayerFacts(size=2, further=3, population=4)
BASE = np.float32([1, 2, 10])  # two parameters, one statistic


def cohort(**examples: int) -> Cohort:
    return Cohort(examples=examples, local_steps=6, lr=0.1, momentum=0.9, phi=1)


def aggregated(updates: dict[str, tuple[list[float], float, float]], work: LocalWork) -> np.ndarray:
    """The layer's average over deltas, weights and a_i."""
    fold, scalars = LayerFold(3, 2), NamedScalars(work)
    for device, (delta, weight, a) in updates.items():
        said = {GRADIENT_WEIGHT: a}
        folded = scalars.weight(device, weight, said)
        fold.add(device, np.float32(delta), folded)
        scalars.keep(0, device, folded, said)
    return fednova.average(scalars.of_aggregate(0, fold.finish(BASE)), BASE, FACTS)


def test_steps_go_with_the_samples() -> None:
    # 20, 60 and 40 samples, 40 on average: 3, 9 and 6 steps; one of a million gets four times tau' at most
    assert fednova.plan(cohort(a=20, b=60, c=40)).steps == {"a": 3, "b": 9, "c": 6}
    assert fednova.plan(cohort(a=1, b=1, c=1_000_000)).steps == {"a": 1, "b": 1, "c": 18}
    assert max(fednova.plan(cohort(**{f"d{index}": 1 for index in range(9)}, big=10**9)).steps.values()) == 24


def test_by_hand() -> None:
    # p = 1/2 each, a = 1 and 3: tau_eff = 2; sum p d = (4/1 + 6/3) / 2 = 3 and (0 + 3/3) / 2 = 0.5
    work = LocalWork(scalars=(GRADIENT_WEIGHT,), reference=4.0)
    found = aggregated({"a": ([4, 0, 1], 1, 1), "b": ([6, 3, 3], 1, 3)}, work)
    assert found[:2].tolist() == pytest.approx([1 + 2 * 3, 2 + 2 * 0.5])


@given(
    st.lists(
        st.tuples(st.lists(st.floats(-8, 8, width=16), min_size=3, max_size=3), st.integers(1, 50), st.floats(0.25, 4)),
        min_size=1,
        max_size=6,
    )
)
def test_it_is_the_formula_of_the_paper(sent: list[tuple[list[float], int, float]]) -> None:
    work = LocalWork(scalars=(GRADIENT_WEIGHT,), reference=4.0)
    found = aggregated({f"d{index}": update for index, update in enumerate(sent)}, work)
    whole = sum(weight for _, weight, _ in sent)
    tau_eff = sum(weight / whole * a for _, weight, a in sent)
    for k in range(2):
        moved = tau_eff * sum(weight / whole * delta[k] / a for delta, weight, a in sent)
        assert found[k] == pytest.approx(BASE[k] + moved, rel=1e-5, abs=1e-4)


def test_where_all_make_the_same_steps_it_is_fedavg() -> None:
    work = fednova.plan(cohort(a=5, b=5))
    assert set(work.steps.values()) == {6}
    found = aggregated({"a": ([4, 0, 1], 1, 0.7), "b": ([6, 3, 3], 1, 0.7)}, work)
    np.testing.assert_allclose(found, BASE + np.float32([5, 1.5, 2]), rtol=1e-6)


def test_the_reference_is_a_bound_on_what_a_device_says_of_its_steps() -> None:
    work, memory = fednova.plan(cohort(a=20, b=60)), LocalMemory()
    memory.begin([0], afresh=True)
    for _ in range(work.steps["b"]):
        memory.stepped(0.1, 0.9)
    [(name, a)] = memory.scalars(0, work.scalars)
    assert name == GRADIENT_WEIGHT
    # sum over the steps k of lr (1 - 0.9^k) / (1 - 0.9)
    assert a == pytest.approx(sum(0.1 * (1 - 0.9**k) / 0.1 for k in range(1, work.steps["b"] + 1)))
    assert a <= work.reference


@pytest.mark.parametrize("said", [{}, {GRADIENT_WEIGHT: 0.0}, {GRADIENT_WEIGHT: -1.0}, {"other": 1.0}])
def test_an_update_that_says_something_impossible_is_refused(said: dict[str, float]) -> None:
    scalars = NamedScalars(LocalWork(scalars=(GRADIENT_WEIGHT,), reference=4.0))
    with pytest.raises(RejectedUpdate) as raised:
        scalars.weight("liar", 1.0, said)
    assert raised.value.reason == "scalars"
    with pytest.raises(RejectedUpdate):
        NamedScalars(LocalWork()).weight("liar", 1.0, {GRADIENT_WEIGHT: 1.0})


def test_where_nobody_asks_a_weight_is_what_it_was() -> None:
    assert NamedScalars(LocalWork()).weight("a", 3.0, {}) == 3.0
    assert math.isclose(
        NamedScalars(LocalWork(scalars=(GRADIENT_WEIGHT,), reference=4.0)).weight("a", 3.0, {GRADIENT_WEIGHT: 2.0}), 6.0
    )
