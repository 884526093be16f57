"""Canaries first, then the rest, and back: the decisions of coordinator and device, alone and together."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from lamina.broker.wire.deployments import Deployed, Deployment, Offer
from lamina.coordinator.deployment.rollout import (
    MOST_PAST,
    DeploymentState,
    RolloutRules,
    advanced,
    begun,
    chosen_canaries,
    heard,
    order,
    undone,
)
from lamina.coordinator.deployment.telling import told
from lamina.edge_agent.session.deployment import Answer, Fetch, PutAway, ShelfState, is_worse, step_of, verdict_on
from lamina.models.errors import ConfigError

RULES = RolloutRules(margin=0.02, most_refusals=0.34, wait_s=60.0)
HERE = ("a", "b", "c", "d")


def offer(number: int) -> Offer:
    digest = f"{number:064x}"
    return Offer(
        number=number, model=digest, model_bytes=5, card=digest, card_bytes=1, bundle=digest, round=10 * number
    )


def answered(number: int, *, refused: bool = False) -> Deployed:
    return Deployed(number=number, verdict="refused" if refused else "taken", active=number, reason="why")


def started(canaries: tuple[str, ...] = ("a", "b"), state: DeploymentState | None = None) -> DeploymentState:
    state = state or DeploymentState()
    return begun(state, offer(state.last_number + 1), RULES, canaries, HERE, 0.0)


def all_taken(state: DeploymentState) -> DeploymentState:
    """The state once everybody has taken what is offered, at every stage."""
    while state.under_way is not None:
        for device in state.under_way.awaited:
            state = heard(state, device, answered(state.under_way.offer.number))
        state = advanced(state, HERE, 1.0)
    return state


def test_only_canaries_are_told_at_first() -> None:
    said = order(started())
    assert said.offer_to("a") == offer(1)
    assert said.offer_to("c") is None


def test_everyone_is_told_once_all_canaries_have_taken_it() -> None:
    state = heard(started(), "a", answered(1))
    assert advanced(state, HERE, 1.0) == state
    state = advanced(heard(state, "b", answered(1)), HERE, 1.0)
    assert order(state).offer_to("c") == offer(1)
    assert state.under_way is not None
    assert state.under_way.silent == ("c", "d")  # the canaries' answers count on


def test_one_of_two_canaries_that_refuses_is_too_many() -> None:
    state = advanced(heard(started(), "a", answered(1, refused=True)), HERE, 1.0)
    assert state.rollout is not None
    assert state.rollout.stage == "back"
    assert "a: why" in state.rollout.reason
    assert order(state) == Deployment(everyone=True)


def test_one_of_three_canaries_may_refuse() -> None:
    state = started(("a", "b", "c"))
    for name in ("a", "b", "c"):
        state = heard(state, name, answered(1, refused=name == "a"))
    state = advanced(state, HERE, 1.0)
    assert state.rollout is not None
    assert state.rollout.stage == "everyone"


def test_a_canary_that_stays_silent_counts_as_a_refusal() -> None:
    state = heard(started(), "a", answered(1))
    assert advanced(state, HERE, 59.0) == state
    late = advanced(state, HERE, 60.0)
    assert late.rollout is not None
    assert late.rollout.stage == "back"
    assert "b did not answer" in late.rollout.reason


def test_a_device_that_stays_silent_later_is_not_waited_for_for_ever() -> None:
    state = advanced(heard(heard(started(), "a", answered(1)), "b", answered(1)), HERE, 1.0)
    assert advanced(state, HERE, 60.9) == state
    done = advanced(state, HERE, 61.0)
    assert done.in_force == offer(1)
    assert done.rollout is not None
    assert "2 have not answered yet" in done.rollout.reason


def test_too_many_refusals_of_all_take_it_back() -> None:
    state = all_taken(started())
    state = advanced(heard(heard(started(state=state), "a", answered(2)), "b", answered(2)), HERE, 1.0)
    state = advanced(heard(state, "c", answered(2, refused=True)), HERE, 1.0)
    assert state.under_way is not None  # one of four may
    state = advanced(heard(state, "d", answered(2, refused=True)), HERE, 1.0)
    assert state.under_way is None
    assert order(state) == Deployment(offer=offer(1), everyone=True)


def test_what_is_about_another_deployment_or_by_no_canary_changes_nothing() -> None:
    state = started()
    assert heard(state, "a", answered(7)) == state
    assert heard(state, "c", answered(1)) == state
    assert heard(DeploymentState(), "a", answered(1)) == DeploymentState()


def test_without_canaries_everyone_is_told_at_once() -> None:
    assert order(started(())).everyone


def test_one_rollout_at_a_time() -> None:
    with pytest.raises(ConfigError, match="deployment 1 is not over"):
        started(state=started())


def test_undo_goes_back_step_by_step_and_then_to_none() -> None:
    state = DeploymentState()
    for _ in range(3):
        state = all_taken(started(state=state))
    numbers = []
    for _ in range(3):
        state = undone(state, 5.0)
        numbers.append(state.in_force.number if state.in_force else 0)
    assert numbers == [2, 1, 0]
    with pytest.raises(ConfigError, match="nothing can be undone"):
        undone(state, 5.0)
    assert started(state=state).under_way.offer.number == 4  # a number is given once


def test_undo_calls_back_a_rollout_that_goes_on() -> None:
    state = undone(started(state=all_taken(started())), 5.0)
    assert state.in_force == offer(1)
    assert order(state).offer_to("a") == offer(1)


def test_models_that_may_be_needed_are_kept_and_no_more() -> None:
    state = DeploymentState()
    for _ in range(9):
        state = all_taken(started(state=state))
    assert [one.number for one in started(state=state).kept] == [*range(9 - MOST_PAST, 10), 10]


def test_canaries_are_those_with_the_most_samples() -> None:
    assert chosen_canaries(2, {"a": 5, "b": 9, "c": 9, "d": 1}) == ("b", "c")
    assert chosen_canaries(0, {}) == ()
    with pytest.raises(ConfigError, match="no device is there"):
        chosen_canaries(1, {})


def test_a_person_is_told() -> None:
    text = "\n".join(told(advanced(heard(started(), "a", answered(1, refused=True)), HERE, 1.0)))
    assert "in force: no model" in text
    assert "deployment 1 is taken back" in text
    assert told(DeploymentState()) == ["no model was ever deployed: lamina deploy federation.toml"]


# -- the device ---------------------------------------------------------------------------------------------------


def test_the_first_model_is_judged_and_a_later_one_against_it() -> None:
    to_all = Deployment(offer=offer(1), everyone=True)
    assert step_of(to_all, "a", ShelfState()) == Fetch(offer(1), judge=True)
    assert step_of(to_all, "a", ShelfState(active=offer(1))) == Answer(answered(1, refused=False).__class__(
        number=1, verdict="taken", active=1
    ))  # fmt: skip
    assert step_of(to_all, "a", ShelfState(active=offer(2))) == Fetch(offer(1), judge=False)
    assert step_of(Deployment(everyone=True), "a", ShelfState(active=offer(2))) == PutAway()


def test_what_was_refused_is_refused_again_without_another_judgement() -> None:
    shelf = ShelfState(active=offer(1)).refusing(answered(2, refused=True))
    step = step_of(Deployment(offer=offer(2), everyone=True), "a", shelf)
    assert isinstance(step, Answer)
    assert (step.answer.verdict, step.answer.active) == ("refused", 1)


def test_refusals_are_remembered_within_bounds() -> None:
    shelf = ShelfState()
    for number in range(100):
        shelf = shelf.refusing(answered(number, refused=True))
    assert len(shelf.refused) == 8


@pytest.mark.parametrize(
    ("score", "before", "lower", "worse"),
    [
        (0.90, 0.90, False, False),
        (0.89, 0.90, False, False),
        (0.87, 0.90, False, True),
        (10.1, 10.0, True, False),
        (10.3, 10.0, True, True),
        (-1.0, -1.01, True, False),
        (float("nan"), 0.1, False, True),
        (0.1, float("nan"), False, False),
        (float("inf"), float("nan"), True, True),
    ],
)
def test_worse_is_worse_by_more_than_the_margin(score: float, before: float, lower: bool, worse: bool) -> None:
    assert is_worse(score, before, 0.02, lower_is_better=lower) == worse


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.booleans())
def test_a_model_that_is_no_worse_is_never_refused(score: float, before: float, margin: float, lower: bool) -> None:
    better = score <= before if lower else score >= before
    assert not (better and is_worse(score, before, margin, lower_is_better=lower))


def verdict(score: float, before: float | None, *, judge: bool = True) -> Deployed:
    return verdict_on(
        offer(2), ShelfState(active=offer(1)), metric="accuracy", score=score, before=before, samples=9, margin=0.02,
        lower_is_better=False, judge=judge,
    )  # fmt: skip


def test_a_verdict_says_why() -> None:
    taken, refused = verdict(0.9, 0.91), verdict(0.5, 0.91)
    assert (taken.verdict, taken.active) == ("taken", 2)
    assert (refused.verdict, refused.active) == ("refused", 1)
    assert refused.reason == "accuracy 0.5, before 0.91: worse by more than 0.02, on 9 samples"
    assert verdict(0.5, 0.91, judge=False).verdict == "taken"  # the operator's way back
    assert verdict(float("nan"), None, judge=False).verdict == "refused"


# -- both together ------------------------------------------------------------------------------------------------


class Fleet(RuleBasedStateMachine):
    """A coordinator and four devices, whose messages and minds come in any order; both forget all but their disks."""

    def __init__(self) -> None:
        super().__init__()
        self.state = DeploymentState()
        self.shelves = {name: ShelfState() for name in HERE}
        self.now = 0.0
        self.said: list[Deployment] = [order(self.state)]
        self.offered: dict[str, set[int]] = {name: set() for name in HERE}
        self.ever: set[int] = set()

    def keep(self, state: DeploymentState) -> None:
        self.state = msgspec.json.decode(msgspec.json.encode(state), type=DeploymentState)  # as the disk has it
        self.said.append(order(self.state))

    @precondition(lambda self: self.state.under_way is None)
    @rule(canaries=st.sets(st.sampled_from(HERE), max_size=3))
    def deploy(self, canaries: set[str]) -> None:
        number = self.state.last_number + 1
        assert number not in self.ever
        self.ever.add(number)
        self.keep(begun(self.state, offer(number), RULES, tuple(canaries), HERE, self.now))

    @rule(device=st.sampled_from(HERE), likes=st.booleans())
    def device_follows(self, device: str, likes: bool) -> None:
        said, shelf = self.said[-1], self.shelves[device]
        match step_of(said, device, shelf):
            case Answer(answer):
                pass
            case PutAway():
                answer = Deployed(number=0, verdict="taken")
                shelf = shelf.taking(None, answer)
            case Fetch(offered, judge):
                assert offered == said.offer_to(device)
                if not said.everyone:
                    assert device in said.canaries or offered == said.base
                score = 0.9 if likes else 0.1
                before = 0.9 if shelf.active else None
                answer = verdict_on(
                    offered, shelf, metric="accuracy", score=score, before=before, samples=1, margin=0.02,
                    lower_is_better=False, judge=judge,
                )  # fmt: skip
                shelf = shelf.taking(offered, answer) if answer.verdict == "taken" else shelf.refusing(answer)
        self.shelves[device] = msgspec.json.decode(msgspec.json.encode(shelf), type=ShelfState)
        assert answer.active == shelf.number
        self.keep(heard(self.state, device, answer))

    @rule(seconds=st.sampled_from((0.0, 1.0, 61.0)))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.keep(advanced(self.state, HERE, self.now))

    @precondition(lambda self: self.state.in_force is not None or self.state.under_way is not None)
    @rule()
    def undo(self) -> None:
        before = self.state
        self.keep(undone(self.state, self.now))
        assert self.state.under_way is None
        if before.under_way is None:
            assert self.state.in_force != before.in_force
        else:
            assert self.state.in_force == before.in_force

    @invariant()
    def the_model_in_force_went_through_a_rollout(self) -> None:
        assert self.state.in_force is None or self.state.in_force.number in self.ever
        assert len(self.state.past) <= MOST_PAST

    @invariant()
    def whatever_is_said_has_its_files_kept(self) -> None:
        said = order(self.state)
        for one in (said.offer, said.base):
            assert one is None or one in self.state.kept

    @invariant()
    def a_device_never_predicts_with_what_was_never_offered(self) -> None:
        assert all(shelf.number in {0, *self.ever} for shelf in self.shelves.values())

    def teardown(self) -> None:
        """Once it is quiet, each device has the model in force, or has refused it and an older or no model."""
        if self.state.under_way is not None:
            self.keep(undone(self.state, self.now))
        for device in HERE:
            self.device_follows(device, likes=True)
        force = self.state.in_force
        for shelf in self.shelves.values():
            if force is None:
                assert shelf.active is None
            else:
                refused = {one.number for one in shelf.refused}
                assert shelf.active == force or (force.number in refused)


Fleet.TestCase.settings = settings(max_examples=60, deadline=None)
TestFleet = Fleet.TestCase
