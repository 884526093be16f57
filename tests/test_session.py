"""The device's state machine, rule by rule. Layers: 0 is below the cut of a weak device, 1 and 2 are trained."""

import msgspec
import pytest

from lamina.broker.wire.messages import RoundPlan, Task
from lamina.edge_agent.session.events import (
    REPORT,
    Abandon,
    Complain,
    Deliver,
    End,
    Linked,
    Passed,
    PlanCame,
    Prepare,
    Prepared,
    Progress,
    Published,
    Refuse,
    Strayed,
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
    WEAK,
    Device,
    after_round_0,
    plan,
    published,
    ready,
    taken,
)

# From nothing to ready.


def test_nothing_happens_before_a_task() -> None:
    device = Device()
    assert device.after(Linked()) == []
    assert device.after(PlanCame(plan())) == []
    assert device.state == "waiting"


def test_an_accepted_device_prepares() -> None:
    device = Device()
    assert device.after(Linked(), TaskCame(TASK)) == [Prepare(TASK)]
    assert device.state == "preparing"
    assert device.after(Prepared(TASK, MANIFEST)) == []
    assert device.state == "idle"


def test_the_same_task_again_changes_nothing() -> None:
    device = ready()
    again = msgspec.structs.replace(TASK, reason="still fits")
    assert device.after(TaskCame(again), TaskCame(again, retained=True)) == []
    assert device.state == "idle"


def test_a_lost_link_has_the_preparation_begun_again() -> None:
    device = Device()
    assert device.after(Linked(), TaskCame(TASK), Unlinked()) == []
    assert device.after(Linked()) == [Prepare(TASK)]


def test_a_plan_that_came_first_is_followed_once_the_device_is_ready() -> None:
    device = Device()
    device.after(Linked(), PlanCame(plan()), TaskCame(TASK))
    assert device.after(Prepared(TASK, MANIFEST)) == [Subscribe(ALL)]


def test_preparation_for_another_task_is_ignored() -> None:
    device = Device()
    assert device.after(Linked(), TaskCame(TASK), Prepared(WEAK, MANIFEST)) == []
    assert device.state == "preparing"


def test_a_refusal_ends_the_session() -> None:
    device = Device()
    no = Task(epoch=1, accepted=False, reason="too small")
    assert device.after(Linked(), TaskCame(no)) == [Refuse("too small")]
    assert device.state == "ended"
    assert device.after(TaskCame(TASK)) == []


def test_a_refusal_that_the_broker_kept_may_be_outdated() -> None:
    device = Device()
    no = Task(epoch=1, accepted=False, reason="too small")
    assert device.after(Linked(), TaskCame(no, retained=True)) == []
    assert device.after(TaskCame(TASK)) == [Prepare(TASK)]


# A round.


def test_a_round_goes_from_values_to_steps_to_updates() -> None:
    device = ready()
    assert device.after(PlanCame(plan())) == [Subscribe(ALL)]
    assert device.after(*taken(ALL[:2])) == []
    assert device.state == "gathering"
    assert device.after(Taken(1, ((2, 0),))) == [Train(plan(), (0, 1, 2), afresh=True), Unsubscribe(ALL)]
    assert device.state == "training"
    assert device.after(Trained(OUTCOME)) == [Deliver(plan(), (0, 2), OUTCOME)]
    assert device.state == "delivering"
    assert device.after(*published(0)) == []
    assert device.session.progress == Progress(1, "aa", 0, plan(), (0, 0, 0), OUTCOME)
    assert device.after(Published(1, 0, (2,))) == []
    assert device.state == "idle"


def test_a_weak_device_takes_all_layers_and_sends_those_it_trains() -> None:
    device = ready(WEAK)
    assert device.after(PlanCame(plan())) == [Subscribe(ALL)]
    assert device.after(*taken(), Trained(OUTCOME)) == [Deliver(plan(), (2,), OUTCOME)]


def test_where_nothing_is_due_the_report_goes_out_alone() -> None:
    device = ready()
    nothing_due = plan(due=())
    assert device.after(PlanCame(nothing_due), *taken(), Trained(OUTCOME)) == [Deliver(nothing_due, (), OUTCOME)]
    assert device.session.progress == Progress(1, "aa", 0, nothing_due, (0, 0, 0), OUTCOME)
    assert device.after(Published(1, 0, (REPORT,))) == []


