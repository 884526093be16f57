"""A device that the operator puts aside drops its work, stays, and takes part again under its next task."""

from msgspec.structs import replace

from lamina.broker.wire.messages import Task
from lamina.edge_agent.session.events import Complain, PlanCame, Prepare, Refuse, TaskCame, Trained, Unlinked, Withdraw
from tests.session_device import OUTCOME, TASK, plan, ready, taken

ASIDE = Task(epoch=TASK.epoch, accepted=False, reason="put aside", aside=True)


def test_it_drops_its_updates_says_so_once_and_waits() -> None:
    device = ready()
    device.after(PlanCame(plan()), *taken(), Trained(OUTCOME))
    assert device.after(TaskCame(ASIDE)) == [Withdraw(), Complain("put aside")]
    assert device.session.state == "waiting"
    assert device.after(TaskCame(ASIDE, retained=True), PlanCame(plan(1))) == []


def test_it_is_prepared_again_when_it_is_taken_back() -> None:
    device = ready()
    device.after(TaskCame(ASIDE))
    assert device.after(TaskCame(TASK)) == [Prepare(TASK)]


def test_while_it_trains_the_result_is_dropped() -> None:
    device = ready()
    device.after(PlanCame(plan()), *taken())
    assert device.session.state == "training"
    assert device.after(TaskCame(ASIDE)) == [Complain("put aside")]
    assert device.after(Trained(OUTCOME)) == []
    assert device.session.state == "waiting"


def test_an_order_that_the_broker_kept_counts() -> None:
    device = ready()
    assert device.after(Unlinked(), TaskCame(ASIDE, retained=True)) == [Complain("put aside")]


def test_any_other_refusal_still_ends_it() -> None:
    device = ready()
    assert device.after(TaskCame(replace(ASIDE, aside=False))) == [Refuse("put aside")]
