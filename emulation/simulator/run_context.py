"""A run's context: the data of every device, the network, and what each device trains of it."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import NDArray

from lamina.coordinator.algorithms.selection import cohort_size
from lamina.emulation.datasets import Dataset, load_dataset
from lamina.emulation.experiment import Experiment, Group
from lamina.emulation.layout import check_fit, share_samples
from lamina.emulation.readers.raw import Array, inputs_of
from lamina.emulation.simulator.backends import processes
from lamina.emulation.simulator.backends.run_arrays import RunArrays
from lamina.emulation.simulator.backends.tasks import TaskSettings, Variant
from lamina.emulation.simulator.holdout import PER_DEVICE, VALIDATION, DeviceSplits, set_aside, without_public
from lamina.emulation.simulator.outline import Outline
from lamina.emulation.simulator.rows import Row, layer_offsets, runs
from lamina.emulation.simulator.setting import Setting
from lamina.models.arrays import Indices
from lamina.models.errors import ConfigError
from lamina.models.held_out import divided
from lamina.models.samples import LabelledSamples
from lamina.models.spec import ModelSpec
from lamina.models.targets import as_taken


@dataclass(frozen=True, eq=False)
class RunContext:
    """See the module.

    Attributes:
        setting: of the run.
        common: what all tasks share; its spec has the setting's granularity.
        data: x_train, y_train, x_test, y_test; after the samples that judge the model for all, the last two have
            those that judge it for one device.
        initial: the state to start from.
        variants: of every device, an index into the common variants.
        relaxable: layers whose interval may grow; ``None``: all.
        slots: active devices of a cycle.
        own: where the samples of each device stand that judge the model for it; empty without federated evaluation.
        public: samples that everybody has, without labels, (P, *input_shape).
        covered: which elements of a row the narrow variants hold; the others hold all.
        personal: layers that every device trains for itself, ascending.
    """

    setting: Setting
    common: TaskSettings
    data: tuple[Array, Array, Array, Array]
    initial: Row
    variants: Mapping[str, int]
    relaxable: tuple[int, ...] | None
    slots: int
    own: Mapping[str, range] = field(default_factory=dict)
    public: Array = field(default_factory=lambda: np.zeros(0, np.float32))
    covered: Mapping[Variant, NDArray[np.bool_]] = field(default_factory=dict)
    personal: tuple[int, ...] = ()

    def on(self, arrays: RunArrays) -> RunContext:
        """The same, with the data where they lie in a run's arrays; what they were read into can be let go."""
        return replace(self, data=(arrays.x_train, arrays.y_train, arrays.x_test, arrays.y_test))

    @property
    def judged(self) -> int:
        """How many samples judge the model for all."""
        return len(self.data[3]) - sum(map(len, self.own.values()))

    @property
    def spec(self) -> ModelSpec:
        """The network's spec, in the setting's granularity."""
        return self.common.spec

    @property
    def weights(self) -> dict[str, float]:
        """The weight of every device in an average."""
        by_examples = self.setting.aggregation.weighting == "num_examples"
        return {name: float(len(held)) if by_examples else 1.0 for name, held in self.common.held.items()}

    @property
    def cuts(self) -> dict[str, int]:
        """First layer that each device trains; 0 where it trains a narrow network."""
        return {name: self.common.variants[index].cut for name, index in self.variants.items()}


def prepare_run(setting: Setting, device: str = "cpu", *, apart: bool = False) -> RunContext:
    """Load data and network, and give every device its share.

    Args:
        setting: of the run.
        device: torch's name of where to compute.
        apart: keep torch out of this process (see `outline`).

    Raises:
        ConfigError: data, network, partition and fleet do not go together.
        ModelError: the network can't be loaded, or traced.
    """
    holdout, seed = setting.holdout, setting.seed
    dataset, public = without_public(load_dataset(setting.data, seed=seed), holdout.public, seed)
    drawn = outline(setting, apart=apart)
    spec, variants = drawn.spec, drawn.variants
    check_fit(dataset, spec)
    if setting.exchange == "logits" and drawn.metrics:
        raise ConfigError("exchange = 'logits' distils logits of one label a sample: the network has another task")
    names = setting.names
    # what is over is held by absent devices
    shares = dict(zip(setting.holders, _shares(setting, dataset), strict=True))
    validation = set_aside(shares, holdout.validation, seed, VALIDATION)
    own = (
        _kept(dataset, validation.trained, setting.evaluation.devices)
        if setting.evaluation.devices
        else set_aside(validation.trained, holdout.own, seed, PER_DEVICE)
    )
    x_train, x_test = (_entering(x, spec) for x in (dataset.x_train, dataset.x_test))
    y_train, y_test = (_taken(x, y, spec) for x, y in ((x_train, dataset.y_train), (x_test, dataset.y_test)))
    x_judge, y_judge = _judging((x_train, y_train, x_test, y_test), validation.aside.values())
    common = _task_settings(setting, drawn, {name: own.trained[name] for name in names}, device)
    if setting.local.augment and len(spec.input_shape) != 3:
        raise ConfigError(f"local.augment crops images, and samples have the shape {spec.input_shape}")
    return RunContext(
        setting,
        common,
        (
            *(x_train, y_train),
            np.concatenate([x_judge, *(x_train[indices] for indices in own.aside.values())]),
            np.concatenate([y_judge, *(y_train[indices] for indices in own.aside.values())]),
        ),
        drawn.initial,
        {name: common.variants.index(variants[tier]) for name, tier in zip(names, setting.fleet.tiers, strict=True)},
        drawn.relaxable,
        cohort_size(len(names), setting.cohorts.active),
        _ranges(own.aside, len(y_judge)),
        _entering(public, spec),
        drawn.covered,
        drawn.personal,
    )