def test_only_what_the_plan_asks_for_is_wanted() -> None:
    device = ready()
    device.after(PlanCame(plan(versions=(4, 5, 6))))
    assert device.session.wants(1, 0, 4)
    assert not device.session.wants(1, 0, 2)  # an older one
    assert not device.session.wants(1, 0, 6)  # a newer one
    assert not device.session.wants(2, 0, 4)  # another epoch's
    device.after(Taken(1, ((0, 4),)))
    assert not device.session.wants(1, 0, 4)  # a duplicate


def test_a_value_that_was_not_wanted_changes_nothing() -> None:
    device = ready()
    device.after(PlanCame(plan(versions=(4, 5, 6))))
    assert (
        device.after(
            Taken(1, ((0, 6),)), Taken(1, ((0, 2),)), Taken(2, ((0, 4),)), Taken(1, ((1, 5),)), Taken(1, ((2, 6),))
        )
        == []
    )
    assert device.state == "gathering"
    assert device.after(Taken(1, ((0, 4),)))[0] == Train(plan(versions=(4, 5, 6)), (0, 1, 2), afresh=True)


def test_outside_the_cohort_there_is_nothing_to_do() -> None:
    device = ready()
    device.after(PlanCame(plan()), Taken(1, ((0, 0),)))
    assert device.after(PlanCame(plan(1, cohort=("you",)))) == [Unsubscribe(ALL)]
    assert device.state == "idle"


# The next round.


def test_in_step_only_what_moved_is_taken_and_the_rest_keeps_its_drift() -> None:
    device = after_round_0()
    assert device.after(PlanCame(plan(1))) == [Subscribe(((0, 1), (2, 1)))]  # layer 1 was not due
    commands = device.after(*taken(((0, 1), (2, 1))))
    assert commands == [Train(plan(1), (0, 2), afresh=False), Unsubscribe(((0, 1), (2, 1)))]


def test_a_due_layer_that_nobody_updated_keeps_its_drift() -> None:
    device = after_round_0()
    still = plan(1, versions=(0, 0, 0))
    assert device.after(PlanCame(still)) == [Train(still, (), afresh=False)]


def test_a_new_cycle_begins_afresh_and_fetches_only_what_moved() -> None:
    device = after_round_0()
    device.after(PlanCame(plan(1)), *taken(((0, 1), (2, 1))), Trained(OUTCOME), *published(0, 1, 2, round_=1))
    new = plan(2, versions=(2, 0, 2))  # nobody delivered layer 1: its version stands, but drift ends with the cycle
    assert device.after(PlanCame(new)) == [Subscribe(((0, 2), (2, 2)))]
    assert device.after(*taken(((0, 2), (2, 2))))[0] == Train(new, (0, 1, 2), afresh=True)


def test_a_missed_round_has_everything_begin_afresh() -> None:
    device = after_round_0()
    later = plan(2, cycle=0)
    assert device.after(PlanCame(later)) == [Subscribe(((0, 2), (1, 1), (2, 2)))]
    assert device.after(*taken(((0, 2), (1, 1), (2, 2))))[0] == Train(later, (0, 1, 2), afresh=True)


def test_a_missed_round_in_which_nothing_moved_is_missed_all_the_same() -> None:
    device = after_round_0()
    later = plan(2, cycle=0, versions=(1, 0, 0))
    device.after(PlanCame(later))
    assert device.after(Taken(1, ((0, 1),)))[0] == Train(later, (0, 1, 2), afresh=True)


def test_a_gap_in_a_layers_versions_has_everything_begin_afresh() -> None:
    device = after_round_0()
    gap = plan(1, versions=(2, 0, 1))
    device.after(PlanCame(gap))
    assert device.after(*taken(((0, 2), (2, 1))))[0] == Train(gap, (0, 1, 2), afresh=True)


