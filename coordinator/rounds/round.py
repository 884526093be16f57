"""One round as a pure machine, events in and verdicts out: which updates it still needs, and which may be folded.

For every layer that is due, T_l are the devices of the cohort whose cut lies at or before it. A layer of the round is

    open ──(an update is folded)──────────────────────────────────────────────► open
    open ──(all of T_l have delivered or are lost, and one at least delivered)─► ready
    open ──(the deadline passes)───────────────────────────────────────────────► ready
    ready ─(close)─────────────────────────────────────────────────────────────► closed

An update is refused, with the first of these words that applies, and nothing changes:

    epoch        it belongs to another run of the federation
    round        it belongs to another round
    not_due      its layer is not aggregated in this round
    stranger     its device is not in the cohort, or does not train this layer
    duplicate    this device has delivered this layer already
    closed       its layer was closed without it
    stale        it was computed against another version of the layer
    weight       it claims another weight than the federation's weighting and its device's profile give it
    not_finite, out_of_bounds    (by the fold) its numbers can't be used
    norm         (by the fold) it is far larger than the layer's recent updates (`rounds.norms`)
    scalars      it does not say of itself what the plan asks for
    collects     (by the fold) it is a sum of updates, and the rule needs each by itself

A partial, the sum of some devices' updates that an aggregator sends, counts as all of these updates, or, where one of
them would be refused, as none.

The round is done when every due layer is closed and every device of the cohort has reported, or is lost: a report says
that a device has made its local steps, also where none of its layers is due. The deadline ends all waiting.

Where the fold refuses a device's numbers, nothing else is waited for of it in this layer: it has answered.

A device that is lost is waited for a little longer, since most that vanish come back at once (a broker that shuts
down even publishes everyone's will), and then no more; but while a layer is open, what it still delivers counts. Where
nobody has delivered, or nobody has reported, the deadline is waited for: a network that drops everyone must not race
through empty rounds.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lamina.broker.wire.foldable import Delta
from lamina.broker.wire.messages import Report, RoundPlan
from lamina.broker.wire.partials import Partial
from lamina.coordinator.folds.aggregate import Aggregate, Fold
from lamina.coordinator.folds.named_scalars import NamedScalars
from lamina.models.errors import RejectedUpdate


@dataclass(frozen=True, slots=True)
class Update:
    """What a device publishes for one layer.

    Attributes:
        device: its name.
        layer: index of the layer.
        epoch: run of the federation.
        round: the round it was trained in.
        version: of the global value that it is based on.
        weight: 1.0, or the device's number of examples.
        delta: local minus base value: parameters, then statistics; float32 (vector_size,), or what becomes that.
        scalars: what it says of itself, by name.
    """

    device: str
    layer: int
    epoch: int
    round: int
    version: int
    weight: float
    delta: Delta
    scalars: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class PartialUpdate:
    """What an aggregator publishes for one layer; the other fields are those of `Update`.

    Attributes:
        site: the aggregator's name.
        partial: the sum of its devices' updates.
    """

    site: str
    layer: int
    epoch: int
    round: int
    version: int
    partial: Partial


class Round:
    """One round, from its plan to the last layer closed and the last report.

    Args:
        plan: as published.
        cuts: first layer that each device of the cohort trains.
        new_fold: makes an empty fold for a layer index.
        now: seconds on the caller's clock; the deadline counts from here.
        examples: number of training samples of each device, as its profile says, where they are its weight; a device
            that is not named may claim any.
    """

    def __init__(
        self,
        plan: RoundPlan,
        cuts: Mapping[str, int],
        new_fold: Callable[[int], Fold],
        now: float,
        examples: Mapping[str, int] | None = None,
    ) -> None:
        self.plan = plan
        self._examples = dict(examples or {})
        self.began = now
        self.deadline = now + plan.deadline_s
        self.reports: dict[str, Report] = {}
        self.rejected = 0
        self.cuts = dict(cuts)
        self.expected = _expected(cuts, plan.due)
        self._delivered: dict[int, set[str]] = {layer: set() for layer in plan.due}
        self._new_fold = new_fold
        self._open = {layer: new_fold(layer) for layer in plan.due}
        self._refused: dict[int, set[str]] = {layer: set() for layer in plan.due}  # whose numbers can't be used
        self._scalars = NamedScalars(plan.work)
        self._diverged: set[str] = set()  # whose last report has a loss that isn't finite
        self._lost: dict[str, float] = {}  # device to when it is no longer waited for

    def done(self, now: float) -> bool:
        """Every due layer is closed, and every device has made its local steps."""
        return not self._open and (now >= self.deadline or self._all_of(self.cuts.keys(), self.reports.keys(), now))

    @property
    def updates(self) -> int:
        """Layer updates folded so far."""
        return sum(len(devices) for devices in self._delivered.values())

    @property
    def aggregated(self) -> tuple[int, ...]:
        """Due layers for which at least one update was folded."""
        return tuple(layer for layer, devices in self._delivered.items() if devices)

    def receive(self, update: Update) -> None:
        """Fold an update.

        Raises:
            RejectedUpdate: it may not be folded; the reason is one of the words above.
        """
        try:
            self._admit(update, update.device)
        except RejectedUpdate:
            self.rejected += 1
            raise
        try:
            self._check_weight(update.device, update.weight)
            scalars = dict(update.scalars)
            weight = self._scalars.weight(update.device, update.weight, scalars)
            self._open[update.layer].add(update.device, update.delta, weight)
            self._scalars.keep(update.layer, update.device, weight, scalars)
        except RejectedUpdate:
            self.rejected += 1
            self._refused[update.layer].add(update.device)
            raise
        self._delivered[update.layer].add(update.device)
        self._refused[update.layer].discard(update.device)

    def receive_partial(self, update: PartialUpdate) -> None:
        """Fold the sum of some devices' updates, all or none.

        Raises:
            RejectedUpdate: one of them may not be folded; the reason is one of the words above.
        """
        try:
            self._scalars.check(update.partial)
            for index, device in enumerate(update.partial.devices):
                self._admit(update, device)
                self._check_weight(device, self._scalars.claimed(index, update.partial))
            self._open[update.layer].join(update.partial)
            self._scalars.keep_all(update.layer, update.partial)
        except RejectedUpdate:
            self.rejected += 1
            raise
        self._delivered[update.layer].update(update.partial.devices)

    def restate(self, device: str, examples: int) -> None:
        """Take note that a device says of itself that it has another number of samples, before its next update."""
        if device in self.cuts:
            self._examples[device] = examples

    def admit(self, device: str, cut: int, examples: int) -> None:
        """Expect the updates of one more device of the cohort, whose layers are all open yet. For an aggregator.

        Args:
            device: its name.
            cut: first layer that it trains.
            examples: number of its training samples.
        """
        self.cuts[device], self._examples[device] = cut, examples
        self.expected |= {layer: devices | {device} for layer, devices in self.expected.items() if layer >= cut}

    def untaken(self, layer: int) -> int:
        """Updates of an open layer that `take` would hand over."""
        return self._open[layer].count

    def take(self, layer: int) -> Fold | None:
        """What was folded of an open layer since the last time; ``None`` where nothing was. For an aggregator.

        The layer stays open, and who has delivered stays known: what comes later is folded anew.
        """
        fold = self._open[layer]
        if not fold.count:
            return None
        self._open[layer] = self._new_fold(layer)
        return fold

    def partial(self, layer: int, fold: Fold) -> Partial:
        """What `take` gave for a layer, to be sent."""
        return self._scalars.of_partial(layer, fold.partial())

    def report(self, device: str, report: Report) -> None:
        """A device has made its local steps. A report of another round, or from outside the cohort, changes nothing.

        One whose loss is not finite has diverged: it sends no updates, and none are waited for.
        """
        if report.round == self.plan.round and device in self.cuts:
            self.reports[device] = report
            self._diverged.discard(device)
            if not math.isfinite(report.loss):
                self._lost[device] = -math.inf
                self._diverged.add(device)

    def lose(self, device: str, at: float) -> None:
        """A device is gone: from ``at`` on, in seconds, it is no longer waited for."""
        if device in self.cuts:
            self._lost[device] = at

    def regain(self, device: str) -> None:
        """Wait for it again."""
        self._lost.pop(device, None)

    def patience_ends(self, now: float) -> float:
        """When time alone next changes what is waited for: a lost device's, or the deadline."""
        return min([self.deadline, *(at for at in self._lost.values() if at > now)])

    def ready(self, now: float) -> tuple[int, ...]:
        """Layers to be closed now, ascending."""
        return tuple(
            layer
            for layer in self._open
            if now >= self.deadline
            or (self._diverged and self.expected[layer] <= self._diverged)  # nobody will send it
            or self._all_of(self.expected[layer], self._delivered[layer], now, self._refused[layer])
        )

    def close(self, layer: int, base: NDArray[np.float32]) -> Aggregate | None:
        """The layer's aggregate over what was delivered; ``None`` where nothing was: its value stays.

        Args:
            layer: an open one.
            base: its global value at the start of the round, (vector_size,).
        """
        fold = self._open.pop(layer)
        return self._scalars.of_aggregate(layer, fold.finish(base)) if fold.count else None

    def delivered_everything(self) -> tuple[str, ...]:
        """Devices that delivered all that was expected of them, ascending."""
        owing = self._owing()
        return tuple(device for device in sorted(self.cuts) if device not in owing)

    def unfolded(self) -> dict[str, tuple[int, ...]]:
        """Devices, and the layers that were due from them and were not folded, ascending; the others are left out."""
        owed: dict[str, list[int]] = {}
        for layer, devices in sorted(self.expected.items()):
            for device in sorted(devices - self._delivered[layer]):
                owed.setdefault(device, []).append(layer)
        return {device: tuple(layers) for device, layers in owed.items()}

    @property
    def empty(self) -> bool:
        """Nobody delivered what was asked for: updates, or reports where no update was due."""
        return not self.updates if any(self.expected.values()) else not self.reports

    @property
    def diverged(self) -> tuple[str, ...]:
        """Devices that reported a loss that isn't finite, ascending."""
        return tuple(sorted(self._diverged))

    def refused(self) -> tuple[str, ...]:
        """Devices of whom an update was refused because its numbers can't be used, ascending."""
        return tuple(sorted(set().union(*self._refused.values())))

    def owing(self) -> tuple[str, ...]:
        """Devices from which something is still to come, the lost ones included, ascending."""
        return tuple(sorted(self._unanswered()))

    def owed(self, now: float) -> dict[str, tuple[int, ...]]:
        """Devices that are waited for, and the layers whose updates are to come from each; none: a report is."""
        owed: dict[str, list[int]] = {device: [] for device in self._unanswered()}
        for layer, devices in sorted(self.expected.items()):
            for device in devices - self._delivered[layer] - self._refused[layer]:
                owed[device].append(layer)
        gone = {device for device, at in self._lost.items() if at <= now}
        return {device: tuple(layers) for device, layers in sorted(owed.items()) if device not in gone}

    def late(self) -> tuple[str, ...]:
        """Devices that are not known to be lost, and from which something is still to come: when the round is done,
        they have missed its deadline.
        """
        return tuple(sorted(self._unanswered() - self._lost.keys()))

    def _unanswered(self) -> set[str]:
        updates = {
            device
            for layer, devices in self.expected.items()
            for device in devices - self._delivered[layer] - self._refused[layer]
        }
        return updates | (self.cuts.keys() - self.reports.keys())

    def _owing(self) -> set[str]:
        updates = {device for layer, devices in self.expected.items() for device in devices - self._delivered[layer]}
        return updates | (self.cuts.keys() - self.reports.keys())

    def _admit(self, update: Update | PartialUpdate, device: str) -> None:
        plan, layer = self.plan, update.layer
        if update.epoch != plan.epoch:
            raise RejectedUpdate("epoch", f"{device} sent epoch {update.epoch}, this is {plan.epoch}")
        if update.round != plan.round:
            raise RejectedUpdate("round", f"{device} sent round {update.round}, this is {plan.round}")
        if layer not in self.expected:
            raise RejectedUpdate("not_due", f"{device} sent layer {layer}, due are {plan.due}")
        if device not in self.expected[layer]:
            raise RejectedUpdate("stranger", f"{device} does not train layer {layer} in round {plan.round}")
        if device in self._delivered[layer]:
            raise RejectedUpdate("duplicate", f"{device} sent layer {layer} twice")
        if layer not in self._open:
            raise RejectedUpdate("closed", f"layer {layer} was aggregated before {device} sent it")
        if update.version != plan.versions[layer]:
            raise RejectedUpdate(
                "stale",
                f"{device} sent layer {layer} against version {update.version}, not {plan.versions[layer]}",
            )

    def _check_weight(self, device: str, weight: float) -> None:
        due = 1 if self.plan.weighting == "uniform" else self._examples.get(device, weight)
        if weight != due:
            raise RejectedUpdate("weight", f"{device} claims the weight {weight:g}, and has {due:g}")

    def _all_of(self, expected: Set[str], came: Set[str], now: float, refused: Set[str] = frozenset()) -> bool:
        """Nobody else is to be waited for, and somebody came. Those that came, and those refused, are expected ones.

        It is asked after every update, so it must not look at every device: where more are missing than are lost, the
        numbers say enough.
        """
        if not expected:
            return True
        missing = len(expected) - len(came) - len(refused)
        if not came or missing > len(self._lost):
            return False
        return missing == sum(
            at <= now and device in expected and device not in came and device not in refused
            for device, at in self._lost.items()
        )


def _expected(cuts: Mapping[str, int], due: Sequence[int]) -> dict[int, frozenset[str]]:
    """T_l of every due layer. Layers between the same two cuts share one set: there are many, of many devices."""
    ends = sorted(set(cuts.values()))
    sets = [frozenset(device for device, cut in cuts.items() if cut <= end) for end in ends]
    return {layer: sets[reached - 1] if (reached := bisect_right(ends, layer)) else frozenset() for layer in due}
