"""The device's state machine after training: updates, lost links and restarts."""

import math

import msgspec
import pytest

from lamina.edge_agent.session.events import (
    REPORT,
    Deliver,
    Insist,
    Linked,
    Outcome,
    Overdue,
    PlanCame,
    Prepared,
    Progress,
    Published,
    SayPresent,
    Subscribe,
    Taken,
    TaskCame,
    Train,
    Trained,
    Unlinked,
    Unsubscribe,
    Withdraw,
)
from tests.session_device import (
    ALL,
    MANIFEST,
    OUTCOME,
    TASK,
    Device,
    after_round_0,
    plan,
    published,
    ready,
    taken,
)

# Updates.


def test_updates_wait_for_the_link_and_for_the_plan() -> None:
    device = ready()
    device.after(PlanCame(plan()), *taken())
    assert device.after(Unlinked(), Trained(OUTCOME)) == []
    assert device.after(Linked()) == []
    assert device.after(PlanCame(plan(), retained=True)) == [Deliver(plan(), (0, 2), OUTCOME)]


def test_after_a_lost_link_all_goes_out_again_the_broker_may_have_died_with_it() -> None:
    device = ready()
    device.after(PlanCame(plan()), *taken(), Trained(OUTCOME), Published(1, 0, (0,)), Published(1, 0, (REPORT,)))
    assert device.after(Unlinked(), Linked(), PlanCame(plan(), retained=True)) == [Deliver(plan(), (0, 2), OUTCOME)]


def test_updates_of_a_past_round_are_void() -> None:
    device = ready()
    device.after(PlanCame(plan()), *taken(), Trained(OUTCOME))
    assert device.after(PlanCame(plan(1))) == [Withdraw(), Subscribe(((0, 1), (2, 1)))]
    assert device.after(Published(1, 0, (0,))) == []
    device.after(Unlinked(), Linked())
    assert device.after(PlanCame(plan(1), retained=True)) == [Subscribe(((0, 1), (2, 1)))]


def test_a_repetition_by_the_coordinator_asks_for_everything_again() -> None:
    device = after_round_0()
    assert device.after(PlanCame(plan(0))) == [Deliver(plan(0), (0, 2), OUTCOME)]


def test_a_repetition_by_the_broker_on_the_same_link_asks_for_nothing() -> None:
    device = after_round_0()
    assert device.after(PlanCame(plan(0), retained=True)) == []


def test_a_repetition_by_the_coordinator_while_delivering_has_all_sent_again() -> None:
    device = ready()
    device.after(PlanCame(plan()), *taken(), Trained(OUTCOME), Published(1, 0, (0,)))
    assert device.after(PlanCame(plan())) == [Deliver(plan(), (0, 2), OUTCOME)]  # layer 0 may have died with it


def test_a_repetition_by_the_broker_while_delivering_does_not_disturb() -> None:
    device = ready()
    device.after(PlanCame(plan()), *taken(), Trained(OUTCOME))
    assert device.after(PlanCame(plan(), retained=True)) == []


def test_a_repetition_by_the_coordinator_while_values_are_missing_has_them_asked_for_again() -> None:
    device = ready()
    device.after(PlanCame(plan()), *taken(((0, 0),)))
    assert device.after(PlanCame(plan())) == [Unsubscribe(ALL), Subscribe(((1, 0), (2, 0)))]
    assert device.after(PlanCame(plan(), retained=True)) == []


def test_a_round_without_finite_loss_is_reported_and_followed_by_a_fresh_one() -> None:
    device = ready()
    lost = Outcome(steps=2, loss=math.nan, accuracy=0.1, step_s=0.01, forward_s=0.0)
    assert device.after(PlanCame(plan()), *taken(), Trained(lost)) == [Deliver(plan(), (), lost)]
    assert device.after(Published(1, 0, (REPORT,))) == []  # nothing worth saving
    device.after(PlanCame(plan(1)))
    assert device.after(*taken(((0, 1), (2, 1))))[0] == Train(plan(1), (0, 1, 2), afresh=True)


# A lost link while gathering.


def test_what_was_taken_before_the_link_was_lost_is_kept() -> None:
    device = ready()
    device.after(PlanCame(plan()), Taken(1, ((0, 0),)))
    assert device.after(Unlinked()) == []
    assert device.after(Linked()) == []
    assert device.after(PlanCame(plan(), retained=True)) == [Subscribe(ALL[1:])]


def test_training_goes_on_without_a_link() -> None:
    device = ready()
    device.after(PlanCame(plan()), *taken())
    assert device.after(Unlinked()) == []
    assert device.state == "training"


# Restart.


SAVED = Progress(1, "aa", 0, plan(0), (0, 0, 0), OUTCOME)


def test_with_its_state_a_restarted_device_is_in_step() -> None:
    device = ready(progress=SAVED)
    assert device.after(PlanCame(plan(1))) == [Subscribe(((0, 1), (2, 1)))]
    assert device.after(*taken(((0, 1), (2, 1))))[0] == Train(plan(1), (0, 2), afresh=False)


@pytest.mark.parametrize("retained", [False, True])
def test_a_restarted_device_repeats_what_may_never_have_been_heard(retained: bool) -> None:
    device = ready(progress=SAVED)
    assert device.after(PlanCame(plan(0), retained=retained)) == [Deliver(plan(0), (0, 2), OUTCOME)]

    early = Device()
    early.after(Linked(), PlanCame(plan(0), retained=retained), TaskCame(TASK))
    assert early.after(Prepared(TASK, MANIFEST, SAVED)) == [Deliver(plan(0), (0, 2), OUTCOME)]


