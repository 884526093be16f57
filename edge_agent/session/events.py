"""The events that happen to a device, and the commands that `session.session` answers with."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from lamina.broker.wire.messages import RoundPlan, Task
from lamina.models.manifest import Manifest

REPORT = -1
"""Stands for the report where layers stand for their updates."""


class Outcome(msgspec.Struct, frozen=True):
    """How a round's local steps went.

    Attributes:
        steps: how many were done.
        loss: mean over the steps.
        accuracy: share of the visited samples that were classified right.
        step_s: mean wall time of a step.
        forward_s: wall time of the frozen input side.
        sums: of the metrics on the samples that the device keeps, where it judged.
        counts: theirs.
    """

    steps: int
    loss: float
    accuracy: float
    step_s: float
    forward_s: float
    sums: tuple[float, ...] = ()
    counts: tuple[float, ...] = ()


class Progress(msgspec.Struct, frozen=True):
    """How far a device is: what a saved state says of itself.

    Attributes:
        epoch: of the federation.
        manifest: SHA-256 of the bundle's manifest.
        cut: first layer that is trained.
        plan: the round whose steps the local values contain.
        versions: of the global value that each layer is based on.
        outcome: how that round went.
    """

    epoch: int
    manifest: str
    cut: int
    plan: RoundPlan
    versions: tuple[int, ...]
    outcome: Outcome

    def serves(self, task: Task) -> bool:
        """Whether a device with this task may go on from here."""
        return (self.epoch, self.manifest, self.cut) == (task.epoch, task.manifest, task.cut)

    def is_of(self, layers: int) -> bool:
        """Whether it says which values of so many layers it is based on."""
        return len(self.versions) == len(self.plan.checks) == layers


# What happened.


@dataclass(frozen=True, slots=True)
class Linked:
    """There is a link, and nothing has been heard on it.

    Attributes:
        sparing: links have died before anything large could come, so nothing may be subscribed to that comes at once.
    """

    sparing: bool = False


@dataclass(frozen=True, slots=True)
class Unlinked:
    """The link is gone, with its subscriptions."""


@dataclass(frozen=True, slots=True)
class TaskCame:
    """The coordinator's answer to the profile; ``retained`` if from the broker's memory."""

    task: Task
    retained: bool = False


@dataclass(frozen=True, slots=True)
class PlanCame:
    """A plan; ``retained`` if from the broker's memory."""

    plan: RoundPlan
    retained: bool = False


@dataclass(frozen=True, slots=True)
class Prepared:
    """The trainer for a task is built; it holds what was saved at ``progress``, or nothing."""

    task: Task
    manifest: Manifest
    progress: Progress | None = None


@dataclass(frozen=True, slots=True)
class Taken:
    """The device now holds these global values: layers, and versions."""

    epoch: int
    values: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Strayed:
    """A delta to this version has come, and what the device holds of the layer isn't what it was made for."""

    epoch: int
    layer: int
    version: int


@dataclass(frozen=True, slots=True)
class Passed:
    """A part of an advance has come for which the device had no use, yet."""

    epoch: int
    layer: int
    version: int


@dataclass(frozen=True, slots=True)
class Trained:
    """Training has ended; without an outcome, it left off before all steps were done."""

    outcome: Outcome | None


@dataclass(frozen=True, slots=True)
class Published:
    """The broker has all of the updates of some layers, or the report (``REPORT``)."""

    epoch: int
    round: int
    layers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Overdue:
    """Nothing has come for a while of the values that are gathered."""


Event = Linked | Unlinked | TaskCame | PlanCame | Prepared | Taken | Strayed | Passed | Overdue | Trained | Published


# What to do.


@dataclass(frozen=True, slots=True)
class Prepare:
    """Fetch what the task needs and build its trainer, in place of any other that is being prepared."""

    task: Task


@dataclass(frozen=True, slots=True)
class Subscribe:
    """Receive some global values from their start, having them published first, and the advance.

    Attributes:
        values: layers, and versions.
        advance: whether the advance is meant, too.
        plan: whether the plan is, which was subscribed to already.
    """

    values: tuple[tuple[int, int], ...]
    advance: bool = False
    plan: bool = False


@dataclass(frozen=True, slots=True)
class Insist:
    """Ask once more for these global values (layers, and versions), which were subscribed to and have not come."""

    values: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class SayPresent:
    """Tell the coordinator, which has asked, that the device is there."""


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    """Receive them no longer."""

    values: tuple[tuple[int, int], ...]
    advance: bool = False


@dataclass(frozen=True, slots=True)
class Train:
    """Do the plan's local steps.

    Attributes:
        plan: which.
        reset: layers that start from their global value, ascending.
        afresh: forget the optimiser's state first.
    """

    plan: RoundPlan
    reset: tuple[int, ...]
    afresh: bool


@dataclass(frozen=True, slots=True)
class Abandon:
    """Leave off training soon; `Trained` is still awaited."""


@dataclass(frozen=True, slots=True)
class Deliver:
    """Publish the updates of these layers, and the report if there is an outcome; before all, stop other deliveries.

    Attributes:
        plan: which round's.
        layers: whose updates, ascending.
        outcome: what the report says.
        again: the broker had all of it once, and dropped some: this time it gets one message after the other.
    """

    plan: RoundPlan
    layers: tuple[int, ...]
    outcome: Outcome | None
    again: bool = False


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Stop delivering: it is void."""


@dataclass(frozen=True, slots=True)
class Complain:
    """Tell the operator that a remote's message can't be followed."""

    text: str


@dataclass(frozen=True, slots=True)
class Refuse:
    """End: the coordinator won't have this device."""

    reason: str


@dataclass(frozen=True, slots=True)
class Rest:
    """Tell the operator that the federation is finished, after so many rounds: the next training is waited for."""

    rounds: int


@dataclass(frozen=True, slots=True)
class End:
    """End: the federation is finished."""


Command = (
    Prepare
    | Subscribe
    | Insist
    | SayPresent
    | Unsubscribe
    | Train
    | Abandon
    | Deliver
    | Withdraw
    | Complain
    | Refuse
    | Rest
    | End
)
