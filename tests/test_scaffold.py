"""SCAFFOLD: whole rounds against the paper's pseudocode, and what becomes of control variates when updates are lost."""

import numpy as np
import pytest

from lamina.broker.wire.local_work import LocalWork
from lamina.coordinator.algorithms import scaffold
from lamina.coordinator.algorithms.local_algorithm import Cohort, LayerFacts
from lamina.coordinator.folds.mean import LayerFold
from lamina.edge_agent.session.local_memory import LocalMemory

LR, STEPS, ROUNDS = 0.1, 3, 6
CENTRES = {"a": np.float32([1, -2]), "b": np.float32([3, 5]), "c": np.float32([-4, 1])}
CURVES = {"a": np.float32([0.5, 2]), "b": np.float32([1, 1]), "c": np.float32([2, 0.5])}
COHORTS = [("a", "b"), ("b", "c"), ("a", "c"), ("a", "b"), ("a", "b", "c"), ("c",)]


def gradient(device: str, y: np.ndarray) -> np.ndarray:
    return CURVES[device] * (y - CENTRES[device])


def by_the_paper() -> tuple[np.ndarray, np.ndarray]:
    """Algorithm 1, option II, over float64: x and c."""
    x, c = np.zeros(2), np.zeros(2)
    own = {device: np.zeros(2) for device in CENTRES}
    for cohort in COHORTS:
        moves, changes = [], []
        for device in cohort:
            y = x.copy()
            for _ in range(STEPS):
                y = y - LR * (gradient(device, y) - own[device] + c)
            after = own[device] - c + (x - y) / (STEPS * LR)
            moves.append(y - x)
            changes.append(after - own[device])
            own[device] = after
        x = x + np.mean(moves, axis=0)
        c = c + len(cohort) / len(CENTRES) * np.mean(changes, axis=0)
    return x, c


def by_the_project() -> tuple[np.ndarray, np.ndarray]:
    """The same with the agents' memory, the coordinator's fold and `scaffold.average`."""
    value = np.zeros(4, np.float32)  # x, then c
    memories = {device: LocalMemory() for device in CENTRES}
    facts = LayerFacts(size=2, further=2, population=3)
    for version, cohort in enumerate(COHORTS):
        examples = dict.fromkeys(cohort, 1)
        control = scaffold.plan(Cohort(examples, local_steps=STEPS, lr=LR, momentum=0.0, phi=1)).correction
        assert control is not None
        fold = LayerFold(4, 2)
        for device in cohort:
            memory = memories[device]
            memory.begin([0], afresh=True)
            shift, y = memory.shift(0, value[2:], control), value[:2].copy()
            for _ in range(STEPS):
                y -= np.float32(LR) * (gradient(device, y) + shift)
                memory.stepped(LR, 0.0)
            delta = y - value[:2]
            fold.add(device, np.concatenate([delta, memory.change(0, version, delta, value[2:], control)]), 1.0)
        value = scaffold.average(fold.finish(value), value, facts)
        for device in cohort:
            memories[device].settle([version + 1])
    return value[:2], value[2:]


def test_rounds_go_as_the_paper_says() -> None:
    for found, wanted in zip(by_the_project(), by_the_paper(), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    assert np.abs(by_the_paper()[1]).min() > 0.01  # the control variate does something


def memory_after(folded: bool) -> np.ndarray:
    """What is added to a gradient after a round whose update was folded, or lost."""
    memory, control = LocalMemory(), LocalWork(control=(1.0, -1.0, -1.0, 1.0)).correction
    assert control is not None
    memory.begin([0], afresh=True)
    memory.stepped(LR, 0.0)
    memory.change(0, 7, np.float32([0.5]), np.float32([2]), control)  # c_i' = 0 - 2 - 0.5 / 0.1 = -7
    memory.settle([8], unfolded=() if folded else (0,))
    return memory.shift(0, np.float32([2]), control)


def test_a_control_variate_moves_only_with_an_update_that_was_folded() -> None:
    assert memory_after(folded=True).tolist() == pytest.approx([2 + 7])
    assert memory_after(folded=False).tolist() == [2]


def test_the_same_update_can_be_made_again() -> None:
    memory, control = LocalMemory(), LocalWork(control=(1.0, -1.0, -1.0, 1.0)).correction
    assert control is not None
    memory.stepped(LR, 0.9)
    given = 0, 7, np.float32([0.5]), np.float32([2]), control
    assert memory.change(*given).tolist() == memory.change(*given).tolist()


def test_a_restarted_device_goes_on_where_it_was() -> None:
    control = LocalWork(control=(1.0, -1.0, -1.0, 1.0)).correction
    assert control is not None
    memory, again = LocalMemory(), LocalMemory()
    for version in range(2):
        memory.begin([0], afresh=True)
        memory.stepped(LR, 0.9)
        memory.pushed(np.float32([1]), 0.9)
        memory.change(0, version, np.float32([0.5]), np.float32([2]), control)
        if version == 0:
            memory.settle([1])
    again.restore(memory.vectors([0], [0], [1], corrects=True), [1])
    for subject in (memory, again):
        subject.settle([2])
    shared = np.float32([2])
    assert memory.shift(0, shared, control).tolist() == again.shift(0, shared, control).tolist()
    assert memory.weight(0) == pytest.approx(again.weight(0), rel=1e-12)


def test_the_average_of_statistics_and_parameters_is_fedavgs() -> None:
    fold = LayerFold(3, 1)  # a parameter, a statistic, a control variate
    fold.add("a", np.float32([1, 2, 8]), 1.0)
    fold.add("b", np.float32([3, 4, 16]), 1.0)
    base = np.float32([10, 20, 100])
    found = scaffold.average(fold.finish(base), base, LayerFacts(size=1, further=2, population=8))
    assert found.tolist() == [12, 23, 103]  # c moves by 2 / 8 of the mean change of 12