def _task_settings(setting: Setting, drawn: Outline, held: dict[str, Indices], device: str) -> TaskSettings:
    """Return what all tasks of a run have in common; ``held`` are the samples that each device trains on."""
    return TaskSettings(
        model=setting.model,
        spec=drawn.spec,
        seed=setting.seed,
        batch_size=setting.batch_size,
        momentum=setting.training.hyperparameters.get("momentum", 0.9),
        weight_decay=setting.training.hyperparameters.get("weight_decay", 0.0),
        mu=setting.local.hyperparameters.get("mu", 0.0),
        augment=setting.local.augment,
        variants=tuple(dict.fromkeys((Variant(), *drawn.variants.values()))),
        held=held,
        device=device,
        metrics=drawn.metrics,
        judge=drawn.judge,
        lower_is_better=any(one.name == drawn.judge and one.better == "lower" for one in drawn.metrics),
        personal=runs(layer_offsets(drawn.spec), drawn.personal),
    )


def outline(setting: Setting, *, apart: bool) -> Outline:
    """Outline a setting's network. To load torch, and to trace a network, costs a process some 330 MiB, and one that
    conducts a pool needs neither afterwards: there a process of its own finds out, and its memory goes with it.

    Args:
        setting: its model, granularity, fleet and reduction count.
        apart: keep torch out of this process, if it isn't there already.

    Raises:
        ConfigError: the network offers no sub-model for a tier that the fleet has.
        ModelError: it can't be loaded, or traced.
    """
    if apart and "torch" not in sys.modules:
        return processes.apart(_outlined, setting)
    return _outlined(setting)


def _outlined(setting: Setting) -> Outline:
    from lamina.emulation.simulator.outlining import outlined  # with torch

    return outlined(setting)


def _entering(x: Array, spec: ModelSpec) -> Array:
    """Samples as the network takes them: rows, where it takes several inputs."""
    if not spec.named_inputs or not len(x):
        return x
    return LabelledSamples(inputs_of(x), None).inputs(np.arange(len(x)), spec)


def _taken(x: Array, y: Array | None, spec: ModelSpec) -> Array:
    """Targets as the task takes them; check_fit has passed."""
    target = spec.wanted
    return as_taken(target, x if target.is_input or y is None else y)


def _judging(data: tuple[Array, Array, Array, Array], validation: Collection[Indices]) -> tuple[Array, Array]:
    """The samples that judge the model for all: the test set, or the validation samples of all devices together."""
    x_train, y_train, x_test, y_test = data
    if not validation:
        return x_test, y_test
    chosen = np.concatenate(list(validation))
    return x_train[chosen], y_train[chosen]


def _kept(dataset: Dataset, held: Mapping[str, Indices], share: float) -> DeviceSplits:
    """Every device's samples, divided as its agent would."""
    parts = {name: divided(dataset.samples_of(indices), share) for name, indices in held.items()}
    return DeviceSplits(
        {name: held[name][part.trained] for name, part in parts.items()},
        {name: held[name][part.kept] for name, part in parts.items() if len(part.kept)},
    )


def _ranges(parts: Mapping[str, Indices], start: int) -> dict[str, range]:
    """Return where each part stands, one after another from ``start`` on."""
    stops = list(accumulate((len(indices) for indices in parts.values()), initial=start))
    return {name: range(*ends) for name, ends in zip(parts, pairwise(stops), strict=True)}


def _shares(setting: Setting, dataset: Dataset) -> list[Indices]:
    fleet = (Group(devices=setting.fleet.holders),)
    return share_samples(Experiment(seed=setting.seed, partition=setting.partition, fleet=fleet), dataset)
