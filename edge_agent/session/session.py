"""What a device does next, as a pure machine: what happened goes in, what to do comes out; no I/O and no clock.

    waiting     no task yet                                 ──(a task accepts the device)──► preparing
    preparing   the bundle is fetched, the trainer built    ──(Prepared)───────────────────► idle
    idle        nothing to do                               ──(a plan has the device)──────► gathering
    gathering   global values are missing                   ──(the last one is taken)──────► training
    training    the local steps run                         ──(Trained)────────────────────► delivering
    delivering  updates and report go out, or wait to       ──(the last one Published)─────► idle
    ended       the federation is finished and the session was for once, or the device is refused

The rules, which hold in every state and for every order of events:

1.  The last task and the last plan heard count, and no others. A plan means something under a task of its epoch only.
    What the broker kept may be from before it was killed (`session.kept_plans`): another task than the present one, or
    a plan from before the one that is followed, counts only when the coordinator says so itself.
2.  A task that differs in epoch, bundle, cut or share of samples that are kept begins everything anew.
3.  Nothing changes under a running training. A newer plan or task makes it leave off, and is looked at when it has.
4.  The device is *in step* when it has done the whole round before the planned one, in the same cycle, and no layer
    has moved by more than one version since. Then it takes the layers that moved, and keeps its drifted values of the
    others and its momentum. Otherwise - the first round of a cycle, a missed or abandoned round, a start without saved
    state - it begins *afresh*: every layer from its global value, without momentum.
5.  Training begins when the device holds the global value of every layer at the plan's version. What it holds already
    is not fetched again, unless a version has gone back or means another value: its check says so.
6.  What the plan's advance leads to from a version that is held comes by the advance. All other values are subscribed
    to, and asked for, by layer and version, when a plan asks for them, and no longer than until the last one of them is
    here; so each crosses the network once. What the plan doesn't ask for is not taken. Where a delta turns out to be
    made for another value than the one that is held, that one counts no longer, and the value is fetched. The advance
    stays subscribed to as long as the device is of the cohort, so that the next one comes with its plan. One that
    passed while it could not be taken, because a round was still training or the plan had not been heard, is
    subscribed to anew: the broker has kept it.
7.  Updates belong to the plan whose steps are done, and are void once there is another plan. They go out when that
    plan has been heard on the present link, and all go out again when it is heard on another link, or when the
    coordinator itself repeats it: what the broker acknowledged may have died with it, or before the coordinator heard.
    In the same way values that are still missing are asked for again. A broker may drop what it has acknowledged: the
    coordinator then asks for what it lacks (`Task.owed`), and the device for values that don't come (`Overdue`).
8.  A round whose loss is not finite has no updates: the device reports it, and begins the next one afresh.
9.  A refusal counts only when the coordinator says it now: one that the broker kept may be older than the profile. In
    the same way, a finished plan that the broker kept says nothing of an epoch that this agent has not seen alive: that
    training is over, or is about to be given more rounds.
10. Once the federation is finished, a session that takes part once ends. Others, and a device put aside, wait.
"""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from lamina.broker.wire.bounds import DIGEST_BYTES
from lamina.broker.wire.messages import RoundPlan, Task
from lamina.edge_agent.session.events import (
    REPORT,
    Abandon,
    Command,
    Complain,
    Deliver,
    End,
    Event,
    Insist,
    Linked,
    Outcome,
    Overdue,
    Passed,
    PlanCame,
    Prepare,
    Prepared,
    Progress,
    Published,
    Refuse,
    Rest,
    SayPresent,
    Strayed,
    Subscribe,
    Taken,
    TaskCame,
    Train,
    Trained,
    Unlinked,
    Withdraw,
)
from lamina.edge_agent.session.followable import fault_of, follows, work_of
from lamina.edge_agent.session.kept_plans import goes_back, is_from_before
from lamina.edge_agent.session.outbox import Outbox
from lamina.edge_agent.session.subscriptions import Subscriptions, Value
from lamina.models.errors import brief
from lamina.models.manifest import Manifest

