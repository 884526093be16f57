"""An aggregator's machine: what it sends when, and that the coordinator takes it as the updates it is made of."""

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.broker.wire.chunks import LayerValue, unpack_partial
from lamina.broker.wire.messages import RoundPlan, Task
from lamina.coordinator.folds.aggregate import LayerFold
from lamina.coordinator.rounds.round import PartialUpdate, Round, Update
from lamina.coordinator.rounds.site import Site, share
from lamina.models.errors import RejectedUpdate
from tests.small_federation import model

SPEC = model([1, 1, 1])
PLAN = RoundPlan(epoch=7, round=3, cohort=("ann", "bob", "cid", "far"), due=(0, 2), versions=(4, 5, 6), deadline_s=10.0)
CUTS = {"ann": 0, "bob": 2, "cid": 2, "far": 0}


def site(*devices: str, layers: tuple[int, ...] = (0, 1, 2), most_devices: int = 9) -> Site:
    """At time 100, with the plan heard; "far" is known by its task only: it is of another site."""
    subject = Site(most_devices)
    subject.use(SPEC, layers)
    for device in devices:
        subject.meet(device, 1)
    for device, cut in CUTS.items():
        subject.task(device, Task(epoch=7, accepted=True, reason="", cut=cut))
    subject.begin(PLAN, now=100.0)
    return subject


def update(device: str, layer: int = 2, delta: float = 1.0, **changes: int) -> Update:
    fields = {"epoch": 7, "round": 3, "version": PLAN.versions[layer], **changes}
    return Update(device, layer, weight=1.0, delta=np.array([delta], np.float32), **fields)


def told(values: list[LayerValue]) -> list[tuple[int, tuple[str, ...]]]:
    return [(value.layer, unpack_partial(value, SPEC.layers[value.layer]).devices) for value in values]


def central(*, cuts: dict[str, int] = CUTS) -> Round:
    return Round(PLAN, cuts, lambda layer: LayerFold(1, 1), 100.0)


def as_update(value: LayerValue) -> PartialUpdate:
    partial = unpack_partial(value, SPEC.layers[value.layer])
    return PartialUpdate("site", value.layer, value.epoch, value.round, value.version, partial)


def test_after_a_start_within_a_round_each_update_goes_out_by_itself() -> None:
    """A killed aggregator doesn't know whose sums it has sent, and one sum with a device twice is refused whole."""
    subject = Site()
    subject.use(SPEC, (0, 1, 2))
    for device in ("ann", "bob"):
        subject.meet(device, 1)
        subject.task(device, Task(epoch=7, accepted=True, reason="", cut=0))
    subject.begin(PLAN, now=100.0, kept=True)
    subject.begin(PLAN, now=100.0)  # the coordinator says it again
    whole = central()
    whole.receive(update("ann"))  # by the sum that was sent before
    for device in ("ann", "bob"):
        subject.receive(update(device))
    values = subject.ready(now=101.0)
    assert told(values) == [(2, ("ann",)), (2, ("bob",))]
    with pytest.raises(RejectedUpdate, match="twice"):
        whole.receive_partial(as_update(values[0]))
    whole.receive_partial(as_update(values[1]))
    following = msgspec.structs.replace(PLAN, round=4)
    subject.begin(following, now=102.0)
    for device in ("ann", "bob"):
        subject.receive(update(device, round=4))
    assert told(subject.ready(now=103.0)) == [(2, ("ann", "bob"))]


def test_a_sum_goes_out_once_when_all_devices_of_the_site_have_delivered() -> None:
    subject = site("ann", "bob")
    subject.receive(update("ann"))
    assert subject.ready(now=101.0) == []
    subject.receive(update("bob"))
    assert told(subject.ready(now=101.0)) == [(2, ("ann", "bob"))]
    assert subject.ready(now=102.0) == []
    subject.receive(update("ann", layer=0))  # bob does not train it
    assert told(subject.ready(now=103.0)) == [(0, ("ann",))]
    assert not subject.waits


def test_a_lost_device_is_not_waited_for_and_still_counts_when_it_comes() -> None:
    subject = site("ann", "bob")
    subject.receive(update("ann"))
    subject.went("bob", at=104.0)
    assert subject.ready(now=103.0) == []
    assert subject.patience_ends(now=103.0) == 104.0
    assert told(subject.ready(now=104.0)) == [(2, ("ann",))]
    subject.came("bob")
    subject.receive(update("bob"))
    assert told(subject.ready(now=105.0)) == [(2, ("bob",))]


