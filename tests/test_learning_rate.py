"""The learning rate of every round, against torch's own schedules."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lamina.coordinator.rounds.learning_rate import LearningRate
from lamina.coordinator.settings import Method, Training
from lamina.models.errors import ConfigError


def test_it_stays_where_nothing_is_said() -> None:
    assert [LearningRate().at(round_, 5, 0.3) for round_ in range(5)] == [0.3] * 5


def test_steps() -> None:
    rates = [LearningRate(decay_at=(0.5, 0.75)).at(round_, 8, 1.0) for round_ in range(8)]
    assert rates == [1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01]


def test_warm_up_rises_to_the_rate_and_is_part_of_every_schedule() -> None:
    assert [LearningRate(warmup_rounds=4).at(round_, 6, 2.0) for round_ in range(6)] == [0.5, 1, 1.5, 2, 2, 2]
    rates = [LearningRate("cosine", warmup_rounds=2).at(round_, 5, 1.0) for round_ in range(5)]
    assert rates == pytest.approx([0.5, 1, 1, 0.5, 0])


@given(rounds=st.integers(2, 40), final=st.floats(0, 1))
def test_a_cosine_is_that_of_torch(rounds: int, final: float) -> None:
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.4)
    expected = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=rounds - 1, eta_min=0.4 * final)
    course = LearningRate("cosine", final_share=final)
    for round_ in range(rounds):
        assert course.at(round_, rounds, 0.4) == pytest.approx(expected.get_last_lr()[0], abs=1e-9)
        optimiser.step()
        expected.step()


def test_rounds_beyond_the_end_and_a_single_one() -> None:
    course = LearningRate("cosine")
    assert course.at(9, 5, 1.0) == pytest.approx(0)
    assert course.at(0, 1, 1.0) == 1


def test_rounds_are_those_up_to_whole_cycles() -> None:
    method = Method(training=Training(rounds=3, lr=1.0, lr_schedule="cosine"))
    assert method.rounds == 4
    assert method.rate(3, 0.1) == pytest.approx(0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr_warmup_rounds": 40}, "below the rounds"),
        ({"lr_warmup_rounds": -1}, "at least 0"),
        ({"lr_schedule": "cosine", "lr_decay_at": (0.5,)}, "a cosine has no steps"),
        ({"lr_final_share": 0.1}, "needs lr_schedule = 'cosine'"),
        ({"lr_schedule": "cosine", "lr_final_share": 2.0}, "between 0 and 1"),
    ],
)
def test_what_does_not_go_together(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Training(**settings)  # type: ignore[arg-type]
