"""What a device owes: the invariant under losses and repetitions, and training that recovers what a codec spoils."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import accumulate, pairwise

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from lamina.broker.wire.codecs import codec
from lamina.coordinator.folds.aggregate import LayerFold
from lamina.edge_agent.session.error_feedback import ErrorFeedback
from lamina.models.arrays import Vector

TWO = np.array([2.0, 1.0], np.float32)
HALF = np.array([0.5, -0.5], np.float32)


def floats(*values: float) -> Vector:
    return np.array(values, np.float32)


def owed(subject: ErrorFeedback, layer: int = 0) -> list[float]:
    return subject.wanted(layer, floats(0, 0)).tolist()


def test_what_was_lost_is_wanted_next_time() -> None:
    subject = ErrorFeedback()
    assert subject.wanted(0, TWO).tolist() == [2, 1]
    subject.sent(0, round_=0, version=0, lost=HALF)
    subject.settle(1, versions=(1,))
    assert subject.wanted(0, TWO).tolist() == [2.5, 0.5]


def test_until_its_outcome_is_known_the_same_update_is_made_again() -> None:
    subject = ErrorFeedback()
    subject.sent(0, 0, 0, HALF)
    subject.settle(1, (1,))
    for _ in range(3):
        assert subject.wanted(0, TWO).tolist() == [2.5, 0.5]
        subject.sent(0, 1, 1, floats(9, 9))
        subject.settle(1, (1,))  # the plan of the same round, repeated


def test_round_in_which_the_layer_did_not_move_is_forgotten() -> None:
    subject = ErrorFeedback()
    subject.sent(0, 0, 0, HALF)
    subject.settle(1, (0,))
    assert owed(subject) == [0, 0]


def test_update_that_was_not_folded_among_others_that_were_is_forgotten() -> None:
    subject = ErrorFeedback()
    subject.sent(0, 0, 0, HALF)
    subject.sent(1, 0, 0, HALF)
    subject.settle(1, (1, 1), unfolded=(1,))
    assert owed(subject, 0) == [0.5, -0.5]
    assert owed(subject, 1) == [0, 0]


def test_layer_relaxed_for_a_cycle_keeps_what_it_is_owed() -> None:
    subject = ErrorFeedback()
    subject.sent(0, 0, 0, HALF)
    for round_ in (1, 2, 3):
        subject.settle(round_, (1,), unfolded=(0,) if round_ == 3 else ())  # of round 2, in which nothing was sent
    assert owed(subject) == [0.5, -0.5]


def test_delivery_that_comes_to_light_after_its_round_is_void() -> None:
    subject = ErrorFeedback()
    subject.settle(1, (0,))
    subject.sent(0, 0, 0, HALF)
    subject.settle(2, (1,))
    assert owed(subject) == [0, 0]


@pytest.mark.parametrize(("round_", "versions"), [(0, (1,)), (2, (0,))])
def test_plans_that_go_back_end_all_debts(round_: int, versions: tuple[int, ...]) -> None:
    subject = ErrorFeedback()
    subject.sent(0, 0, 0, HALF)
    subject.settle(1, (1,))
    subject.sent(0, 1, 1, HALF)
    subject.settle(round_, versions)
    subject.settle(3, (9,))
    assert owed(subject) == [0, 0]


def test_codec_that_loses_nothing_pays_the_debt() -> None:
    subject = ErrorFeedback()
    subject.sent(0, 0, 0, HALF)
    subject.settle(1, (1,))
    assert subject.wanted(0, TWO).tolist() == [2.5, 0.5]
    subject.sent(0, 1, 1, None)
    subject.settle(2, (2,))
    assert owed(subject) == [0, 0]


def test_saved_and_restored_it_goes_on_as_before() -> None:
    subject, sizes = ErrorFeedback(), (2, 2, 2)
    subject.sent(0, 4, 7, HALF)
    subject.sent(1, 4, 7, TWO)
    subject.settle(5, (8, 8, 0))
    subject.sent(0, 5, 8, TWO)
    saved = {name: vector.copy() for name, vector in subject.vectors((0, 1), due=(0,), sizes=sizes).items()}
    assert {name: vector.tolist() for name, vector in saved.items()} == {
        "owed.0": [0.5, -0.5],
        "lost.0": [2, 1],
        "owed.1": [2, 1],
    }
    other = ErrorFeedback()
    other.restore(saved, 5, (8, 8, 0))
    for twin in (subject, other):
        twin.settle(6, (9, 8, 0))
        assert [owed(twin, 0), owed(twin, 1)] == [[2, 1], [2, 1]]


class Debts(RuleBasedStateMachine):
    """One layer, whole numbers (sums are exact), a codec that keeps multiples of four."""

    @initialize()
    def begin(self) -> None:
        self.subject = ErrorFeedback()
        self.round = self.version = 0
        self.folded = self.learnt = 0.0

    @rule(
        delta=st.integers(-100, 100),
        due=st.booleans(),
        times=st.integers(1, 3),
        fate=st.sampled_from(["folded", "nobody", "others only"]),
        restart=st.booleans(),
    )
    def play_a_round(self, delta: int, due: bool, times: int, fate: str, restart: bool) -> None:
        made, based_on, moved = floats(delta, 0), self.version, False
        if due:
            payloads = set()
            for _ in range(times):  # the link drops, and it is made again
                wanted = self.subject.wanted(0, made)
                sent = np.round(wanted / 4) * 4
                payloads.add(sent.tobytes())
                self.subject.sent(0, self.round, based_on, wanted - sent)
            assert len(payloads) == 1
            if fate == "folded":
                self.folded += float(sent[0])
                self.learnt += delta
            moved = fate != "nobody"
        if restart:
            saved = self.subject.vectors((0,), (0,) if due else (), (2,))
            self.subject = ErrorFeedback()
            self.subject.restore(saved, self.round, (based_on,))
        self.round += 1
        self.version += moved
        self.subject.settle(self.round, (self.version,), (0,) if due and fate == "others only" else ())

    @invariant()
    def nothing_is_lost_or_counted_twice(self) -> None:
        if hasattr(self, "subject"):
            assert self.folded + owed(self.subject)[0] == self.learnt


TestDebts = Debts.TestCase
TestDebts.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)


# A federation: digits in a perceptron of one hidden layer, five devices that have two classes each.

SHAPES = (((64, 32), (32,)), ((32, 10), (10,)))  # of each layer: weights, biases


@dataclass
class Digits:
    x: Vector
    y: npt.NDArray[np.int64]
    devices: list[npt.NDArray[np.int64]] = field(default_factory=list)

    @classmethod
    def read(cls) -> Digits:
        datasets = pytest.importorskip("sklearn.datasets")
        x, y = datasets.load_digits(return_X_y=True)
        own = [np.flatnonzero((y == first) | (y == first + 5)) for first in range(5)]
        return cls((x / 16).astype(np.float32), y, own)


def parts(layer: int, vector: Vector) -> list[Vector]:
    edges = pairwise(accumulate((int(np.prod(shape)) for shape in SHAPES[layer]), initial=0))
    return [vector[slice(*edge)].reshape(shape) for edge, shape in zip(edges, SHAPES[layer], strict=True)]


def logits(values: list[Vector], x: Vector) -> tuple[Vector, Vector]:
    (w, b), (v, c) = parts(0, values[0]), parts(1, values[1])
    hidden = np.maximum(x @ w + b, 0)  # (B, 32)
    return hidden, hidden @ v + c


def step(values: list[Vector], x: Vector, y: npt.NDArray[np.int64], lr: float) -> None:
    """One SGD step of the cross entropy, in place."""
    (w, b), (v, c) = parts(0, values[0]), parts(1, values[1])
    hidden, scores = logits(values, x)
    error = np.exp(scores - scores.max(axis=1, keepdims=True))
    error /= error.sum(axis=1, keepdims=True)
    error[np.arange(len(y)), y] -= 1
    error /= len(y)
    inner = (error @ v.T) * (hidden > 0)
    gradients = hidden.T @ error, error.sum(axis=0), x.T @ inner, inner.sum(axis=0)
    for parameter, gradient in zip((v, c, w, b), gradients, strict=True):
        parameter -= np.float32(lr) * gradient


def accuracy_after(name: str, *, feedback: bool, rounds: int = 60, lr: float = 0.5) -> float:
    """Of the averaged model, after rounds of five local steps on each device."""
    data, rng = Digits.read(), np.random.default_rng(0)
    u = [(rng.standard_normal(sum(int(np.prod(s)) for s in shapes)) * 0.1).astype(np.float32) for shapes in SHAPES]
    owing = [ErrorFeedback() for _ in data.devices]
    for round_ in range(rounds):
        folds = [LayerFold(len(vector), len(vector)) for vector in u]
        for device, own in enumerate(data.devices):
            local = [vector.copy() for vector in u]
            for _ in range(5):
                batch = rng.choice(own, 32)
                step(local, data.x[batch], data.y[batch], lr)
            for layer, fold in enumerate(folds):
                wanted = local[layer] - u[layer]
                if feedback:
                    wanted = owing[device].wanted(layer, wanted)
                subject = codec(name).for_tensors(SHAPES[layer])
                sent = subject.decode(subject.encode(wanted), len(wanted))
                owing[device].sent(layer, round_, round_, wanted - sent)
                fold.add(str(device), sent, 1.0)
        u = [fold.finish(base).value for fold, base in zip(folds, u, strict=True)]
        for ledger in owing:
            ledger.settle(round_ + 1, (round_ + 1,) * len(u))
    return float((logits(u, data.x)[1].argmax(axis=1) == data.y).mean())


@pytest.mark.parametrize(
    ("name", "falls_by", "within"),
    [("int2", 0.02, 0.01), ("sign", 0.10, 0.02), ("top3", 0.03, 0.02), ("top1", 0.08, 0.04), ("rank2", 0.004, 0.008)],
)
def test_biased_codec_spoils_training_and_feedback_recovers_it(name: str, falls_by: float, within: float) -> None:
    exact = accuracy_after("float32", feedback=False)
    assert accuracy_after(name, feedback=False) < exact - falls_by
    assert accuracy_after(name, feedback=True) > exact - within


@pytest.mark.parametrize("name", ["int8", "int4"])
def test_even_grids_need_no_feedback(name: str) -> None:
    assert accuracy_after(name, feedback=False) > accuracy_after("float32", feedback=False) - 0.005