State = Literal["waiting", "preparing", "idle", "gathering", "training", "delivering", "ended"]


class Session:
    """One device's part in a federation.

    Args:
        device: its name.
        once: whether it ends with the training, rather than wait for the next.
    """

    def __init__(self, device: str, *, once: bool = True) -> None:
        self._device = device
        self._once = once
        self._told: tuple[int, int] | None = None  # the end that was told of: its epoch and round
        self._ended = False
        self._linked = False
        self._sparing = False  # on the present link
        self._heard = False  # the plan, on the present link
        self._at_round: int | None = None  # where the coordinator says on the present link that it is
        self._doubted: RoundPlan | None = None  # a plan that the broker kept, from before the one that is followed
        self._kept = False  # the plan was heard from the broker's memory alone
        self._task: Task | None = None
        self._plan: RoundPlan | None = None
        self._alive: set[int] = set()  # epochs that this agent has seen running
        self._aside_in: int | None = None  # the epoch in which the operator put it aside
        self._preparing: Task | None = None
        self._running: RoundPlan | None = None
        self._leaving_off = False
        self._void = False  # what is being trained began from values that are no more
        self._forget()

    def _forget(self) -> None:
        """Begin anew under another task."""
        self._manifest: Manifest | None = None  # once the trainer is built
        self._versions: list[int | None] = []  # of the global values that the device holds
        self._moved: set[int] = set()  # layers whose global value was taken and not yet started from
        self._latest: RoundPlan | None = None  # the last plan of this epoch, from which versions only grow
        self._gathering: RoundPlan | None = None
        self._afresh = True
        self._subscriptions = Subscriptions()
        self._done: RoundPlan | None = None  # the plan whose steps the local values contain
        self._outcome: Outcome | None = None
        self._outbox = Outbox()  # layers, and REPORT
        self._insisted = 0  # how often, on the values that are gathered

    @property
    def state(self) -> State:
        """The session's place in the table above."""
        if self._ended:
            return "ended"
        if self._running is not None:
            return "training"
        if self._task is None:
            return "waiting"
        if self._manifest is None:
            return "preparing"
        if self._gathering is not None:
            return "gathering"
        return "delivering" if self._outbox else "idle"

    @property
    def is_unanswered(self) -> bool:
        """Whether the coordinator has said nothing to this device yet."""
        return self._task is None and self._told is None and self._aside_in is None and not self._ended

    @property
    def progress(self) -> Progress | None:
        """What a state that is saved now says of itself; ``None`` where there is nothing worth saving.

        It is saved before a round's report goes out: a device that dies goes on in step, or repeats the round.
        """
        if self._task is None or self._done is None or self._outcome is None or self._diverged:
            return None
        versions = tuple(version for version in self._versions if version is not None)
        return Progress(self._task.epoch, self._task.manifest, self._task.cut, self._done, versions, self._outcome)

    def wants(self, epoch: int, layer: int, version: int, *, delta: bool = False) -> bool:
        """Whether a layer's global value, or the delta that leads to it, is to be taken now that it has arrived."""
        plan = self._gathering
        if plan is None or epoch != plan.epoch or plan.versions[layer] != version:
            return False
        held = self._versions[layer]
        return held == version - 1 if delta else held != version

    def check(self, layer: int) -> int:
        """CRC-32C that the plan gives for the layer's global value."""
        if self._gathering is None:
            raise RuntimeError(f"no value of layer {layer} is wanted")
        return self._gathering.checks[layer]

    def digest(self, layer: int) -> bytes:
        """The digest that a signed plan gives for the layer's global value; empty where it gives none."""
        digests = None if self._gathering is None else self._gathering.digests
        return digests[layer * DIGEST_BYTES :][:DIGEST_BYTES] if isinstance(digests, bytes) else b""

    def receive(self, event: Event) -> list[Command]:
        """What to do now that something has happened, in this order."""
        if self._ended:
            return []
        return [*self._note(event), *self._proceed()]

    # What happened.

    def _note(self, event: Event) -> list[Command]:
        match event:
            case Linked(sparing):
                self._linked, self._heard, self._sparing = True, False, sparing
            case Unlinked():
                self._linked, self._heard = False, False
                self._at_round = self._doubted = None
                self._preparing = None
                self._subscriptions.lose_link()
                self._outbox.lose_link()
            case TaskCame(task, retained):
                return self._note_task(task, retained)
            case PlanCame(plan, retained):
                return self._note_plan(plan, retained)
            case Prepared(task, manifest, progress):
                return self._note_prepared(task, manifest, progress)
            case Taken(epoch, values):
                for layer, version in values:
                    if self.wants(epoch, layer, version):
                        self._versions[layer] = version
                        self._moved.add(layer)
            case Strayed(epoch, layer, version):
                if self.wants(epoch, layer, version, delta=True):
                    self._versions[layer] = None
            case Passed(epoch, layer, version):
                if self._task is not None and epoch == self._task.epoch:
                    self._subscriptions.note_passed({layer: version})
            case Overdue():
                return self._insist()
            case Trained(outcome):
                self._note_trained(outcome)
            case Published(epoch, round_, layers):
                if self._done is not None and (epoch, round_) == (self._done.epoch, self._done.round):
                    self._outbox.acknowledge(layers)
        return []

    def _note_task(self, task: Task, retained: bool) -> list[Command]:
        if not task.accepted:
            if task.aside is True:
                return self._stay_aside(task)
            if retained:
                return []
            self._ended = True
            return [Refuse(brief(task.reason, 900))]
        if not task.manifest:
            return [Complain("a task that names no bundle")]
        self._aside_in = None
        if not retained:
            self._alive.add(task.epoch)
            self._at_round = None if task.round is msgspec.UNSET else task.round
        if self._task is not None and (retained or _identity(task) == _identity(self._task)):
            doubted = self._note_plan(self._doubted, retained=True) if self._doubted else []
            return doubted if retained else [*doubted, *self._note_asked(task)]
        commands = [*self._withdraw(), *self._stand_by()]
        self._forget()
        self._task = task
        return commands

    def _note_asked(self, task: Task) -> list[Command]:
        """The coordinator lacks something of this device, which it may have sent, or may not have been sent; rule 7."""
        if not isinstance(task.owed, tuple):
            return []
        plan, answer = self._plan, SayPresent()
        if self._running is not None or self._manifest is None:
            return [answer]
        if plan is None or not self._heard or (plan.epoch, plan.round) != (task.epoch, task.round):
            return [answer, Subscribe((), plan=True)]
        if self._is_done(plan):
            self._outbox.ask_again(part for part in self._due(plan) if part == REPORT or part in task.owed)
        return [answer]

    def _insist(self) -> list[Command]:
        """Ask again for what is gathered: for the advance by itself at first, and later for whole values instead."""
        plan = self._gathering
        if plan is None:
            return []
        self._insisted += 1
        for layer in plan.advanced if self._insisted > 1 else ():
            if self._versions[layer] == plan.versions[layer] - 1:
                self._versions[layer] = None
        self._subscriptions.note_passed(dict(enumerate(plan.versions)))
        lacking = tuple(sorted(value for value in self._subscriptions.values if not self._is_held(value, plan)))
        return [Insist(lacking)] if lacking else []

    def _stay_aside(self, task: Task) -> list[Command]:
        """Drop all work, and wait for another task: the operator may take the device back."""
        known, self._aside_in, self._task = self._aside_in == task.epoch, task.epoch, None
        commands = [*self._withdraw(), *self._stand_by()]
        self._forget()
        return commands if known else [*commands, Complain(brief(task.reason, 900))]

    def _note_plan(self, plan: RoundPlan, retained: bool) -> list[Command]:
        if fault := self._fault(plan):
            return [Complain(fault)]
        if plan.state == "finished" and retained and plan.epoch not in self._alive:
            return self._tell(plan)
        if retained and is_from_before(plan, self._latest, self._at_round):
            self._doubted = plan
            return []
        self._doubted, self._kept = None, retained
        first, self._heard = not self._heard, True
        self._plan = plan
        self._note_versions()
        if plan.state == "training":
            self._alive.add(plan.epoch)
        if first or not retained:
            if self._is_done(plan):
                self._outbox.fill(self._due(plan))
            elif self._gathering is not None and self._is_same_work(plan, self._gathering):
                return self._subscriptions.leave_values()  # what was asked for may not have been heard
        return []

    def _note_prepared(self, task: Task, manifest: Manifest, progress: Progress | None) -> list[Command]:
        if self._task is None or _identity(task) != _identity(self._task) or self._manifest is not None:
            return []
        self._preparing = None
        self._manifest = manifest
        self._versions = [None] * len(manifest.spec.layers)
        if progress is not None and progress.serves(task) and progress.is_of(len(self._versions)):
            self._versions = list(progress.versions)
            self._done = self._latest = progress.plan
            self._outcome = progress.outcome
        if self._plan is not None and (fault := self._fault(self._plan)):
            self._plan = None
            return [Complain(fault)]
        if self._plan is not None and self._kept and is_from_before(self._plan, self._latest, self._at_round):
            self._doubted, self._plan, self._heard = self._plan, None, False
        self._note_versions()
        if self._plan is not None and self._is_done(self._plan):  # heard on this link, while there was no trainer
            self._outbox.fill(self._due(self._plan))
        return []

    def _note_versions(self) -> None:
        """Note the plan's versions; where they do not follow those before, nothing that the device has is of use."""
        plan, task = self._plan, self._task
        if self._manifest is None or task is None or plan is None:
            return
        if plan.state == "finished" or plan.epoch != task.epoch:
            return
        if self._latest is not None and goes_back(plan, self._latest):
            self._versions = [None] * len(plan.versions)
            self._done = None
            self._void = self._running is not None
        self._latest = plan

    def _note_trained(self, outcome: Outcome | None) -> None:
        plan, self._running = self._running, None
        void, self._void = self._void, False
        if plan is None or outcome is None or void or self._manifest is None:  # left off, or under a task that is past
            return
        self._done, self._outcome = plan, outcome
        self._outbox.fill(self._due(plan))

    # What to do.

    def _proceed(self) -> list[Command]:
        """Compare what is with what should be."""
        if self._ended or self._task is None:
            return []
        if self._running is not None:
            return self._leave_off() if self._superseded(self._running) else []
        if self._manifest is None:
            return self._prepare(self._task)
        if self._plan is None or self._plan.epoch != self._task.epoch:
            return self._stand_by()
        if self._plan.state == "finished":
            return self._finish(self._plan)
        return self._follow(self._plan)

    def _prepare(self, task: Task) -> list[Command]:
        if not self._linked or self._preparing == task:
            return []
        self._preparing = task
        return [Prepare(task)]

    def _leave_off(self) -> list[Command]:
        if self._leaving_off:
            return []
        self._leaving_off = True
        return [Abandon()]

    def _finish(self, plan: RoundPlan) -> list[Command]:
        commands = [*self._withdraw(), *self._stand_by()]
        if plan.epoch not in self._alive:
            return commands
        if self._once:
            self._ended = True
            return [*commands, End()]
        self._forget()
        self._task = self._plan = None
        self._alive.discard(plan.epoch)
        return [*commands, *self._tell(plan)]

    def _tell(self, plan: RoundPlan) -> list[Command]:
        """Say that it is over, once."""
        end = plan.epoch, plan.round
        told, self._told = self._told, end
        return [] if told == end else [Rest(plan.round)]

    def _follow(self, plan: RoundPlan) -> list[Command]:
        """Act upon a plan of the present epoch."""
        commands: list[Command] = []
        if not self._is_done(plan):
            commands += self._withdraw()
        if self._device not in plan.cohort:
            return [*commands, *self._stand_by()]
        if self._is_done(plan):
            return [*commands, *self._deliver(plan)]
        return [*commands, *self._gather(plan)]

    def _deliver(self, plan: RoundPlan) -> list[Command]:
        if not (self._linked and self._heard and (owed := self._outbox.take())):
            return []
        layers = tuple(layer for layer in owed if layer != REPORT)
        return [Deliver(plan, layers, self._outcome if REPORT in owed else None, self._outbox.again)]

    def _gather(self, plan: RoundPlan) -> list[Command]:
        if self._gathering is None or not self._is_same_work(plan, self._gathering):
            self._gathering, self._afresh, self._insisted = plan, not self._in_step(plan), 0
        missing = {
            (layer, planned): layer in plan.advanced and held == planned - 1 and not self._sparing
            for layer, (planned, held) in enumerate(zip(plan.versions, self._versions, strict=True))
            if held != planned
        }
        if not missing:
            return self._train(plan)
        if not (self._linked and self._heard):
            return []
        by_advance = {value for value, advanced in missing.items() if advanced}
        whole = missing.keys() - by_advance
        return self._subscriptions.fetch(whole, by_advance, lambda value: self._is_held(value, plan))

    def _train(self, plan: RoundPlan) -> list[Command]:
        reset = range(len(plan.versions)) if self._afresh else sorted(self._moved)
        self._gathering, unsubscribe = None, self._subscriptions.leave_values()
        self._running, self._leaving_off, self._void = plan, False, False
        self._moved.clear()
        self._done = self._outcome = None
        return [Train(plan, tuple(reset), self._afresh), *unsubscribe]

    def _stand_by(self) -> list[Command]:
        """Gather nothing, and wait for no advance."""
        self._gathering = None
        return self._subscriptions.leave()

    def _withdraw(self) -> list[Command]:
        """Owe nothing."""
        return [Withdraw()] if self._outbox.withdraw() else []

    # What is so.

    def _is_held(self, value: Value, plan: RoundPlan) -> bool:
        """Whether the value has come, and is what the plan asks for."""
        layer, version = value
        return self._versions[layer] == version == plan.versions[layer]

    def _is_done(self, plan: RoundPlan) -> bool:
        """Whether the local values contain the plan's steps."""
        return self._done is not None and self._is_same_work(plan, self._done)

    @property
    def _diverged(self) -> bool:
        return self._outcome is not None and not math.isfinite(self._outcome.loss)

    def _in_step(self, plan: RoundPlan) -> bool:
        """Whether the device goes on from its drifted values; see rule 4."""
        return self._done is not None and not self._diverged and follows(plan, self._done, self._versions)

    def _superseded(self, running: RoundPlan) -> bool:
        """Whether what is being trained serves no purpose any more."""
        if self._task is None or self._manifest is None or self._void:
            return True
        plan = self._plan
        return plan is not None and plan.epoch == self._task.epoch and not self._is_same_work(plan, running)

    def _is_same_work(self, plan: RoundPlan, other: RoundPlan) -> bool:
        return work_of(plan, self._device) == work_of(other, self._device)

    def _due(self, plan: RoundPlan) -> list[int]:
        """The updates of the layers that are due and trained here, and the report of what was trained."""
        cut = 0 if self._task is None else self._task.cut
        updates = [] if self._diverged else [layer for layer in plan.due if layer >= cut]
        return [*updates, REPORT] if self._outcome is not None else updates

    def _fault(self, plan: RoundPlan) -> str:
        """Why a plan can't be followed; empty if it can, or if that can't be told yet."""
        if self._manifest is None or self._task is None or plan.epoch != self._task.epoch or plan.state == "finished":
            return ""
        fault = fault_of(plan, self._manifest)
        return f"plan of round {plan.round}: {fault}" if fault else ""


def _identity(task: Task) -> tuple[int, str, int, float]:
    return task.epoch, task.manifest, task.cut, task.held_out or 0.0
