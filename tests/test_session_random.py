"""The device's state machine under any order of plans, values, lost links, restarts and coordinators that come and go.

A small world plays coordinator, broker and the service around the session. It knows the *content* of every version of
every layer, and of which rounds the device's local values consist; so it sees whether what the session does is right.
"""

from __future__ import annotations

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from lamina.broker.wire.messages import RoundPlan, Task
from lamina.edge_agent.session.events import (
    REPORT,
    Abandon,
    Command,
    Deliver,
    End,
    Event,
    Linked,
    Outcome,
    Passed,
    PlanCame,
    Prepare,
    Prepared,
    Progress,
    Published,
    Rest,
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
from lamina.edge_agent.session.session import Session
from tests.session_device import MANIFEST

LAYERS = range(3)
CYCLE = 3  # rounds
RARELY = st.sampled_from([False] * 7 + [True])
SOME_LAYERS = st.sets(st.sampled_from(LAYERS))
SOMETIMES = st.sampled_from([False, False, True])
OUTCOME = Outcome(steps=5, loss=0.5, accuracy=0.75, step_s=0.01, forward_s=0.0)

Content = tuple[int, int, int, int]  # epoch, layer, version, and a number that no other content has


class DeviceInItsWorld(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        # The coordinator.
        self.epoch, self.cut, self.numbers = 0, 0, 0
        self.plan: RoundPlan | None = None
        self.has_finished = False  # in one epoch at least
        self.contents: dict[tuple[int, int], Content] = {}  # of (layer, version)
        self.bases: dict[Content, Content] = {}  # what the delta to a content is based on
        self.advance: list[Content] = []  # that the broker keeps
        self.snapshots: list[tuple[RoundPlan, dict[tuple[int, int], Content]]] = []
        # The network.
        self.linked = False
        self.subscribed: set[tuple[int, int]] = set()  # layer, version
        self.advancing = False
        self.coming: list[Content] = []  # of advances, on their way to the device
        # The device.
        self.session = Session("me")
        self.preparing: Task | None = None
        self.held: dict[int, Content] = {}
        self.local: dict[int, tuple[Content, tuple[int, ...]]] = {}  # what a layer started from, rounds trained since
        self.training: Train | None = None
        self.told_to_leave_off = False
        self.delivering: Deliver | None = None
        self.unacknowledged: set[int] = set()
        self.trained: RoundPlan | None = None
        self.saved: tuple[Progress, dict[int, Content], dict[int, tuple[Content, tuple[int, ...]]]] | None = None
        self.ended = False

    # The coordinator's moves.

    @initialize()
    def begin(self) -> None:
        self.new_epoch()

    @rule(really=RARELY)
    def new_epoch(self, really: bool = True) -> None:
        if not really:
            return
        self.epoch += 1
        self.plan = None
        self.snapshots = []
        self.contents = {(layer, 0): self.new_content(layer, 0) for layer in LAYERS}
        self.advance = []
        self.send_task()

    @rule(cut=st.sampled_from([0, 1]), really=RARELY)
    def judge_the_device_again(self, cut: int, really: bool) -> None:
        if really:
            self.cut = cut
            self.send_task()

    @rule(moves=SOME_LAYERS, due=SOME_LAYERS, left_out=RARELY, late=RARELY, advance_first=RARELY)
    def next_round(self, moves: set[int], due: set[int], left_out: bool, late: bool, advance_first: bool) -> None:
        """At the end of a round some of its due layers got updates, and so a new version."""
        if not late:
            self.let_everything_arrive()
        last = self.plan
        if last is not None and last.state == "finished":
            return
        round_ = 0 if last is None else last.round + 1
        versions = [0, 0, 0] if last is None else list(last.versions)
        moved = moves & set(() if last is None else last.due)
        for layer in moved:
            base = self.contents[layer, versions[layer]]
            versions[layer] += 1
            self.contents[layer, versions[layer]] = self.new_content(layer, versions[layer])
            self.bases[self.contents[layer, versions[layer]]] = base
        new_cycle = round_ % CYCLE == 0
        everyone = ("you",) if left_out else ("me", "you")
        self.plan = RoundPlan(
            epoch=self.epoch,
            round=round_,
            cycle=round_ // CYCLE,
            cohort=everyone if new_cycle or last is None else last.cohort,
            local_steps=5,
            batch_size=4,
            due=tuple(LAYERS) if (round_ + 1) % CYCLE == 0 else tuple(sorted(due)),
            versions=tuple(versions),
            checks=tuple(self.contents[layer, version][3] for layer, version in enumerate(versions)),
            advanced=tuple(sorted(moved)) if moved or last is None else last.advanced,
        )
        if moved:
            self.advance = [self.contents[layer, versions[layer]] for layer in sorted(moved)]
        self.snapshots.append((self.plan, dict(self.contents)))
        if advance_first:  # one broker keeps the order of topics, several may not
            self.send_advance()
            self.let_the_advance_arrive()
            self.send_plan()
        else:
            self.send_plan()
            self.send_advance()

    @precondition(lambda self: self.plan is not None)
    @rule(after_restart=st.booleans())
    def repeat_the_plan(self, after_restart: bool) -> None:
        if after_restart and self.plan is not None:  # then it knows no advance
            self.plan = msgspec.structs.replace(self.plan, advanced=())
        self.send_plan()
        if not after_restart:
            self.send_advance()

    @precondition(lambda self: self.linked and len(self.snapshots) > 1)
    @rule(data=st.data())
    def resume_from_an_earlier_round(self, data: st.DataObject) -> None:
        """The coordinator lost its last rounds; what it computes from here on has other contents."""
        kept = data.draw(st.integers(1, len(self.snapshots) - 1))
        self.snapshots = self.snapshots[:kept]
        plan, contents = self.snapshots[-1]
        self.plan = msgspec.structs.replace(plan, advanced=())
        self.contents = dict(contents)
        self.send_plan()

    @precondition(lambda self: self.plan is not None and self.linked)
    @rule(really=RARELY)
    def finish(self, really: bool) -> None:
        assert self.plan is not None
        if not really:
            return
        self.has_finished = True
        self.plan = RoundPlan(state="finished", epoch=self.epoch, round=self.plan.round + 1)
        self.send_plan()

    # The network's moves.

    @precondition(lambda self: not self.linked)
    @rule(task_first=st.booleans())
    def link(self, task_first: bool) -> None:
        self.linked = True
        self.feed(Linked())
        for what in ("task", "plan") if task_first else ("plan", "task"):
            if what == "task":
                self.feed(TaskCame(self.task(), retained=True))
            elif self.plan is not None:
                self.feed(PlanCame(self.plan, retained=True))
        self.send_task()  # in answer to the profile

    @precondition(lambda self: self.linked)
    @rule(really=SOMETIMES)
    def drop_the_link(self, really: bool) -> None:
        if not really:
            return
        self.linked = False
        self.unsubscribe_all()
        self.preparing = None
        self.delivering = None
        self.feed(Unlinked())

    @precondition(lambda self: self.linked)
    @rule(layer=st.sampled_from(LAYERS), version=st.integers(0, 4), of_this_epoch=st.booleans())
    def any_value_arrives(self, layer: int, version: int, of_this_epoch: bool) -> None:
        if (layer, version) in self.contents:
            self.value_arrives(layer, version, self.epoch if of_this_epoch else self.epoch - 1)

    @precondition(lambda self: self.linked and self.subscribed)
    @rule(data=st.data())
    def a_value_arrives(self, data: st.DataObject) -> None:
        layer, version = data.draw(st.sampled_from(sorted(self.subscribed)))
        if (layer, version) in self.contents:
            self.value_arrives(layer, version, self.epoch)

    @precondition(lambda self: self.coming)
    @rule()
    def some_of_the_advance_arrives(self) -> None:
        content = self.coming.pop(0)
        epoch, layer, version, _ = content
        if not self.session.wants(epoch, layer, version, delta=True):
            self.feed(Passed(epoch, layer, version))
        elif self.held[layer] == self.bases[content] and self.session.check(layer) == content[3]:
            self.take(content)
        else:
            self.feed(Strayed(epoch, layer, version))

    @precondition(lambda self: self.delivering is not None)
    @rule(data=st.data())
    def the_broker_acknowledges(self, data: st.DataObject) -> None:
        self.acknowledge(data.draw(st.sampled_from(sorted(self.unacknowledged))))

    # The device's moves.

    @precondition(lambda self: self.preparing is not None)
    @rule()
    def the_bundle_is_there(self) -> None:
        task, self.preparing = self.preparing, None
        assert task is not None
        self.held, self.local, self.trained = {}, {}, None
        progress = None
        if self.saved is not None and self.saved[0].serves(task):
            progress, held, local = self.saved
            self.held, self.local, self.trained = dict(held), dict(local), progress.plan
        self.feed(Prepared(task, MANIFEST, progress))

    @precondition(lambda self: self.training is not None)
    @rule(in_time=st.booleans())
    def training_ends(self, in_time: bool) -> None:
        assert self.training is not None
        plan, completed = self.training.plan, in_time or not self.told_to_leave_off
        self.training = None
        for layer, (start, rounds) in self.local.items():
            self.local[layer] = (start, (*rounds, plan.round if completed else -1))
        self.trained = plan if completed else None
        self.feed(Trained(OUTCOME if completed else None))

    @rule(with_state=st.booleans(), really=RARELY)
    def restart(self, with_state: bool, really: bool) -> None:
        if not really:
            return
        self.session = Session("me")
        self.linked, self.ended = False, False
        self.unsubscribe_all()
        self.preparing = self.training = self.delivering = self.trained = None
        if not with_state:
            self.saved = None

    # What must always hold.

    @invariant()
    def one_thing_at_a_time(self) -> None:
        doing = [self.preparing, self.training, self.delivering]
        assert sum(what is not None for what in doing) <= 1
        assert self.linked or not (self.subscribed or self.advancing)

    def teardown(self) -> None:
        """Once everything arrives that is on its way, the device has done all it was asked to."""
        self.let_everything_arrive()
        if self.ended:
            return
        assert self.session.state == "idle"
        assert not self.subscribed
        assert not self.advancing or (self.plan is not None and "me" in self.plan.cohort)
        if self.plan is not None and self.plan.state == "training" and "me" in self.plan.cohort:
            assert self.trained is not None
            assert self.trained.round == self.plan.round
            assert not self.unacknowledged

    def let_everything_arrive(self) -> None:
        if not self.linked:
            self.link(task_first=True)
        for _ in range(40):
            if self.preparing is not None:
                self.the_bundle_is_there()
            elif self.training is not None:
                self.training_ends(in_time=False)
            elif self.delivering is not None:
                self.acknowledge(min(self.unacknowledged))
            elif self.coming:
                self.some_of_the_advance_arrives()
            elif awaited := [value for value in self.subscribed if self.session.wants(self.epoch, *value)]:
                self.value_arrives(*min(awaited), self.epoch)

    def let_the_advance_arrive(self) -> None:
        while self.coming:
            self.some_of_the_advance_arrives()

    # The service around the session.

    def feed(self, event: Event) -> None:
        for command in self.session.receive(event):
            self.do(command)

    def do(self, command: Command) -> None:
        match command:
            case Prepare(task):
                assert self.linked
                self.preparing = task  # on a new link perhaps a task that is about to be replaced
            case Subscribe(values, advance):
                assert self.linked
                assert not self.subscribed & set(values)
                assert self.plan is not None
                self.subscribed |= set(values)
                if advance:
                    assert self.plan.advanced
                    self.advancing = True
                    self.coming += self.advance
            case Unsubscribe(values, advance):
                assert set(values) <= self.subscribed
                self.subscribed -= set(values)
                if advance:
                    assert self.advancing
                    self.advancing = False
                    self.coming.clear()
            case Train():
                self.start_training(command)
            case Abandon():
                assert self.training is not None
                assert not self.told_to_leave_off
                self.told_to_leave_off = True
            case Deliver():
                self.start_delivering(command)
            case Withdraw():
                assert self.delivering is not None
                self.delivering = None
            case Rest():
                assert self.has_finished
            case End():
                assert self.has_finished
                assert self.training is None
                self.ended = True
            case _:
                raise AssertionError(f"nobody asked for {command}")

    def start_training(self, command: Train) -> None:
        plan = command.plan
        assert self.training is None
        assert plan.epoch == self.epoch or not self.linked
        assert "me" in plan.cohort
        for layer in LAYERS:  # the values are those of the plan, in content and not in number alone
            assert self.held[layer][2:] == (plan.versions[layer], plan.checks[layer])
        if command.afresh:
            assert command.reset == tuple(LAYERS)
        else:
            assert self.trained is not None
            assert (self.trained.cycle, self.trained.round + 1) == (plan.cycle, plan.round)
            moved = [layer for layer in LAYERS if self.local[layer][0] != self.held[layer]]
            assert command.reset == tuple(moved)
        for layer in command.reset:
            self.local[layer] = (self.held[layer], ())
        for _, rounds in self.local.values():  # no round was missed, abandoned, or of another cycle
            assert rounds == tuple(range(plan.round - len(rounds), plan.round))
            assert len(rounds) <= plan.round % CYCLE
        self.training, self.told_to_leave_off, self.trained = command, False, None

    def start_delivering(self, command: Deliver) -> None:
        assert self.linked
        assert self.trained is not None
        assert (command.plan.epoch, command.plan.round) == (self.trained.epoch, self.trained.round)
        assert set(command.layers) <= {layer for layer in command.plan.due if layer >= self.cut}
        for layer in command.layers:  # an update is measured against what its version says
            assert self.local[layer][1]
            assert self.held[layer][2] == command.plan.versions[layer]
        self.delivering = command
        if (progress := self.session.progress) is not None:  # saved before the report goes out
            assert progress.plan == self.trained
            assert progress.versions == tuple(self.held[layer][2] for layer in LAYERS)
            self.saved = (progress, dict(self.held), dict(self.local))
        self.unacknowledged = {*command.layers, *([REPORT] if command.outcome else [])}

    def acknowledge(self, layer: int) -> None:
        assert self.delivering is not None
        plan = self.delivering.plan
        self.unacknowledged.discard(layer)
        if not self.unacknowledged:
            self.delivering = None
        self.feed(Published(plan.epoch, plan.round, (layer,)))

    def value_arrives(self, layer: int, version: int, epoch: int) -> None:
        if self.session.wants(epoch, layer, version):
            assert self.session.check(layer) == self.contents[layer, version][3]
            self.take(self.contents[layer, version])

    def take(self, content: Content) -> None:
        assert self.training is None
        epoch, layer, version, _ = content
        self.held[layer] = content
        self.feed(Taken(epoch, ((layer, version),)))

    def unsubscribe_all(self) -> None:
        self.subscribed.clear()
        self.advancing = False
        self.coming.clear()

    def send_advance(self) -> None:
        if self.advancing:
            self.coming += self.advance

    def send_plan(self) -> None:
        if self.linked and self.plan is not None:
            self.feed(PlanCame(self.plan))

    def send_task(self) -> None:
        if self.linked:
            self.feed(TaskCame(self.task()))

    def task(self) -> Task:
        return Task(epoch=self.epoch, accepted=True, reason="fits", cut=self.cut, manifest="aa")

    def new_content(self, layer: int, version: int) -> Content:
        self.numbers += 1
        return self.epoch, layer, version, self.numbers


DeviceInItsWorld.TestCase.settings = settings(
    max_examples=3 * settings.default.max_examples, stateful_step_count=40, deadline=None
)
TestDeviceInItsWorld = DeviceInItsWorld.TestCase