def test_a_plan_that_changes_while_values_are_gathered_forgets_none_of_them() -> None:
    device = after_round_0()
    device.after(PlanCame(plan(1)), Taken(1, ((0, 1),)))
    changed = plan(1, local_steps=7)
    assert device.after(PlanCame(changed)) == []  # layer 2 is on its way already
    assert device.after(Taken(1, ((2, 1),)))[0] == Train(changed, (0, 2), afresh=False)


def test_a_newer_plan_while_values_are_gathered_has_them_replaced() -> None:
    device = ready()
    device.after(PlanCame(plan(0)), Taken(1, ((0, 0),)))
    newer = plan(1)  # versions 1, 0, 1
    assert device.after(PlanCame(newer)) == [Unsubscribe(((0, 0), (2, 0))), Subscribe(((0, 1), (2, 1)))]
    assert device.after(*taken(((0, 1), (1, 0), (2, 1))))[0] == Train(newer, (0, 1, 2), afresh=True)


def test_a_plan_with_another_cohort_or_deadline_is_the_same_work() -> None:
    device = ready()
    device.after(PlanCame(plan()), *taken())
    assert device.after(PlanCame(plan(cohort=("me",), deadline_s=9.0))) == []
    assert device.state == "training"


# A newer plan while training.


def test_a_newer_plan_has_training_left_off_and_everything_begun_afresh() -> None:
    device = after_round_0()
    device.after(PlanCame(plan(1)), *taken(((0, 1), (2, 1))))
    assert device.after(PlanCame(plan(2))) == [Abandon()]
    assert device.after(PlanCame(plan(3))) == []  # once is enough
    assert device.state == "training"
    assert device.after(Trained(None)) == [Subscribe(((0, 3), (1, 1), (2, 3)))]
    assert device.after(*taken(((0, 3), (1, 1), (2, 3))))[0] == Train(plan(3), (0, 1, 2), afresh=True)


def test_training_that_ended_before_it_was_left_off_keeps_the_device_in_step() -> None:
    device = ready()
    device.after(PlanCame(plan(0)), *taken(), PlanCame(plan(1)))
    assert device.after(Trained(OUTCOME)) == [Subscribe(((0, 1), (2, 1)))]
    assert device.after(*taken(((0, 1), (2, 1))))[0] == Train(plan(1), (0, 2), afresh=False)


def test_nothing_is_taken_while_training() -> None:
    device = ready()
    device.after(PlanCame(plan(0)), *taken(), PlanCame(plan(1)))
    assert not device.session.wants(1, 0, 1)
    assert device.after(Taken(1, ((0, 1),))) == []
    assert device.after(Trained(OUTCOME)) == [Subscribe(((0, 1), (2, 1)))]


def test_leaving_the_cohort_has_training_left_off() -> None:
    device = ready()
    device.after(PlanCame(plan(0)), *taken())
    assert device.after(PlanCame(plan(0, cohort=("you",)))) == [Abandon()]
    assert device.after(Trained(None)) == []
    assert device.state == "idle"


def test_an_abandoned_plan_that_comes_back_is_begun_afresh() -> None:
    device = after_round_0()
    device.after(PlanCame(plan(1)), *taken(((0, 1), (2, 1))), PlanCame(plan(1, cohort=("you",))), PlanCame(plan(1)))
    assert device.after(Trained(None)) == [Train(plan(1), (0, 1, 2), afresh=True)]


# Other tasks and epochs.


def test_a_plan_of_another_epoch_is_ignored() -> None:
    device = ready()
    assert device.after(PlanCame(plan(epoch=2))) == []
    assert device.state == "idle"


def test_a_new_epoch_begins_everything_anew() -> None:
    device = after_round_0()
    device.after(PlanCame(plan(1)))
    new = msgspec.structs.replace(TASK, epoch=2)
    assert device.after(TaskCame(new)) == [Unsubscribe(((0, 1), (2, 1))), Prepare(new)]
    assert device.after(Prepared(new, MANIFEST)) == []  # the plan is of the old epoch
    assert device.after(PlanCame(plan(epoch=2))) == [Subscribe(ALL)]


def test_a_new_task_waits_for_training_to_be_left_off() -> None:
    device = ready()
    device.after(PlanCame(plan()), *taken())
    new = msgspec.structs.replace(TASK, cut=1)
    assert device.after(TaskCame(new)) == [Abandon()]
    assert device.after(Trained(OUTCOME)) == [Prepare(new)]
    assert device.after(Prepared(new, MANIFEST)) == [Subscribe(ALL)]


