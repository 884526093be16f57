"""The round machine: every verdict once, and random orders of everything against a slow twin."""

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.broker.wire.messages import Report, RoundPlan
from lamina.coordinator.folds.aggregate import LayerFold
from lamina.coordinator.rounds.round import Round, Update
from lamina.models.errors import RejectedUpdate

# Three layers of one parameter each; "tiny" trains the last one only.
CUTS = {"big": 0, "mid": 1, "tiny": 2}
PLAN = RoundPlan(epoch=7, round=3, cohort=("big", "mid", "tiny"), due=(0, 2), versions=(4, 5, 6), deadline_s=10.0)

REPORT = Report(epoch=7, round=3, steps=5, loss=1.0, accuracy=0.5, step_s=0.1)


def new_round(plan: RoundPlan = PLAN, now: float = 100.0) -> Round:
    return Round(plan, CUTS, lambda layer: LayerFold(1, 1), now)


def update(device: str = "big", layer: int = 2, delta: float = 1.0, **changes: int) -> Update:
    fields = {"epoch": 7, "round": 3, "version": PLAN.versions[layer], **changes}
    return Update(device, layer, weight=1.0, delta=np.array([delta], np.float32), **fields)


def base(value: float = 0.0) -> np.ndarray:
    return np.array([value], np.float32)


def test_t_l_are_the_devices_whose_cut_lies_at_or_before_the_layer() -> None:
    assert new_round().expected == {0: {"big"}, 2: {"big", "mid", "tiny"}}


def test_a_layer_is_ready_when_all_of_t_l_delivered() -> None:
    round_ = new_round()
    for device in ("tiny", "big"):
        round_.receive(update(device))
    assert round_.ready(now=101.0) == ()
    round_.receive(update("mid"))
    assert round_.ready(now=101.0) == (2,)


def test_closing_averages_over_t_l() -> None:
    round_ = new_round()
    for device, delta in (("big", 1.0), ("mid", 2.0), ("tiny", 6.0)):
        round_.receive(update(device, delta=delta))
    aggregate = round_.close(2, base(10.0))
    assert aggregate is not None
    assert aggregate.value[0] == 13.0  # 10 + (1 + 2 + 6) / 3


def test_the_round_is_done_when_layers_are_closed_and_steps_are_made() -> None:
    round_ = new_round()
    for device in CUTS:
        round_.receive(update(device))
    round_.close(2, base())
    for device in CUTS:
        round_.report(device, REPORT)
    assert not round_.done(now=101.0)  # layer 0 is open
    round_.receive(update("big", layer=0))
    round_.close(0, base())
    assert round_.done(now=101.0)


def test_a_round_without_due_layers_still_waits_for_everyones_steps() -> None:
    round_ = new_round(msgspec.structs.replace(PLAN, due=()))
    assert not round_.done(now=101.0)
    round_.report("big", REPORT)
    round_.report("mid", msgspec.structs.replace(REPORT, round=2))  # of the round before
    round_.report("ghost", REPORT)
    round_.lose("tiny", at=100.0)
    assert not round_.done(now=101.0)
    round_.report("mid", REPORT)
    assert round_.done(now=101.0)
    assert round_.delivered_everything() == ("big", "mid")


def test_a_device_that_diverged_is_not_waited_for() -> None:
    round_ = new_round()
    for device in ("big", "mid"):
        round_.receive(update(device))
    round_.report("tiny", msgspec.structs.replace(REPORT, loss=float("nan")))
    assert round_.ready(now=101.0) == (2,)


def test_where_all_diverged_nothing_is_waited_for() -> None:
    round_ = new_round()
    for device in CUTS:
        round_.report(device, msgspec.structs.replace(REPORT, loss=float("nan")))
    assert round_.ready(now=101.0) == (0, 2)
    for layer in (0, 2):
        assert round_.close(layer, base()) is None
    assert round_.done(now=101.0)
    assert (round_.empty, round_.diverged) == (True, ("big", "mid", "tiny"))


def test_without_any_report_the_round_waits_for_its_deadline() -> None:
    round_ = new_round(msgspec.structs.replace(PLAN, due=()))
    for device in CUTS:
        round_.lose(device, at=100.0)
    assert not round_.done(now=109.9)
    assert round_.done(now=110.0)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (update(epoch=8), "epoch"),
        (update(round=2), "round"),
        (update(layer=1), "not_due"),
        (update("ghost"), "stranger"),
        (update("tiny", layer=0), "stranger"),
        (update(version=5), "stale"),
        (update(delta=float("nan")), "not_finite"),
        (update(delta=1e30), "out_of_bounds"),
    ],
)
def test_a_wrong_update_is_refused_and_changes_nothing(wrong: Update, reason: str) -> None:
    round_ = new_round()
    with pytest.raises(RejectedUpdate) as refused:
        round_.receive(wrong)
    assert refused.value.reason == reason
    assert (round_.updates, round_.rejected) == (0, 1)
    round_.receive(update(wrong.device if wrong.device in CUTS else "big"))  # the right one still counts
    assert round_.updates == 1


def test_qos1_duplicate_counts_once() -> None:
    round_ = new_round()
    round_.receive(update("big", delta=2.0))
    with pytest.raises(RejectedUpdate, match="duplicate"):
        round_.receive(update("big", delta=2.0))
    for device in ("mid", "tiny"):
        round_.receive(update(device, delta=2.0))
    aggregate = round_.close(2, base())
    assert aggregate is not None
    assert aggregate.value[0] == 2.0


