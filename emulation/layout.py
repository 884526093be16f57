"""Writes what each device finds when it starts: its samples in a file, and its settings."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from lamina.broker.link.address import BrokerAddress
from lamina.coordinator.settings import FederationSettings
from lamina.edge_agent.settings import AgentSettings
from lamina.emulation import partition
from lamina.emulation.datasets import Dataset
from lamina.emulation.experiment import Experiment
from lamina.emulation.planning import PlannedDevice, admitted
from lamina.emulation.readers.raw import Array, inputs_of
from lamina.models.arrays import Indices
from lamina.models.bundle import Bundle
from lamina.models.errors import ConfigError, DataError
from lamina.models.samples import LabelledSamples
from lamina.models.sources import CLASS_NAMES, STRETCHES
from lamina.models.spec import ModelSpec
from lamina.models.storage.replace import replace_file

_PARTITION_STREAM = 1  # of the random numbers that an experiment's seed stands for; the data's split is another
_WAIT_S = 120.0  # for all devices to start, where the experiment does not say


def check_fit(dataset: Dataset, spec: ModelSpec) -> None:
    """See that the model can learn the data.

    Raises:
        DataError: the shape, the type, or the number of classes says that it can't.
    """
    try:
        LabelledSamples(inputs_of(dataset.x_train), dataset.y_train, dataset.name).check(spec)
        if spec.wanted.ignored is None and 0 < spec.wanted.classes < dataset.classes:
            raise DataError(
                f"{dataset.name}: its labels reach {dataset.classes - 1}, and model {spec.name} has the classes "
                f"0 to {spec.wanted.classes - 1}"
            )
    except DataError as error:
        raise DataError(f"{error}; or choose another --model or --data") from error


def share_samples(experiment: Experiment, dataset: Dataset) -> list[Indices]:
    """The training samples of every device, by the experiment's partition and seed.

    Raises:
        DataError: the partition is impossible with these data and so many devices.
    """
    rng = np.random.default_rng((experiment.seed, _PARTITION_STREAM))
    settings, devices = experiment.partition, experiment.devices
    match settings.kind:
        case "iid":
            return partition.iid(len(dataset.x_train), devices, rng)
        case "dirichlet":
            return partition.dirichlet(
                _labels(dataset, "dirichlet"), devices, settings.alpha, rng, least=settings.least
            )
        case "shards":
            return partition.shards(_labels(dataset, "shards"), devices, settings.shards, rng)
        case "natural":
            if dataset.ids is None:
                raise DataError(f"{dataset.name} does not say whose its samples are: choose another partition.kind")
            return partition.natural(dataset.ids, devices, rng)
        case "time":
            return partition.time(len(dataset.x_train), devices)
        case "quantity":
            return partition.quantity(len(dataset.x_train), devices, settings.spread, rng)


def _labels(dataset: Dataset, kind: str) -> Array:
    if dataset.labels is None:
        raise DataError(
            f"{dataset.name}: partition.kind = {kind!r} goes by one class a sample, and these samples have none: "
            "choose 'iid', 'time', 'quantity' or 'natural'"
        )
    return dataset.labels


def write_samples(folder: Path, dataset: Dataset, names: Sequence[str], parts: Sequence[Indices]) -> None:
    """Put ``{name}.npz`` for every device into ``folder``, and ``test.npz`` next to it: ``x`` and ``y`` each."""
    for name, part in zip(names, parts, strict=True):
        own = dataset.part(part)
        _write(folder / f"{name}.npz", own.x_train, own.y_train, dataset.class_names, own.stretches)
    _write(test_file(folder), dataset.x_test, dataset.y_test, dataset.class_names)


def _write(path: Path, x: Array, y: Array | None, class_names: Sequence[str], stretches: Array | None = None) -> None:
    inputs = inputs_of(x)
    arrays = {f"x.{name}": part for name, part in inputs.items()} if isinstance(inputs, dict) else {"x": inputs}
    if y is not None:
        arrays["y"] = y
    if stretches is not None:
        arrays[STRETCHES] = stretches
    if class_names:
        arrays[CLASS_NAMES] = np.array(class_names)
    content = io.BytesIO()
    np.savez(content, **arrays)  # type: ignore[arg-type]  # no array is called allow_pickle
    replace_file(path, content.getbuffer())


def test_file(folder: Path) -> Path:
    """The held-out samples that go with the devices' files in ``folder``."""
    return folder.parent / "test.npz"


def agent_settings(
    experiment: Experiment, devices: Sequence[PlannedDevice], folder: Path, address: BrokerAddress
) -> list[AgentSettings]:
    """Settings of every device, whose samples are in ``folder``."""
    return [
        AgentSettings(
            federation=experiment.name,
            device=device.name,
            data=str((folder / f"{device.name}.npz").resolve()),
            broker=address,
            budget_mib=device.budget_mib,
            savings=device.savings,
            threads=experiment.threads,
            tuning=False,  # the choice would vary with what else runs, and with it the last bits
            folder=str((folder / device.name).resolve()),
            keep_state=False,  # nothing restarts here, and a write a round would cost what it saves
            broker_s=experiment.deadlines.broker_s,
            once=True,
        )
        for device in devices
    ]


def federation_settings(
    experiment: Experiment, devices: Sequence[PlannedDevice], folder: Path, bundle: Bundle, address: BrokerAddress
) -> FederationSettings:
    """The coordinator's settings; it waits for every device that it will not refuse.

    Raises:
        ConfigError: it would refuse them all.
    """
    expected = admitted(devices, bundle.manifest)
    if not expected:
        least = min(sub_model.peak_mib for sub_model in bundle.manifest.sub_models)
        raise ConfigError(f"fleet: no device's budget holds even the smallest sub-model, which takes {least:.1f} MiB")
    replace, cohorts = msgspec.structs.replace, experiment.cohorts
    return FederationSettings(
        federation=experiment.name,
        bundle=str(bundle.folder),
        folder=str(experiment.folder),
        broker=address,
        training=replace(experiment.training, seed=experiment.seed),
        local=experiment.local,
        cohorts=replace(cohorts, min_devices=expected, max_devices=len(devices), wait_s=cohorts.wait_s or _WAIT_S),
        aggregation=experiment.aggregation,
        server=experiment.server,
        wire=experiment.wire,
        deadlines=experiment.deadlines,
        evaluation=replace(experiment.evaluation, data=str(test_file(folder))),
    )
