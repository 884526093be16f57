"""A device keeps what it has when a killed broker comes back with an old plan, until the coordinator speaks."""

import msgspec
import pytest

from lamina.broker.wire.messages import RoundPlan
from lamina.edge_agent.session.events import (
    Abandon,
    Deliver,
    Linked,
    PlanCame,
    Prepare,
    Prepared,
    Subscribe,
    TaskCame,
    Train,
    Trained,
    Unlinked,
)
from lamina.edge_agent.session.kept_plans import is_from_before
from lamina.edge_agent.session.session import Session
from tests.session_device import ALL, MANIFEST, OUTCOME, TASK, Device, after_round_0, plan, published, taken

AT_1 = msgspec.structs.replace(TASK, round=1)
FINISHED = RoundPlan(state="finished", epoch=1, round=1)


def training_round_1() -> Device:
    device = after_round_0()
    device.after(PlanCame(plan(1)), *taken(((0, 1), (2, 1))))
    assert device.state == "training"
    device.after(Unlinked(), Linked(), TaskCame(TASK, retained=True))
    return device


@pytest.mark.parametrize("old", [plan(0), FINISHED])
def test_an_old_plan_that_the_broker_kept_stops_nothing(old: RoundPlan) -> None:
    device = training_round_1()
    assert device.after(PlanCame(old, retained=True)) == []
    assert device.after(Trained(OUTCOME)) == []  # nobody has asked for it on this link
    assert device.after(TaskCame(AT_1)) == []
    [deliver] = device.after(PlanCame(plan(1)))
    assert isinstance(deliver, Deliver)
    device.after(*published(0, 1, 2, round_=1))
    assert device.after(PlanCame(plan(2)), *taken(((0, 2), (1, 1), (2, 2))))[0] == Train(
        plan(2), (0, 1, 2), afresh=True
    )


def test_within_a_cycle_the_device_stays_in_step() -> None:
    device = after_round_0()
    device.after(Unlinked(), Linked(), PlanCame(plan(0), retained=True), PlanCame(plan(1)))
    device.after(Unlinked(), Linked(), PlanCame(plan(0), retained=True), PlanCame(plan(1)))
    assert device.after(*taken(((0, 1), (2, 1))))[0] == Train(plan(1), (0, 2), afresh=False)


def test_a_coordinator_that_says_it_is_at_that_round_has_gone_back() -> None:
    device = training_round_1()
    device.after(PlanCame(plan(0), retained=True))
    assert device.after(TaskCame(msgspec.structs.replace(TASK, round=0))) == [Abandon()]
    assert device.after(Trained(None)) == [Subscribe(ALL)]


def test_what_the_coordinator_said_before_the_plan_counts_too() -> None:
    device = training_round_1()
    assert device.after(TaskCame(msgspec.structs.replace(TASK, round=0)), PlanCame(plan(0), retained=True)) == [
        Abandon()
    ]


def test_what_it_said_on_another_link_does_not() -> None:
    device = training_round_1()
    device.after(TaskCame(msgspec.structs.replace(TASK, round=0)), Unlinked(), Linked())
    assert device.after(PlanCame(plan(0), retained=True)) == []


def test_a_task_of_another_epoch_that_the_broker_kept_ends_nothing() -> None:
    device = training_round_1()
    other = msgspec.structs.replace(TASK, epoch=7)
    assert device.after(TaskCame(other, retained=True)) == []
    assert device.state == "training"
    assert device.after(TaskCame(other)) == [Abandon()]
    assert device.after(Trained(None)) == [Prepare(other)]


def test_a_device_that_starts_again_from_its_saved_state_keeps_it() -> None:
    progress = after_round_0().session.progress
    device = Device(Session("me"))
    before = plan(0, versions=(0, 0, 0), checks=(5, 5, 5))
    device.after(Linked(), TaskCame(TASK, retained=True), PlanCame(before, retained=True))
    assert device.after(Prepared(TASK, MANIFEST, progress)) == []
    assert device.after(PlanCame(plan(1)), *taken(((0, 1), (2, 1))))[0] == Train(plan(1), (0, 2), afresh=False)


def test_what_is_from_before() -> None:
    assert not is_from_before(plan(1), None, None)
    assert not is_from_before(plan(1), plan(1), None)
    assert not is_from_before(plan(2), plan(1), None)
    assert is_from_before(plan(0), plan(1), None)
    assert is_from_before(plan(0), plan(1), 1)
    assert not is_from_before(plan(0), plan(1), 0)
    assert not is_from_before(plan(0, epoch=2), plan(1), None)
    assert is_from_before(FINISHED, plan(1), None)
    assert is_from_before(FINISHED, plan(1), 1)
    assert not is_from_before(FINISHED, plan(0), None)