@pytest.mark.parametrize(
    "other",
    [
        msgspec.structs.replace(SAVED, epoch=2),
        msgspec.structs.replace(SAVED, manifest="bb"),
        msgspec.structs.replace(SAVED, cut=1),
        msgspec.structs.replace(SAVED, versions=(0, 0)),
    ],
)
def test_a_state_of_something_else_is_not_used(other: Progress) -> None:
    device = ready(progress=other)
    assert device.after(PlanCame(plan(1))) == [Subscribe(((0, 1), (1, 0), (2, 1)))]


def test_a_coordinator_that_went_back_has_everything_fetched_again() -> None:
    device = after_round_0()
    device.after(PlanCame(plan(1)), *taken(((0, 1), (2, 1))), Trained(OUTCOME), *published(0, 1, 2, round_=1))
    again = plan(0)
    assert device.after(PlanCame(again)) == [Subscribe(ALL)]
    assert device.after(*taken())[0] == Train(again, (0, 1, 2), afresh=True)


def test_a_coordinator_that_went_back_to_a_round_that_is_done_has_it_done_again() -> None:
    device = after_round_0()
    device.after(PlanCame(plan(1)), Taken(1, ((0, 1),)))  # now the update of layer 0 can't be measured any more
    assert device.after(PlanCame(plan(0))) == [Unsubscribe(((0, 1), (2, 1))), Subscribe(ALL)]


def test_a_coordinator_that_passed_through_a_round_again_has_what_came_of_it_fetched_again() -> None:
    device = after_round_0()
    device.after(PlanCame(plan(1)), *taken(((0, 1), (2, 1))), Trained(OUTCOME), *published(0, 1, 2, round_=1))
    device.after(Unlinked(), Linked())
    again = plan(1, checks=(1, 0, 7))  # while the device was away
    device.after(PlanCame(again, retained=True))
    assert device.after(TaskCame(msgspec.structs.replace(TASK, round=1))) == [Subscribe(((0, 1), (1, 0), (2, 1)))]
    assert device.session.check(2) == 7


def test_steps_from_values_that_are_no_more_are_void() -> None:
    device = after_round_0()
    device.after(PlanCame(plan(1)), *taken(((0, 1), (2, 1))))
    device.after(PlanCame(plan(0)), PlanCame(plan(1)))  # back, and on again, to other values of the same versions
    assert device.after(Trained(OUTCOME)) == [Subscribe(((0, 1), (1, 0), (2, 1)))]


# A broker that drops what it has acknowledged.


def asked(*layers: int, round_: int = 0) -> TaskCame:
    return TaskCame(msgspec.structs.replace(TASK, round=round_, owed=layers))


def test_what_the_coordinator_lacks_goes_out_again_and_nothing_else() -> None:
    device = after_round_0()
    assert device.after(asked(2)) == [SayPresent(), Deliver(plan(0), (2,), OUTCOME, again=True)]
    device.after(*published(2))
    assert device.after(asked()) == [SayPresent(), Deliver(plan(0), (), OUTCOME, again=True)]


def test_a_delivery_under_way_is_not_begun_anew() -> None:
    device = ready()
    device.after(PlanCame(plan()), *taken(), Trained(OUTCOME), Published(1, 0, (0,)))
    assert device.after(asked(0, 2)) == [SayPresent()]


def test_a_question_that_the_broker_kept_is_none() -> None:
    device = after_round_0()
    assert device.after(TaskCame(asked(2).task, retained=True)) == []


def test_a_device_that_trains_answers_and_goes_on() -> None:
    device = ready()
    device.after(PlanCame(plan()), *taken())
    assert device.after(asked(0, 2)) == [SayPresent()]
    assert device.state == "training"


def test_a_device_that_was_not_sent_the_plan_asks_for_it() -> None:
    device = after_round_0()
    assert device.after(asked(0, 2, round_=1)) == [SayPresent(), Subscribe((), plan=True)]
    assert ready().after(asked(0, 2)) == [SayPresent(), Subscribe((), plan=True)]


def test_layers_that_are_not_due_from_it_are_not_sent() -> None:
    device = after_round_0()
    assert device.after(asked(0, 1, 2, 77)) == [SayPresent(), Deliver(plan(0), (0, 2), OUTCOME, again=True)]


def test_values_that_do_not_come_are_asked_for_and_those_that_are_here_are_not() -> None:
    device = ready()
    device.after(PlanCame(plan()), *taken(((0, 0),)))
    assert device.after(Overdue()) == [Insist(((1, 0), (2, 0)))]


def test_an_advance_that_does_not_come_is_asked_for_and_then_whole_values_instead() -> None:
    device = after_round_0()
    device.after(PlanCame(plan(1, advanced=(0, 2))), Taken(1, ((2, 1),)))
    assert device.after(Overdue()) == [Subscribe((), advance=True)]
    assert device.after(Overdue()) == [Subscribe(((0, 1),))]
    commands = device.after(Taken(1, ((0, 1),)))
    assert isinstance(commands[0], Train)
    assert not commands[0].afresh  # it is in step all the same


def test_nothing_is_overdue_where_nothing_is_gathered() -> None:
    assert after_round_0().after(Overdue()) == []
    assert Device().after(Overdue()) == []
