"""Whom the coordinator asks for what a broker may have dropped, when, and for how long it bears silence."""

from __future__ import annotations

from itertools import pairwise

from lamina.coordinator.rounds.asking import (
    AT_ONCE,
    FIRST_ABSENT_S,
    FIRST_CALL_S,
    PART_S,
    SOON_S,
    UNANSWERED_S,
    UNKNOWN_S,
    Asking,
    RollCall,
)

OWED = {"a": (0, 1)}


def looks(asking: Asking, until: float, owed: dict[str, tuple[int, ...]], reported: set[str], devices: int = 4) -> dict:
    """When each device is asked, as the looks are taken until a time."""
    asked: dict[str, list[float]] = {}
    while asking.next_at <= until:
        now = asking.next_at
        for device in asking.look(now, owed, {}, reported, devices):
            asked.setdefault(device, []).append(round(now, 1))
    return asked


def test_nobody_is_asked_in_a_round_that_takes_as_long_as_usual() -> None:
    asking = Asking(0.0, 600.0, 100.0, 10.0)
    assert looks(asking, 149.0, OWED, set()) == {}


def test_one_whose_report_has_come_is_asked_soon_for_the_updates_before_it_and_less_and_less_often() -> None:
    asking = Asking(0.0, 600.0, 0.0, 10.0)
    asking.heard("a", 0.0, delivers=True)
    times = looks(asking, 40.0, OWED, {"a"})["a"]
    pauses = [after - before for before, after in pairwise(times)]
    assert times[0] == SOON_S
    assert pauses == sorted(pauses)
    assert pauses[-1] >= 8 * pauses[0]


def test_where_asking_helps_the_pause_begins_anew() -> None:
    asking = Asking(0.0, 600.0, 0.0, 10.0)
    asking.heard("a", 0.0, delivers=True)
    looks(asking, 40.0, OWED, {"a"})
    now = asking.next_at
    assert asking.look(now, {"a": (1,)}, {}, {"a"}, 4) == ["a"]  # layer 0 has come
    assert asking.look(now + SOON_S, {"a": (1,)}, {"a": 5}, {"a"}, 4) == ["a"]  # and some of layer 1


def test_one_that_has_begun_to_deliver_is_left_alone_while_it_goes_on() -> None:
    asking = Asking(0.0, 600.0, 1.0, 10.0)
    for second in range(60):
        asking.heard("a", float(second), delivers=True)
        if second >= asking.next_at:
            assert asking.look(float(second), OWED, {}, set(), 4) == []
    assert looks(asking, 59.0 + PART_S + 3.0, OWED, set()) != {}


def test_one_of_which_nothing_is_heard_is_asked_when_others_have_long_reported() -> None:
    asking = Asking(0.0, 600.0, 0.0, 10.0)
    asking.look(4.0, OWED, {}, {"b", "c"}, 4)  # half of them, after four seconds
    assert looks(asking, 11.0, OWED, {"b", "c"}) == {}
    assert looks(asking, 14.0, OWED, {"b", "c"}) != {}


def test_a_first_round_of_which_nothing_is_known_may_take_a_quarter_of_its_deadline() -> None:
    assert looks(Asking(0.0, 40.0, 0.0, 10.0), 9.9, OWED, set()) == {}
    assert looks(Asking(0.0, 40.0, 0.0, 10.0), 11.5, OWED, set()) != {}
    assert looks(Asking(0.0, 1e6, 0.0, 10.0), UNKNOWN_S + 5.0, OWED, set()) != {}


def test_where_aggregators_fold_a_report_says_nothing_of_updates() -> None:
    asking = Asking(0.0, 600.0, 100.0, 10.0, reports_are_last=False)
    asking.heard("a", 0.0, delivers=False)
    assert looks(asking, 140.0, OWED, {"a"}) == {}


def test_few_are_asked_at_once_and_each_in_its_turn() -> None:
    owed = {f"d{index}": (0,) for index in range(3 * AT_ONCE)}
    asking = Asking(0.0, 600.0, 0.0, 10.0)
    for name in owed:
        asking.heard(name, 0.0, delivers=True)
    assert max(len(asking.look(float(now), owed, {}, owed.keys(), 12)) for now in range(1, 4)) == AT_ONCE
    later = Asking(0.0, 600.0, 0.0, 10.0)
    assert looks(later, 200.0, owed, owed.keys(), 12).keys() == owed.keys()


def test_who_does_not_answer_is_gone_and_any_sign_of_life_is_an_answer() -> None:
    asking = Asking(0.0, 600.0, 0.0, 5.0)
    asking.asked("a", 10.0)
    asking.asked("b", 10.0)
    asking.asked("a", 20.0)  # it counts from the first question
    asking.heard("b", 20.0)
    assert asking.gone(9.9 + UNANSWERED_S) == []
    assert asking.gone(10.0 + UNANSWERED_S) == ["a"]
    assert asking.gone(1000.0) == []  # once


def test_a_round_that_does_not_wait_calls_nobody() -> None:
    call = RollCall()
    assert not any(call.is_due(float(now), waits=False) for now in range(100))
    assert not call.is_due(100.0, waits=True)
    assert call.is_due(100.0 + FIRST_CALL_S, waits=True)
    assert sum(call.is_due(float(now), waits=True) for now in range(104, 1000)) < 12  # less and less often


def test_a_device_that_is_away_is_asked_now_and_then_until_it_is_back() -> None:
    call = RollCall()
    assert call.absent(["a"], 0.0) == []
    assert call.absent(["a"], FIRST_ABSENT_S) == ["a"]
    assert call.absent(["a"], FIRST_ABSENT_S + 1.0) == []
    assert call.absent(["a"], 3 * FIRST_ABSENT_S) == ["a"]
    assert call.absent([], 200.0) == []
    assert call.absent(["a"], 201.0) == []  # away anew
