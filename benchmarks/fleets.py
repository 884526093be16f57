"""Measures a federation: the real coordinator in this process, agents in processes of their own, and a clock."""

from __future__ import annotations

import asyncio
import os
import resource
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

from lamina.broker.brokers.starter import RunningBroker
from lamina.broker.link.mqtt import mqtt_dial
from lamina.coordinator.records.records import RoundRecord, RunResult
from lamina.coordinator.service.coordinator import Coordinator
from lamina.coordinator.settings import Aggregation, Cohorts, Deadlines, FederationSettings, Training, Wire
from lamina.edge_agent.settings import AgentSettings
from lamina.emulation.fleet import PROGRAM, running_fleet, share_out
from lamina.models.build import build_bundle
from lamina.models.bundle import Bundle, read_bundle
from lamina.models.definition import load_definition

_TRIVIAL = """
from torch import nn


def build():
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    module.input_shape, module.classes = (1, 8, 8), 10
    return module
"""
WARM_UP_ROUNDS = 5
_WAIT_S = 300.0
_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Asked:
    """A federation to be measured.

    Attributes:
        name: of the federation.
        bundle: what is trained.
        data: the samples of every device, as in `AgentSettings.data`.
        devices: how many.
        rounds: how many, those included that warm it up.
        a_process: devices that share a process.
        program: that hosts them.
        warm_up: rounds that do not count.
        wire: how values cross.
        wait_s: for all devices to come.
    """

    name: str
    bundle: Bundle
    data: str
    devices: int
    rounds: int
    a_process: int = 1
    program: Sequence[str] = PROGRAM
    warm_up: int = WARM_UP_ROUNDS
    wire: Wire = field(default_factory=Wire)
    wait_s: float = _WAIT_S


@dataclass(frozen=True)
class Measured:
    """What a federation took, in the rounds that count.

    Attributes:
        round_s: wall time of each, from one round's end to the next one's.
        coordinator_s: processor time of the coordinator's process, a round.
        broker_s: processor time of the broker's process, a round.
        updates: layer updates folded, a round.
        complete: share of the expected updates that were folded.
        uplink_bytes: payload bytes of the updates, a round.
        peak_mib: the coordinator's process, largest so far.
        broker_mib: the broker's process, at the end.
        coming_s: from the start of the devices to the end of the first round.
    """

    round_s: list[float]
    coordinator_s: float
    broker_s: float
    updates: float
    complete: float
    uplink_bytes: float
    peak_mib: float
    broker_mib: float
    coming_s: float

    @property
    def median_s(self) -> float:
        """The median of the rounds' times, in seconds."""
        return statistics.median(self.round_s)


@dataclass(frozen=True)
class _Moment:
    at: float
    coordinator_s: float
    broker_s: float
    record: RoundRecord


def trivial_bundle(folder: Path) -> Bundle:
    """One dense layer of 650 parameters."""
    model = folder / "trivial.py"
    model.write_text(_TRIVIAL)
    return _bundle(f"{model}:build", folder / "trivial", batch_size=1)


def resnet_bundle(folder: Path) -> Bundle:
    """ResNet20 and its statistics; whole only."""
    return _bundle("resnet20", folder / "resnet20", batch_size=32)


def federate(asked: Asked, broker: RunningBroker, folder: Path) -> Measured:
    """Run a federation to its end."""
    return asyncio.run(_federate(asked, broker, folder / asked.name))


async def _federate(asked: Asked, broker: RunningBroker, folder: Path) -> Measured:
    moments: list[_Moment] = []

    def note(record: RoundRecord) -> None:
        moments.append(_Moment(time.perf_counter(), time.process_time(), processor_s(broker.pid), record))

    coordinator = Coordinator(_settings(asked, folder), asked.bundle, mqtt_dial(broker.address), observe=note)
    plans = share_out(_agents(asked, broker, folder), asked.a_process)
    began = time.perf_counter()
    async with running_fleet(plans, folder / "logs", program=asked.program) as fleet:
        result: RunResult = await coordinator.run()
        broker_mib = resident_mib(broker.pid)
    if fleet.failures:
        raise RuntimeError("; ".join(fleet.failures))
    assert result.rounds == asked.rounds
    return _measured(moments, asked.warm_up, began, broker_mib)


def _measured(moments: Sequence[_Moment], warm_up: int, began: float, broker_mib: float) -> Measured:
    counted = moments[warm_up - 1 :]
    first, last, rounds = counted[0], counted[-1], len(counted) - 1
    records = [moment.record for moment in counted[1:]]
    return Measured(
        round_s=[later.at - earlier.at for earlier, later in pairwise(counted)],
        coordinator_s=(last.coordinator_s - first.coordinator_s) / rounds,
        broker_s=(last.broker_s - first.broker_s) / rounds,
        updates=statistics.mean(record.updates for record in records),
        complete=sum(record.updates for record in records) / sum(record.expected for record in records),
        uplink_bytes=(last.record.uplink_bytes - first.record.uplink_bytes) / rounds,
        peak_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        broker_mib=broker_mib,
        coming_s=moments[0].at - began,
    )


def _settings(asked: Asked, folder: Path) -> FederationSettings:
    return FederationSettings(
        federation=asked.name,
        bundle=str(asked.bundle.folder),
        folder=str(folder / "coordinator"),
        training=Training(rounds=asked.rounds, local_steps=1, lr=0.01),
        cohorts=Cohorts(min_devices=asked.devices, wait_s=asked.wait_s),
        aggregation=Aggregation(phi=1),
        wire=asked.wire,
        deadlines=Deadlines(round_s=_WAIT_S),
    )


def _agents(asked: Asked, broker: RunningBroker, folder: Path) -> list[AgentSettings]:
    return [
        AgentSettings(
            federation=asked.name,
            device=f"device-{index:04}",
            data=asked.data,
            broker=broker.address,
            budget_mib=1024.0,
            threads=1,
            folder=str(folder / f"device-{index:04}"),
            keep_state=False,
            broker_s=_WAIT_S,
            once=True,
        )
        for index in range(asked.devices)
    ]


def _bundle(model: str, folder: Path, batch_size: int) -> Bundle:
    build_bundle(replace(load_definition(model), cuts=()), folder, batch_size=batch_size)  # one cut: built sooner
    return read_bundle(folder)


def processor_s(pid: int) -> float:
    """Processor time that a process has taken, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_A_SECOND


def resident_mib(pid: int) -> float:
    """Memory that a process holds."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise ProcessLookupError(pid)
