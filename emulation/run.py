"""Makes a trained model and a report of an experiment: data, bundle, broker, fleet and coordinator, in turn."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from lamina.broker.brokers.starter import running_broker
from lamina.broker.link.address import BrokerAddress
from lamina.broker.link.memory import MemoryBroker
from lamina.broker.link.mqtt import mqtt_dial
from lamina.broker.link.seam import Dial
from lamina.coordinator.records.kept_model import as_trained
from lamina.coordinator.records.records import CycleRecord, RoundRecord, RunResult
from lamina.coordinator.records.store import Store
from lamina.coordinator.service.coordinator import Coordinator
from lamina.coordinator.settings import FederationSettings
from lamina.emulation.aggregators import aggregating, aggregating_here
from lamina.emulation.bundling import bundle_for
from lamina.emulation.datasets import load_dataset
from lamina.emulation.experiment import BrokerKind, Experiment
from lamina.emulation.fleet import running_fleet, share_out
from lamina.emulation.inline import inline_fleet
from lamina.emulation.layout import agent_settings, check_fit, federation_settings, share_samples, write_samples
from lamina.emulation.planning import PlannedDevice, plan_devices
from lamina.emulation.progress import ProgressDisplay
from lamina.emulation.report import Summary, summarise, write_summary
from lamina.models.bundle import Bundle
from lamina.models.errors import LaminaError
from lamina.models.storage.folder_lock import held


class RunningDevices(Protocol):
    """Running devices: in processes of their own, or in this one.

    Attributes:
        failures: what came to a bad end so far, one line each.
        good_ends: how many came to a good one.
    """

    failures: list[str]

    @property
    def good_ends(self) -> int: ...  # noqa: D102 - see Attributes

    async def ended(self, within_s: float | None = None) -> None:
        """Wait until every device has ended by itself, for so long at most."""


@dataclass(frozen=True)
class BrokerEndpoint:
    """The broker, or the memory, that a run's messages go through.

    Attributes:
        kind: ``mosquitto``, ``amqtt`` or ``memory``.
        address: where it listens; means nothing in memory.
        dial: opens a link to it from this process.
    """

    kind: str
    address: BrokerAddress
    dial: Dial


@dataclass(frozen=True)
class PreparedRun:
    """An experiment whose files are in place.

    Attributes:
        experiment: as asked for.
        bundle: of its model.
        devices: its fleet.
        samples: folder of the devices' samples.
    """

    experiment: Experiment
    bundle: Bundle
    devices: list[PlannedDevice]
    samples: Path


@dataclass(frozen=True)
class EmulationResult:
    """A run that has ended.

    Attributes:
        result: the coordinator's.
        rounds: a record each.
        cycles: a record each adjustment of the intervals.
        failures: devices that came to a bad end, one line each.
    """

    result: RunResult
    rounds: list[RoundRecord]
    cycles: list[CycleRecord]
    failures: list[str]


def emulate(experiment: Experiment, progress: ProgressDisplay) -> Summary:
    """Run an experiment to its end; all that it leaves is in ``experiment.folder``.

    Args:
        experiment: what to run.
        progress: is told how far it is.

    Raises:
        ConfigError: the experiment can't be run as asked.
        LaminaError: the run came to no good end.
    """
    began = time.monotonic()
    with held(experiment.folder, "lamina emulate"):
        prepared = prepare(experiment, progress.say)
        with open_broker(experiment.broker) as endpoint:
            progress.say(f"starting {len(prepared.devices)} devices; broker: {endpoint.kind}")
            outcome = asyncio.run(train(prepared, endpoint, progress))
        return _report(prepared, endpoint.kind, outcome, time.monotonic() - began)


def prepare(experiment: Experiment, say: Callable[[str], None] = lambda text: None) -> PreparedRun:
    """Put the bundle and every device's samples in place.

    Raises:
        ConfigError: data, model, partition and fleet do not go together.
    """
    samples = experiment.folder / "devices"
    dataset = load_dataset(experiment.data, seed=experiment.seed)
    parts = share_samples(experiment, dataset)
    bundle = as_trained(bundle_for(experiment, experiment.folder / "bundles", say), experiment)
    check_fit(dataset, bundle.manifest.spec)
    devices = plan_devices(experiment, bundle.manifest)
    write_samples(samples, dataset, [device.name for device in devices], parts)
    return PreparedRun(experiment, bundle, devices, samples)


@contextmanager
def open_broker(kind: BrokerKind) -> Iterator[BrokerEndpoint]:
    """A broker of a kind, for as long as the context is open; it begins empty."""
    if kind == "memory":
        yield BrokerEndpoint(kind, BrokerAddress(), MemoryBroker().dial)
        return
    with running_broker(kind) as broker:
        yield BrokerEndpoint(broker.kind, broker.address, mqtt_dial(broker.address))


async def train(prepared: PreparedRun, endpoint: BrokerEndpoint, progress: ProgressDisplay) -> EmulationResult:
    """Run coordinator and devices until the federation is finished.

    Raises:
        LaminaError: too few devices came, the broker went away, or every device ended early.
    """
    experiment, bundle = prepared.experiment, prepared.bundle
    rounds: list[RoundRecord] = []
    cycles: list[CycleRecord] = []

    def observe(record: RoundRecord) -> None:
        rounds.append(record)
        progress.observe(record)

    settings = federation_settings(experiment, prepared.devices, prepared.samples, bundle, endpoint.address)
    Store(experiment.folder).clear()  # an emulation starts over, always
    coordinator = Coordinator(settings, bundle, endpoint.dial, observe=observe, observe_cycle=cycles.append)
    progress.begin(len(bundle.manifest.spec.layers), experiment.rounds, bundle.manifest.judge)
    async with _aggregators(settings, endpoint, progress.warn), _fleet(prepared, endpoint, progress.warn) as devices:
        result = await _unless_deserted(coordinator, devices)
    return EmulationResult(result, rounds, cycles, devices.failures)


def _aggregators(
    settings: FederationSettings, endpoint: BrokerEndpoint, on_failure: Callable[[str], None]
) -> AbstractAsyncContextManager[None]:
    name, count = settings.federation, settings.aggregation.aggregators
    if endpoint.kind == "memory":
        return aggregating_here(name, count, endpoint.dial)
    return aggregating(name, count, endpoint.address, Path(settings.folder) / "logs", on_failure)


def _fleet(
    prepared: PreparedRun, endpoint: BrokerEndpoint, on_failure: Callable[[str], None]
) -> AbstractAsyncContextManager[RunningDevices]:
    experiment = prepared.experiment
    agents = agent_settings(experiment, prepared.devices, prepared.samples, endpoint.address)
    if endpoint.kind == "memory":
        return inline_fleet(agents, endpoint.dial, on_failure=on_failure)
    plans = share_out(agents, experiment.devices_a_process)
    return running_fleet(plans, experiment.folder / "logs", threads=experiment.threads, on_failure=on_failure)


async def _unless_deserted(coordinator: Coordinator, devices: RunningDevices) -> RunResult:
    """The coordinator's result; it is not waited for when every device has gone."""
    training = asyncio.create_task(coordinator.run(), name="coordinator")
    gone = asyncio.create_task(devices.ended(), name="devices gone")
    try:
        await asyncio.wait({training, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not training.done() and not devices.good_ends:
            raise LaminaError(f"every device ended before the training did: {'; '.join(devices.failures) or 'why?'}")
        return await training  # a device that ends well was told that it is over: only records remain
    finally:
        gone.cancel()
        training.cancel()
        await asyncio.wait({training, gone})


def _report(prepared: PreparedRun, broker: str, outcome: EmulationResult, total_s: float) -> Summary:
    from lamina.emulation.plots import draw_all  # matplotlib takes a second to import: not before training

    experiment, manifest = prepared.experiment, prepared.bundle.manifest
    spec, judge = manifest.spec, manifest.judge
    summary = summarise(
        *(experiment, outcome.result, spec),
        broker=broker,
        failures=outcome.failures,
        total_s=total_s,
        judge=judge,
    )
    write_summary(experiment.folder / "summary.json", summary)
    names = [layer.name for layer in spec.layers]
    draw_all(experiment.folder / "plots", outcome.rounds, outcome.cycles, names, experiment.training.local_steps, judge)
    return summary
