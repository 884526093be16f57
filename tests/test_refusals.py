"""Thousands of messages of one kind are a few lines of the log."""

import logging

import pytest

from lamina.broker.wire.messages import Task
from lamina.coordinator.service.refusals import Refusals, Verdicts
from lamina.models.errors import RejectedUpdate

YES = Task(epoch=1, accepted=True, reason="fits", cut=1)
NO = Task(epoch=1, accepted=False, reason="no place")


def test_a_device_that_comes_again_and_again_with_the_same_verdict_is_said_once() -> None:
    verdicts = Verdicts()
    assert verdicts.is_news(None, YES, known=True)
    assert not any(verdicts.is_news(YES, YES, known=True) for _ in range(1000))
    assert verdicts.is_news(YES, NO, known=True)


def test_thousands_of_strangers_are_a_few_lines() -> None:
    verdicts = Verdicts()
    assert sum(verdicts.is_news(None, NO, known=False) for _ in range(5000)) == 14  # 1, 2, 3, 4, 8, ... 4096


def test_a_refusal_that_repeats_says_how_often(caplog: pytest.LogCaptureFixture) -> None:
    refusals = Refusals()
    with caplog.at_level(logging.INFO):
        for _ in range(5000):
            assert refusals.note("pi", RejectedUpdate("stale", "an old one")) == "stale"
    assert len(caplog.messages) == 14
    assert caplog.messages[-1] == "refused: stale: an old one (4096 times by now for this reason, from pi)"