def test_a_new_task_voids_what_is_being_delivered() -> None:
    device = ready()
    device.after(PlanCame(plan()), *taken(), Trained(OUTCOME))
    assert device.after(TaskCame(WEAK)) == [Withdraw(), Prepare(WEAK)]
    assert device.after(Published(1, 0, (0,))) == []


# The end.


def test_a_finished_federation_ends_the_session() -> None:
    device = after_round_0()
    assert device.after(PlanCame(RoundPlan(state="finished", epoch=1, round=1))) == [End()]
    assert device.state == "ended"


def test_a_federation_that_finishes_while_training_ends_the_session_soon() -> None:
    device = ready()
    device.after(PlanCame(plan()), *taken())
    assert device.after(PlanCame(RoundPlan(state="finished", epoch=1, round=1))) == [Abandon()]
    assert device.after(Trained(None)) == [End()]


def test_what_is_being_delivered_at_the_end_is_void() -> None:
    device = ready()
    device.after(PlanCame(plan()), *taken(), Trained(OUTCOME))
    assert device.after(PlanCame(RoundPlan(state="finished", epoch=1, round=1))) == [Withdraw(), End()]


def test_the_end_of_an_earlier_run_is_history() -> None:
    """The broker kept task and plan of a run that this agent has not seen; it waits for the next one."""
    device = Device()
    device.after(Linked(), PlanCame(RoundPlan(state="finished", epoch=1, round=9), retained=True))
    assert device.after(TaskCame(TASK, retained=True)) == [Prepare(TASK)]
    assert device.after(Prepared(TASK, MANIFEST)) == []
    assert device.state == "idle"
    new = msgspec.structs.replace(TASK, epoch=2)
    assert device.after(TaskCame(new)) == [Prepare(new)]


# Plans that can't be followed.


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"versions": (0, 0)}, "it has 2 versions, and the model 3 layers"),
        ({"checks": (0, 0)}, "it has 2 checks, and the model 3 layers"),
        ({"due": (0, 3)}, "layer 3 is due, and the model has 3"),
        ({"local_steps": 0}, "it asks for 0 steps of 4 samples"),
        ({"batch_size": 0}, "it asks for 5 steps of 0 samples"),
        ({"hyperparameters": {"rate": 0.1}}, "the training graphs have no hyperparameter 'rate'"),
        ({"codec": "float8"}, "there is no codec 'float8'"),
    ],
)
def test_a_plan_that_can_not_be_followed_is_complained_of_and_changes_nothing(
    fields: dict[str, object], fault: str
) -> None:
    bad = plan(1, **fields)
    device = after_round_0()
    assert device.after(PlanCame(bad)) == [Complain(f"plan of round 1: {fault}")]
    assert device.after(PlanCame(plan(1))) == [Subscribe(((0, 1), (2, 1)))]

    early = Device()
    early.after(Linked(), PlanCame(bad), TaskCame(TASK))
    assert early.after(Prepared(TASK, MANIFEST)) == [Complain(f"plan of round 1: {fault}")]
    assert early.after(PlanCame(plan(0))) == [Subscribe(ALL)]


# The advance.


OFFER = plan(1, advanced=(0, 2))  # layer 1 has not moved


def test_what_the_advance_leads_to_is_taken_from_it() -> None:
    device = after_round_0()
    assert device.after(PlanCame(OFFER)) == [Subscribe((), advance=True)]
    assert device.session.wants(1, 0, 1, delta=True)
    assert device.session.wants(1, 0, 1)  # without a codec for deltas, a value comes by the advance
    assert not device.session.wants(1, 1, 1, delta=True)
    assert not device.session.wants(1, 0, 2, delta=True)
    assert device.after(*taken(((0, 1), (2, 1)))) == [Train(OFFER, (0, 2), afresh=False)]


