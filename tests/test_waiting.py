"""What the coordinator says while it waits, and when."""

from __future__ import annotations

from itertools import pairwise

from lamina.coordinator.rounds import waiting
from lamina.coordinator.rounds.waiting import FIRST_PAUSE_S, LONGEST_PAUSE_S, Reminder, some
from tests.test_federation import deliver, federation, play, with_devices


def test_it_is_said_at_once_and_then_at_intervals_that_double_up_to_a_limit() -> None:
    reminder, said, now = Reminder(0.0), [], 0.0
    while len(said) < 9:
        if reminder.is_due(now):
            said.append(now)
        now += 1.0
    pauses = [later - earlier for earlier, later in pairwise(said)]
    assert said[0] == 0.0
    assert pauses[:3] == [FIRST_PAUSE_S, 2 * FIRST_PAUSE_S, 4 * FIRST_PAUSE_S]
    assert pauses[-1] == LONGEST_PAUSE_S


def test_news_is_said_at_once() -> None:
    reminder = Reminder(0.0)
    assert reminder.is_due(0.0, ())
    assert not reminder.is_due(1.0, ())
    assert reminder.is_due(2.0, ("ann",))


def test_before_the_first_round_it_says_how_many_are_missing_who_was_refused_and_why() -> None:
    subject = with_devices(federation(), one=100.0, small=9.9)
    text = waiting.before_the_round(subject, now=0.0)
    assert "1 of 2 are here (cohorts.min_devices = 2)" in text
    assert "refused: small (a budget of 9.9 MiB is too small" in text
    assert "start lamina-agent on more devices, or lower cohorts.min_devices" in text


def test_before_a_later_round_it_says_who_may_come_back_and_until_when() -> None:
    subject = with_devices(federation(), one=100.0, two=100.0)
    play(subject, {"one": 1.0, "two": 1.0}, rounds=2)
    subject.went("two", now=100.0, patience_s=10.0)
    assert "waits up to 8 s for two" in waiting.before_the_round(subject, now=102.0)
    for name in ("one", "two"):
        subject.went(name, now=0.0, patience_s=0.0)
    assert "no device is here; one, two took part before" in waiting.before_the_round(subject, now=200.0)


def test_within_a_round_it_says_from_whom_something_is_missing_and_when_the_round_ends() -> None:
    subject = with_devices(federation(), one=100.0, two=100.0, three=100.0)
    plan = subject.begin(now=0.0)
    deliver(subject, plan, {"one": 1.0})
    subject.went("three", now=1.0, patience_s=10.0)
    text = waiting.within_the_round(subject, now=100.0)
    assert "everything from 1 of 3 devices and waits for two (online) and three (gone)" in text
    assert "in 500 s (deadlines.round_s = 600)" in text


def test_of_many_names_a_few_are_said() -> None:
    assert some([f"d{index}" for index in range(9)]) == "d0, d1, d2, d3, d4 and 4 more"
