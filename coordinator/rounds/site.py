"""What an aggregator folds for the coordinator, and when it sends the sum: a pure machine, like `Round`.

It stands where updates arrive: on a site's own broker, where it folds what this site's devices send; or on the one
broker of a large federation, where some aggregators share the layers. It knows what is retained there: the plan, the
devices, and their tasks. Its devices are those whose profiles it sees.

    a layer's sum is sent    when all of its devices have delivered or are lost, and one at least delivered,
                             or when four fifths of the deadline are over: then whatever is there,
                             and from then on whatever still comes

                             or when it holds as many devices as one message may name

What comes after a sum was sent goes out in a sum of its own: partials add up. Updates are admitted by the words of
`lamina.coordinator.rounds.round`, here and again, for every device in a sum, at the coordinator.

A plan that comes again (the coordinator has restarted, or the link was lost) is answered by sending again what was
sent in its round; the coordinator refuses what it has.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import msgspec

from lamina.broker.wire.chunks import LayerValue, pack_partial
from lamina.broker.wire.messages import RoundPlan, Task
from lamina.broker.wire.partials import MOST_DEVICES
from lamina.coordinator.folds.aggregate import LayerFold
from lamina.coordinator.folds.fold import UNLIMITED, Fold
from lamina.coordinator.rounds.round import Round, Update
from lamina.models.errors import RejectedUpdate
from lamina.models.spec import ModelSpec

_MOST_KNOWN = 1 << 16  # devices of a site
_IN_TIME = 0.8  # of the coordinator's deadline: what is sent then still arrives


class Site:
    """An aggregator's state.

    Args:
        most_devices: in one sum.

    Attributes:
        round: the one that is folded; ``None`` before the first plan.
    """

    def __init__(self, most_devices: int = MOST_DEVICES) -> None:
        self.round: Round | None = None
        self._plan: RoundPlan | None = None  # that of the round, as the coordinator said it
        self._most_devices, self._most_now = most_devices, most_devices
        self._spec: ModelSpec | None = None
        self._layers: Collection[int] = ()
        self._devices: dict[str, int] = {}  # and how many examples each has
        self._tasks: dict[str, Task] = {}
        self._gone_at: dict[str, float] = {}
        self._sent: list[LayerValue] = []
        self._outbox: list[LayerValue] = []

    def use(self, spec: ModelSpec, layers: Collection[int]) -> None:
        """Fold these layers of this model from now on."""
        self._spec, self._layers = spec, layers
        self.round, self._sent, self._outbox = None, [], []

    def meet(self, device: str, examples: int) -> bool:
        """Note a device's profile: it is one of ours, and has so many training examples.

        Whether it takes part in the open round only now: what it sent before was refused.
        """
        if device in self._devices or len(self._devices) < _MOST_KNOWN:
            self._devices[device] = examples
            if self.round:
                self.round.restate(device, examples)
        return self._admit_late(device)

    def task(self, device: str, task: Task) -> bool:
        """The coordinator's verdict on a device, perhaps on one of another site; returns what `meet` does."""
        self._tasks[device] = task
        return self._admit_late(device)

    def came(self, device: str) -> None:
        """A device is there."""
        self._gone_at.pop(device, None)
        if self.round:
            self.round.regain(device)

    def went(self, device: str, at: float) -> None:
        """A device is gone: from ``at`` on, in seconds, it is not waited for."""
        if device in self._devices:
            self._gone_at[device] = at
        if self.round:
            self.round.lose(device, at)

    def begin(self, plan: RoundPlan, now: float, *, kept: bool = False) -> bool:
        """Fold the round of a plan; ``now`` is in seconds on the clock of all other times here.

        A plan that the broker kept, heard first of all, may be of a round in which this aggregator has sent sums before
        it was killed. Nobody tells it of whom, and a sum that has one device twice is refused as a whole: so each
        update of that round goes out by itself.

        Whether the round is folded from its beginning, whatever was folded before; else the plan is a repetition.
        """
        self._most_now = 1 if kept and self._plan is None else self._most_now
        if self.round and self._plan is not None and _asked_of_devices(plan) == _asked_of_devices(self._plan):
            self.repeat()
            return False
        if self._plan is not None:
            self._most_now = self._most_devices
        self._plan = plan
        due = tuple(layer for layer in plan.due if layer in self._layers)
        ours = msgspec.structs.replace(plan, due=due, deadline_s=_IN_TIME * plan.deadline_s)
        tasks = {name: self._tasks[name] for name in plan.cohort if name in self._devices and name in self._tasks}
        cuts = {name: task.cut for name, task in tasks.items() if task.accepted and task.epoch == plan.epoch}
        examples = {name: self._devices[name] for name in cuts}
        self.round = Round(ours, cuts, self._folding(plan), now, examples)
        self._sent, self._outbox = [], []
        for name, at in self._gone_at.items():
            self.round.lose(name, at)
        return True

    def repeat(self) -> None:
        """Send again what was sent in the open round."""
        self._outbox = list(self._sent)

    @property
    def waits(self) -> bool:
        """Some update of the round is still to come."""
        round_ = self.round
        return round_ is not None and round_.updates < sum(len(devices) for devices in round_.expected.values())

    def receive(self, update: Update) -> None:
        """Fold a device's update.

        Raises:
            RejectedUpdate: it may not be folded (`rounds.round` lists the reasons), or there is no plan yet.
        """
        if self.round is None:
            raise RejectedUpdate("round", f"{update.device} sent layer {update.layer} before there was a plan")
        self.round.receive(update)
        if self.round.untaken(update.layer) >= self._most_now:
            self._outbox += self._taken(self.round, update.layer)

    def ready(self, now: float) -> list[LayerValue]:
        """What is to be sent now, each once."""
        if self.round:
            for layer in self.round.ready(now):
                self._outbox += self._taken(self.round, layer)
        values, self._outbox = self._outbox, []
        return values

    def patience_ends(self, now: float) -> float:
        """When time alone next changes what is to be sent, in seconds; infinite where only news does."""
        if self.round is None or now >= self.round.deadline:
            return float("inf")
        return self.round.patience_ends(now)

    def _admit_late(self, device: str) -> bool:
        """Have a device take part in the open round of whose profile and task the later one has come just now."""
        plan, round_, task = self._plan, self.round, self._tasks.get(device)
        if round_ is None or plan is None or task is None or device not in self._devices:
            return False
        if device not in plan.cohort or device in round_.cuts or not task.accepted or task.epoch != plan.epoch:
            return False
        round_.admit(device, task.cut, self._devices[device])
        if device in self._gone_at:
            round_.lose(device, self._gone_at[device])
        return True

    def _folding(self, plan: RoundPlan) -> Callable[[int], Fold]:
        """What makes a layer's empty fold in the round of a plan."""
        assert self._spec is not None, "a plan is folded once the model is known"
        layers = self._spec.layers
        most = plan.norm_bounds if len(plan.norm_bounds) == len(layers) else (UNLIMITED,) * len(layers)
        return lambda layer: LayerFold(layers[layer].vector_size, layers[layer].size, most=most[layer])

    def _taken(self, round_: Round, layer: int) -> list[LayerValue]:
        """The sum of what was folded since the last one, if anything was; it is kept for the round."""
        fold = round_.take(layer)
        values = [self._pack(round_, layer, fold)] if fold else []
        self._sent += values
        return values

    def _pack(self, round_: Round, layer: int, fold: Fold) -> LayerValue:
        assert self._spec is not None
        plan = round_.plan
        return pack_partial(
            round_.partial(layer, fold),
            epoch=plan.epoch,
            round=plan.round,
            layer=layer,
            version=plan.versions[layer],
            layer_spec=self._spec.layers[layer],
        )


def _asked_of_devices(plan: RoundPlan) -> RoundPlan:
    """What a plan asks for: a coordinator that has gone back may ask for another round of the same number."""
    return msgspec.structs.replace(plan, unfolded={}, advanced=(), deadline_s=0.0)


def share(spec: ModelSpec, index: int, count: int) -> frozenset[int]:
    """The layers of aggregator ``index`` (from 0) of ``count``: each layer one's, all about equally many elements.

    The largest layer goes to whoever has least so far, and so on down.
    """
    loads, layers = [0] * count, [set[int]() for _ in range(count)]
    for layer in sorted(range(len(spec.layers)), key=lambda layer: -spec.layers[layer].vector_size):
        least = loads.index(min(loads))
        loads[least] += spec.layers[layer].vector_size
        layers[least].add(layer)
    return frozenset(layers[index])