def test_what_is_there_goes_out_in_time_for_the_deadline() -> None:
    subject = site("ann", "bob")
    subject.receive(update("ann"))
    assert subject.patience_ends(now=101.0) == 108.0  # four fifths of 10 s
    assert subject.ready(now=107.9) == []
    assert told(subject.ready(now=108.0)) == [(2, ("ann",))]
    assert subject.patience_ends(now=108.0) == float("inf")
    subject.receive(update("bob"))
    assert told(subject.ready(now=109.0)) == [(2, ("bob",))]


def test_a_sum_of_too_many_devices_for_one_message_goes_out_as_two() -> None:
    subject = site("ann", "bob", "cid", most_devices=2)
    subject.receive(update("ann"))
    assert subject.ready(now=101.0) == []
    subject.receive(update("bob"))
    assert told(subject.ready(now=101.0)) == [(2, ("ann", "bob"))]
    subject.receive(update("cid"))
    assert told(subject.ready(now=101.0)) == [(2, ("cid",))]
    subject.begin(PLAN, now=102.0)
    assert told(subject.ready(now=102.0)) == [(2, ("ann", "bob")), (2, ("cid",))]


def test_a_plan_that_comes_again_sends_again_and_forgets_nothing() -> None:
    subject = site("ann")
    subject.receive(update("ann"))
    first = subject.ready(now=101.0)
    subject.begin(PLAN, now=102.0)
    assert subject.ready(now=102.0) == first
    with pytest.raises(RejectedUpdate, match="duplicate"):
        subject.receive(update("ann"))
    subject.begin(msgspec.structs.replace(PLAN, round=4), now=110.0)
    assert subject.ready(now=110.0) == []


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (update("ann", round=2), "round"),
        (update("ann", layer=1), "not_due"),
        (update("far"), "stranger"),
        (update("bob", layer=0), "stranger"),
        (update("ann", version=5), "stale"),
    ],
)
def test_updates_are_admitted_as_at_the_coordinator(wrong: Update, reason: str) -> None:
    subject = site("ann", "bob")
    with pytest.raises(RejectedUpdate) as refusal:
        subject.receive(wrong)
    assert refusal.value.reason == reason


def test_before_a_plan_nothing_is_taken() -> None:
    with pytest.raises(RejectedUpdate, match="before there was a plan"):
        Site().receive(update("ann"))
    assert Site().patience_ends(now=0.0) == float("inf")
    assert not Site().waits


def test_layers_of_others_are_left_alone() -> None:
    with pytest.raises(RejectedUpdate, match="not_due"):
        site("ann", layers=(0, 1)).receive(update("ann", layer=2))


