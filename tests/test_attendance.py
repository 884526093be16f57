"""Who is waited for before a round, and who sits cycles out."""

from __future__ import annotations

from lamina.coordinator.rounds.attendance import MOST_CYCLES, Attendance


def test_who_was_there_before_is_waited_for_from_when_devices_can_be_heard() -> None:
    attendance = Attendance(["ann", "bob"])
    assert attendance.awaited(now=0.0) == {}
    attendance.listen(until=110.0)
    assert attendance.awaited(now=100.0) == {"ann": 110.0, "bob": 110.0}
    attendance.went("bob", 101.0, goodbye=True)
    assert attendance.awaited(now=101.0) == {"ann": 110.0}
    attendance.went("ann", 120.0, goodbye=False)
    assert attendance.awaited(now=109.0) == {"ann": 120.0}
    assert attendance.awaited(now=120.0) == {}


def test_a_device_that_is_late_in_a_row_sits_out_ever_more_cycles_up_to_a_limit() -> None:
    attendance = Attendance()
    cycles = [attendance.was_late(["ann"], cycle)["ann"] for cycle in range(6)]
    assert cycles == [1, 3, 7, MOST_CYCLES, MOST_CYCLES, MOST_CYCLES]


def test_a_late_device_is_drawn_again_when_its_cycles_are_over() -> None:
    attendance = Attendance()
    attendance.was_late(["ann"], 4)
    assert attendance.is_late("ann")
    assert attendance.drawable(["ann", "bob"], 5) == ["bob"]
    assert not attendance.is_late("ann")
    assert attendance.drawable(["ann", "bob"], 6) == ["ann", "bob"]


def test_a_device_that_went_away_and_came_back_may_be_drawn_at_once() -> None:
    attendance = Attendance()
    attendance.was_late(["ann"], 4)
    attendance.came("ann")
    assert attendance.drawable(["ann", "bob"], 5) == ["ann", "bob"]


def test_where_everyone_would_sit_out_nobody_does() -> None:
    attendance = Attendance()
    attendance.was_late(["ann"], 0)
    assert attendance.drawable(["ann"], 1) == ["ann"]
