"""An experiment as frozen values: its file, with what the command line changes in it.

name = "uneven"
data = "digits"
model = "digits_cnn"

[partition]
kind = "dirichlet"
alpha = 0.5

[[fleet]]
name = "gateway"
devices = 2

[[fleet]]
name = "sensor"
devices = 6
budget_mib = 24.0

[training]
rounds = 40

The tables ``training``, ``local``, ``cohorts``, ``aggregation``, ``wire``, ``deadlines`` and ``evaluation`` are those
of ``federation.toml`` (see `lamina.coordinator.settings`).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import msgspec

from lamina.broker.settings import load_toml
from lamina.broker.wire.topics import check_name
from lamina.coordinator.settings import Cohorts, Deadlines, Method, Training, Wire
from lamina.emulation.datasets import BUILT_IN
from lamina.models.errors import require
from lamina.models.readers.settings import Source
from lamina.models.sources import resolved_source

DEMO = Path(__file__).with_name("demo.toml")

BrokerKind = Literal["auto", "mosquitto", "amqtt", "memory"]
PartitionKind = Literal["iid", "dirichlet", "shards", "natural", "time", "quantity"]
Tier = Literal["strong", "moderate", "weak"]

_SHARED_FROM = 17
"""Fleets from this size on share processes: sixteen interpreters and engines are what a small machine can hold."""
_PROCESSES = 8
"""Processes that a large fleet is spread over."""


class Partition(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which samples each device holds (see `lamina.emulation.partition`).

    Attributes:
        kind: ``iid``, ``dirichlet``, ``shards``, ``natural``, ``time`` or ``quantity``; ``dirichlet`` and ``shards``
            need a label a sample.
        alpha: of ``dirichlet``; the smaller, the more uneven.
        shards: a device's, of ``shards``.
        least: samples that ``dirichlet`` gives every device.
        spread: of ``quantity``: how many times the samples of the poorest device the richest has.
    """

    kind: PartitionKind = "dirichlet"
    alpha: float = 0.5
    shards: int = 2
    least: int = 10
    spread: float = 100.0

    def __post_init__(self) -> None:
        require(self.alpha > 0, f"partition.alpha must be positive, and is {self.alpha}")
        require(self.shards > 0, f"partition.shards must be at least 1, and is {self.shards}")
        require(self.spread >= 1, f"partition.spread must be at least 1, and is {self.spread}")
        require(self.least > 0, f"partition.least must be at least 1, and is {self.least}")


class Group(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Devices of one kind.

    Attributes:
        name: what their names begin with.
        devices: how many.
        tier: the sub-model that their memory is to hold: the whole (``strong``), the smallest on offer (``weak``), or
            one between. Their budget is then set from its measured peak.
        budget_mib: their memory for training, in place of ``tier``.
    """

    name: str = "device"
    devices: int = 8
    tier: Tier = "strong"
    budget_mib: float | None = None

    def __post_init__(self) -> None:
        check_name(f"{self.name}-0000", "fleet.name")
        require(self.devices >= 0, f"fleet.devices can't be negative, and is {self.devices}")
        require(self.budget_mib is None or self.budget_mib > 0, "fleet.budget_mib must be positive")


class Experiment(Method, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All of an experiment's file. Relative paths in it start at the file's own folder.

    Attributes:
        name: of the experiment; the federation's, too.
        data: a built-in data set, a path, or a table (see `lamina.emulation.datasets`).
        model: a network of the zoo, or ``path/to/file.py:function``.
        batch_size: samples a training step.
        optimiser: inside the training graphs: ``sgd``, ``nesterov``, ``adam`` or ``adamw``.
        seed: of everything that is drawn: initial values, partition, cohorts, sample orders.
        out: folder for all that the run leaves; empty: ``runs/{name}``, from where the command is run.
        broker: ``mosquitto``, ``amqtt`` (embedded), ``auto`` (the first of these that there is), or ``memory``: no
            broker and no processes, everything in one.
        threads: of the training engine, a device.
        agents_per_process: devices that share a process; 0 chooses. A device's peak memory can be told only where it
            has a process of its own.
        partition: of the training set.
        fleet: the devices, in groups.
        wire: how values cross the network.
        deadlines: how long to wait.

    The other tables are those of `Method`. ``training.seed`` is the experiment's, ``evaluation.data`` its test set, and
    ``cohorts.min_devices`` every device whose budget is large enough, so that the first cohort does not depend on which
    process starts first.
    """

    name: str = "emulation"
    data: Source = "digits"
    model: str = "digits_cnn"
    batch_size: int = 32
    optimiser: str = "sgd"
    seed: int = 0
    out: str = ""
    broker: BrokerKind = "auto"
    threads: int = 1
    agents_per_process: int = 0
    partition: Partition = msgspec.field(default_factory=Partition)
    fleet: tuple[Group, ...] = msgspec.field(default_factory=lambda: (Group(),))
    wire: Wire = msgspec.field(default_factory=Wire)
    deadlines: Deadlines = msgspec.field(default_factory=Deadlines)

    def __post_init__(self) -> None:
        check_name(self.name, "name")
        require(self.batch_size > 0, f"batch_size must be at least 1, and is {self.batch_size}")
        require(self.threads > 0, f"threads must be at least 1, and is {self.threads}")
        require(self.agents_per_process >= 0, "agents_per_process can't be negative; 0 chooses")
        require(self.devices > 0, "fleet: there must be at least one device")
        names = [group.name for group in self.fleet]
        require(len(set(names)) == len(names), f"fleet: two groups have the same name: {', '.join(names)}")
        require(self.training.seed == Training().seed, "training.seed: give it once, as seed at the top")
        require(self.evaluation.data == "", "evaluation.data: an emulation judges by the test set of its data")
        require(self.cohorts.min_devices == Cohorts().min_devices, "cohorts.min_devices: it is the fleet's size here")

    @property
    def devices(self) -> int:
        """Devices in all groups together."""
        return sum(group.devices for group in self.fleet)

    @property
    def folder(self) -> Path:
        """The folder where the run leaves everything."""
        return Path(self.out) if self.out else Path("runs") / self.name

    @property
    def devices_a_process(self) -> int:
        """How many devices share a process."""
        if self.agents_per_process:
            return self.agents_per_process
        return 1 if self.devices < _SHARED_FROM else math.ceil(self.devices / _PROCESSES)


def read_experiment(path: Path) -> Experiment:
    """The experiment of a file, its paths made to start where the command is run.

    Raises:
        ConfigError: there is no such file, or something in it can't be.
    """
    experiment = load_toml(path, Experiment)
    return msgspec.structs.replace(
        experiment,
        data=experiment.data if experiment.data in BUILT_IN else resolved_source(experiment.data, path.parent),
        model=str(path.parent / experiment.model) if ":" in experiment.model else experiment.model,
        out=str(path.parent / experiment.out) if experiment.out else "",
    )