def test_the_next_advance_is_on_its_way_with_its_plan() -> None:
    device = after_round_0()
    device.after(PlanCame(OFFER), *taken(((0, 1), (2, 1))), Trained(OUTCOME), *published(0, 1, 2, round_=1))
    following = plan(2, cycle=0, versions=(2, 1, 1), advanced=(0, 1))
    assert device.after(PlanCame(following)) == []
    assert device.after(*taken(((0, 2), (1, 1)))) == [Train(following, (0, 1), afresh=False)]


def test_an_advance_that_passed_while_training_is_subscribed_to_anew() -> None:
    device = after_round_0()
    device.after(PlanCame(OFFER), *taken(((0, 1), (2, 1))))
    newer = plan(2, cycle=0, versions=(2, 1, 1), advanced=(0, 1))
    assert device.after(PlanCame(newer)) == [Abandon()]
    assert device.after(Passed(1, 0, 2), Passed(1, 1, 1)) == []
    assert device.after(Trained(None)) == [Subscribe((), advance=True)]


def test_an_advance_that_overtook_its_plan_is_subscribed_to_anew() -> None:
    device = after_round_0()
    device.after(PlanCame(OFFER), *taken(((0, 1), (2, 1))), Trained(OUTCOME), *published(0, 1, 2, round_=1))
    assert device.after(Passed(1, 0, 2)) == []
    assert device.after(PlanCame(plan(2, cycle=0, versions=(2, 1, 1), advanced=(0, 1)))) == [
        Subscribe((), advance=True)
    ]


def test_what_passed_and_is_not_needed_is_not_fetched() -> None:
    device = after_round_0()
    device.after(PlanCame(OFFER), Passed(1, 1, 5), Passed(7, 2, 1))
    assert device.after(PlanCame(OFFER)) == []


def test_outside_the_cohort_no_advance_is_received() -> None:
    device = after_round_0()
    device.after(PlanCame(OFFER))
    assert device.after(PlanCame(plan(1, cohort=("you",)))) == [Unsubscribe((), advance=True)]
    assert device.after(PlanCame(plan(2, cohort=("you",)))) == []


def test_a_lost_link_has_the_advance_subscribed_to_again() -> None:
    device = after_round_0()
    device.after(PlanCame(OFFER), Taken(1, ((0, 1),)), Unlinked(), Linked())
    assert device.after(PlanCame(OFFER, retained=True)) == [Subscribe((), advance=True)]


def test_a_late_joiner_takes_values_whatever_is_offered() -> None:
    assert ready().after(PlanCame(plan(advanced=(0, 1, 2)))) == [Subscribe(ALL)]


def test_a_device_that_missed_a_version_takes_the_value() -> None:
    device = after_round_0()
    later = plan(2, versions=(2, 1, 1), advanced=(0, 1, 2))
    assert device.after(PlanCame(later)) == [Subscribe(((0, 2),), advance=True)]


def test_a_delta_to_something_else_than_is_held_has_the_value_fetched() -> None:
    device = after_round_0()
    device.after(PlanCame(OFFER))
    assert device.after(Strayed(1, 0, 1)) == [Subscribe(((0, 1),))]
    assert device.after(Taken(1, ((2, 1),))) == []
    [train, _] = device.after(Taken(1, ((0, 1),)))
    assert train == Train(OFFER, (0, 2), afresh=False)  # it is in step all the same


def test_a_repeated_plan_that_offers_no_advance_any_more_has_the_values_fetched() -> None:
    device = after_round_0()
    device.after(PlanCame(OFFER), Taken(1, ((2, 1),)))
    assert device.after(PlanCame(plan(1))) == [Subscribe(((0, 1),))]


@pytest.mark.parametrize("changes", [{"small_codec": "int9"}, {"codecs": {"you": "int9"}}])
def test_a_plan_with_an_unknown_codec_is_complained_about(changes: dict[str, object]) -> None:
    assert ready().after(PlanCame(plan(**changes))) == [Complain("plan of round 0: there is no codec 'int9'")]


def test_where_links_die_soon_no_advance_is_subscribed_to() -> None:
    device = after_round_0()
    device.after(Unlinked(), Linked(sparing=True))
    commands = device.after(PlanCame(plan(1, advanced=(0, 2)), retained=True))
    assert commands == [Subscribe(((0, 1), (2, 1)))]