def test_an_update_after_the_layer_closed_is_refused() -> None:
    round_ = new_round()
    round_.receive(update("big"))
    round_.lose("mid", at=100.0)
    round_.lose("tiny", at=100.0)
    assert round_.ready(now=101.0) == (2,)
    round_.close(2, base())
    with pytest.raises(RejectedUpdate, match="closed"):
        round_.receive(update("mid"))


def test_a_lost_device_is_not_waited_for_but_counts_when_it_delivers() -> None:
    round_ = new_round()
    round_.lose("mid", at=100.0)
    round_.receive(update("mid", delta=3.0))
    round_.receive(update("big", delta=3.0))
    assert round_.ready(now=101.0) == ()  # tiny still owes
    round_.lose("tiny", at=100.0)
    assert round_.ready(now=101.0) == (2,)


def test_a_lost_device_is_waited_for_a_little_longer() -> None:
    round_ = new_round()
    for device in ("big", "mid"):
        round_.receive(update(device))
    round_.lose("tiny", at=105.0)
    assert round_.patience_ends(now=101.0) == 105.0
    assert round_.ready(now=104.9) == ()
    assert round_.ready(now=105.0) == (2,)
    assert round_.patience_ends(now=105.0) == 110.0  # the deadline


def test_a_device_that_comes_back_is_waited_for_again() -> None:
    round_ = new_round()
    round_.lose("mid", at=100.0)
    round_.regain("mid")
    round_.receive(update("big"))
    round_.receive(update("tiny"))
    assert round_.ready(now=101.0) == ()


def test_when_all_are_lost_the_round_waits_for_its_deadline() -> None:
    round_ = new_round()
    for device in CUTS:
        round_.lose(device, at=100.0)
    assert round_.ready(now=109.9) == ()
    assert round_.ready(now=110.0) == (0, 2)
    assert round_.close(0, base()) is None


def test_at_the_deadline_what_has_come_is_taken() -> None:
    round_ = new_round()
    round_.receive(update("big", delta=4.0))
    assert round_.ready(now=110.0) == (0, 2)
    aggregate = round_.close(2, base(1.0))
    assert aggregate is not None
    assert aggregate.value[0] == 5.0
    assert round_.aggregated == (2,)
    assert round_.delivered_everything() == ()
    assert round_.late() == ("big", "mid", "tiny")  # big owes layer 0


def test_a_device_whose_numbers_are_refused_is_not_waited_for() -> None:
    round_ = new_round()
    for device in ("big", "mid"):
        round_.receive(update(device))
    with pytest.raises(RejectedUpdate, match="not_finite"):
        round_.receive(update("tiny", delta=float("nan")))
    assert round_.ready(now=100.0) == (2,)
    assert (round_.refused(), round_.late()) == (("tiny",), ("big", "mid", "tiny"))  # without a report
    round_.receive(update("tiny"))  # it may do better
    assert round_.refused() == ()


def test_where_all_numbers_are_refused_the_deadline_is_waited_for_and_the_round_is_empty() -> None:
    round_ = new_round()
    for device in CUTS:
        with pytest.raises(RejectedUpdate, match="not_finite"):
            round_.receive(update(device, delta=float("nan")))
    assert round_.ready(now=101.0) == ()
    assert round_.ready(now=110.0) == (0, 2)
    assert round_.empty


def test_a_layer_that_nobody_trains_is_ready_at_once() -> None:
    round_ = Round(PLAN, {"tiny": 2}, lambda layer: LayerFold(1, 1), now=0.0)
    assert round_.ready(now=0.0) == (0,)
    assert round_.close(0, base()) is None


EVENTS = st.lists(
    st.tuples(st.sampled_from(["send", "lose", "regain"]), st.sampled_from(sorted(CUTS)), st.sampled_from([0, 1, 2])),
    max_size=40,
)


@given(EVENTS, st.booleans())
def test_readiness_equals_the_rule_recomputed_from_the_whole_history(events: list, late: bool) -> None:
    round_, delivered, lost = new_round(), set(), set()
    for what, device, layer in events:
        if what == "send":
            try:
                round_.receive(update(device, layer))
                delivered.add((device, layer))
            except RejectedUpdate:
                assert layer == 1 or CUTS[device] > layer or (device, layer) in delivered
        else:
            round_.lose(device, at=109.0) if what == "lose" else round_.regain(device)
            (lost.add if what == "lose" else lost.discard)(device)
    expected = []
    for layer in (0, 2):
        owed = [name for name, cut in CUTS.items() if cut <= layer]
        came = [name for name in owed if (name, layer) in delivered]
        if late or (came and all(name in came or name in lost for name in owed)):
            expected.append(layer)
    assert round_.ready(now=110.0 if late else 109.0) == tuple(expected)
    assert round_.updates == len(delivered)


def test_what_was_due_and_not_folded_is_known_by_device() -> None:
    round_ = new_round()
    assert round_.unfolded() == {"big": (0, 2), "mid": (2,), "tiny": (2,)}
    round_.receive(update("mid"))
    round_.receive(update("big"))
    assert round_.unfolded() == {"big": (0,), "tiny": (2,)}
