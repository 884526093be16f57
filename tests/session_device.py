"""The machine of a device with a model of three layers, and the events that the tests of it give it."""

from dataclasses import dataclass, field

import msgspec

from lamina.broker.wire.messages import RoundPlan, Task
from lamina.edge_agent.session.events import (
    REPORT,
    Command,
    Event,
    Linked,
    Outcome,
    PlanCame,
    Prepared,
    Progress,
    Published,
    Taken,
    TaskCame,
    Trained,
)
from lamina.edge_agent.session.session import Session
from lamina.models.manifest import FileEntry, Manifest
from lamina.models.spec import BlockSpec, LayerSpec, ModelSpec, TensorSpec

NAMES = ("stem", "body", "head")
FILE = FileEntry("0" * 64, 0, ".onnx")
MANIFEST = Manifest(
    spec=ModelSpec(
        "three",
        tuple(LayerSpec(name, (TensorSpec(name, (1,), "kernel"),)) for name in NAMES),
        tuple(BlockSpec(name, index, index + 1, (1,)) for index, name in enumerate(NAMES)),
        cuts=(0, 1),
        classes=2,
    ),
    batch_size=1,
    sub_models=(),
    pieces=(),
    inference=FILE,
    values=FILE,
    optimiser="sgd",
    optimiser_state=(),
    hyperparameters={"lr": 0.1},
)
TASK = Task(epoch=1, accepted=True, reason="fits", cut=0, manifest="aa")
WEAK = Task(epoch=1, accepted=True, reason="fits", cut=1, manifest="aa")
OUTCOME = Outcome(steps=5, loss=0.5, accuracy=0.75, step_s=0.01, forward_s=0.0)
ALL = ((0, 0), (1, 0), (2, 0))


def plan(round_: int = 0, **fields: object) -> RoundPlan:
    """Cycles are two rounds long; in the first one of each the middle layer is not due."""
    given: dict[str, object] = {
        "epoch": 1,
        "round": round_,
        "cycle": round_ // 2,
        "cohort": ("me", "you"),
        "local_steps": 5,
        "batch_size": 4,
        "due": (0, 2) if round_ % 2 == 0 else (0, 1, 2),
        "versions": (round_, round_ // 2, round_),
    }
    given |= fields
    return msgspec.convert({"checks": given["versions"], **given, "kind": "plan"}, RoundPlan)


@dataclass
class Device:
    """A session and what it said last."""

    session: Session = field(default_factory=lambda: Session("me"))

    def after(self, *events: Event) -> list[Command]:
        """What the last of the events leads to."""
        commands: list[Command] = []
        for event in events:
            commands = self.session.receive(event)
        return commands

    @property
    def state(self) -> str:
        return self.session.state


def ready(task: Task = TASK, progress: Progress | None = None) -> Device:
    device = Device()
    device.after(Linked(), TaskCame(task), Prepared(task, MANIFEST, progress))
    return device


def taken(versions: tuple[tuple[int, int], ...] = ALL) -> list[Event]:
    return [Taken(1, ((layer, version),)) for layer, version in versions]


def published(*layers: int, round_: int = 0) -> list[Event]:
    return [Published(1, round_, (layer,)) for layer in (*layers, REPORT)]


def after_round_0(task: Task = TASK) -> Device:
    """Round 0 is done and delivered."""
    device = ready(task)
    device.after(PlanCame(plan(0)), *taken(), Trained(OUTCOME))
    device.after(*published(*[layer for layer in (0, 2) if layer >= task.cut]))
    assert device.state == "idle"
    return device