def test_tasks_of_another_run_or_a_refusal_make_no_trainer() -> None:
    subject = site("ann", "bob")
    subject.task("ann", Task(epoch=6, accepted=True, reason=""))
    subject.task("bob", Task(epoch=7, accepted=False, reason="too small"))
    subject.begin(msgspec.structs.replace(PLAN, round=4), now=100.0)
    for device in ("ann", "bob"):
        with pytest.raises(RejectedUpdate, match="stranger"):
            subject.receive(update(device, round=4))


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_shares_tile_the_layers_evenly(count: int) -> None:
    spec = model([100, 7, 60, 40, 3, 50])
    shares = [share(spec, index, count) for index in range(count)]
    assert sorted(layer for each in shares for layer in each) == list(range(6))
    loads = [sum(spec.layers[layer].vector_size for layer in each) for each in shares]
    assert max(loads) <= max(100, -(-260 // count) + 60)


# -- at the coordinator ------------------------------------------------------------------------------------------------


def sums(*devices: str, delta: float = 1.0) -> PartialUpdate:
    subject = site(*devices)
    for device in devices:
        subject.receive(update(device, delta=delta))
    (value,) = subject.ready(now=101.0)
    return as_update(value)


def test_a_partial_counts_as_its_devices_updates() -> None:
    round_ = central()
    round_.receive_partial(sums("ann", "bob", delta=4.0))
    round_.receive(update("far", delta=-2.0))
    assert round_.ready(now=101.0) == ()
    round_.receive_partial(sums("cid", delta=2.0))
    assert round_.ready(now=101.0) == (2,)
    aggregate = round_.close(2, np.zeros(1, np.float32))
    assert aggregate is not None
    assert aggregate.value[0] == 2.0  # (4 + 4 - 2 + 2) / 4
    assert aggregate.devices == ("ann", "bob", "cid", "far")
    assert round_.updates == 4


def test_a_device_that_delivered_itself_is_not_counted_twice() -> None:
    round_ = central()
    round_.receive(update("ann", delta=8.0))
    with pytest.raises(RejectedUpdate, match="duplicate: ann"):
        round_.receive_partial(sums("ann", "bob"))
    round_.receive_partial(sums("bob", delta=2.0))
    with pytest.raises(RejectedUpdate, match="duplicate: bob"):
        round_.receive(update("bob"))
    with pytest.raises(RejectedUpdate, match="duplicate: bob"):
        round_.receive_partial(sums("bob"))
    assert (round_.updates, round_.rejected) == (2, 3)
    aggregate = round_.close(2, np.zeros(1, np.float32))
    assert aggregate is not None
    assert aggregate.value[0] == 5.0  # (8 + 2) / 2


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"epoch": 8}, "epoch"), ({"round": 2}, "round"), ({"layer": 1}, "not_due"), ({"version": 5}, "stale")],
)
def test_a_wrong_partial_is_refused_whole(changes: dict[str, int], reason: str) -> None:
    good = sums("ann", "bob")
    fields = {name: getattr(good, name) for name in ("site", "layer", "epoch", "round", "version", "partial")}
    round_ = central()
    with pytest.raises(RejectedUpdate) as refusal:
        round_.receive_partial(PartialUpdate(**{**fields, **changes}))
    assert refusal.value.reason == reason
    assert round_.updates == 0


def test_a_stranger_in_it_spoils_a_partial() -> None:
    round_ = central(cuts={"ann": 0, "cid": 2})
    with pytest.raises(RejectedUpdate, match="stranger: bob"):
        round_.receive_partial(sums("ann", "bob"))
    assert round_.updates == 0


def test_a_robust_rule_refuses_sums() -> None:
    from lamina.coordinator.folds.robust import median

    round_ = Round(PLAN, CUTS, lambda layer: median(1, 1), 100.0)
    with pytest.raises(RejectedUpdate, match="collects"):
        round_.receive_partial(sums("ann"))
    assert (round_.updates, round_.rejected) == (0, 1)


@given(st.lists(st.sampled_from(["ann", "bob", "cid", "wait", "lose ann", "find ann", "plan"]), max_size=12), st.data())
def test_whatever_happens_every_update_reaches_the_coordinator_once(events: list[str], data: st.DataObject) -> None:
    subject, now, delivered = site("ann", "bob", "cid"), 100.0, set[str]()
    round_, came = central(), set[str]()
    for event in [*events, "wait", "wait", "wait", "wait"]:
        match event:
            case "wait":
                now += 3.0
            case "lose ann":
                subject.went("ann", at=now + 1.0)
            case "find ann":
                subject.came("ann")
            case "plan":
                subject.begin(PLAN, now)
            case device if device not in delivered:
                subject.receive(update(device, delta=float(len(device))))
                delivered.add(device)
        for value in subject.ready(now):
            try:
                round_.receive_partial(as_update(value))
            except RejectedUpdate as refusal:
                assert refusal.reason == "duplicate"  # noqa: PT017 - only where a plan came again
                assert "plan" in events
            came |= set(as_update(value).partial.devices)
    assert came == delivered
    assert round_.updates == len(delivered)


def test_a_round_of_the_same_number_that_asks_for_something_else_is_begun_anew() -> None:
    subject = site("ann", "bob")
    subject.receive(update("ann"))
    subject.begin(msgspec.structs.replace(PLAN, cohort=("bob",), versions=(3, 5, 7)), now=102.0)
    with pytest.raises(RejectedUpdate, match="stale"):
        subject.receive(update("bob"))
    subject.receive(update("bob", version=7))
    assert told(subject.ready(now=103.0)) == [(2, ("bob",))]
