"""A whole federation in a loop: the project's algorithms, over devices that are gradients of small quadratics.

It holds float32 values as devices do, sends deltas, and lets them arrive in an order of its own.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lamina.coordinator.algorithms import fedavg, fedlama
from lamina.coordinator.algorithms.embracing import trainers
from lamina.coordinator.folds.aggregate import LayerFold
from lamina.coordinator.records.accounting import Ledger
from lamina.models.spec import BlockSpec, LayerSpec, ModelSpec, TensorSpec
from tests.twins import Course, Quadratics

Vectors = list[NDArray[np.float32]]


def model(sizes: Sequence[int], statistics: Sequence[int] | None = None) -> ModelSpec:
    """A model of which only sizes matter; it may be cut before every layer."""
    layers = tuple(
        LayerSpec(
            f"layer{index}",
            (TensorSpec("weight", (size,), "kernel"),),
            (TensorSpec("running_mean", (extra,), "statistic"),) if extra else (),
        )
        for index, (size, extra) in enumerate(zip(sizes, statistics or [0] * len(sizes), strict=True))
    )
    blocks = tuple(BlockSpec(layer.name, index, index + 1, (1,)) for index, layer in enumerate(layers))
    return ModelSpec("small", layers, blocks, tuple(range(len(layers))), classes=2)


@dataclass
class Run(Course):
    """A `Course` in float32, with what the ledger says of it, and what devices held.

    Attributes:
        vectors: u of every layer at the end.
        ledger: of all rounds.
        at_cycle_end: every active device's layers at the end of each cycle.
        frozen: for each round and device, the layers below its cut after local training, and the global ones.
    """

    vectors: Vectors = field(default_factory=list)
    ledger: Ledger = field(default_factory=Ledger)
    at_cycle_end: list[dict[str, Vectors]] = field(default_factory=list)
    frozen: list[tuple[Vectors, Vectors]] = field(default_factory=list)


def run(
    losses: Quadratics,
    start: Sequence[Sequence[float]],
    *,
    local_steps: int,
    phi: int,
    cycles: int,
    lr: float,
    cohort: Callable[[int], Sequence[str]],
    cuts: Mapping[str, int] | None = None,
    weights: Mapping[str, float] | None = None,
    arrival_seed: int = 0,
) -> Run:
    """Train for ``cycles`` cycles; ``phi=1`` is plain FedAvg."""
    spec, arrival = model([len(values) for values in start]), random.Random(arrival_seed)
    u: Vectors = [np.array(values, np.float32) for values in start]
    tau = fedavg.intervals(len(u), local_steps)
    d = [0.0] * len(u)
    course = Run(values=[])
    for cycle in range(cycles):
        active = {device: (cuts or {}).get(device, 0) for device in cohort(cycle)}
        local = {device: [vector.copy() for vector in u] for device in active}
        for round_ in range(cycle * phi, (cycle + 1) * phi):
            for device, cut in active.items():
                train(losses, device, local[device], cut, local_steps, lr)
                course.frozen.append((local[device][:cut], u[:cut]))
            step = (round_ + 1) * local_steps
            due = fedavg.due(tau, local_steps, step)
            for layer in due:
                fold = LayerFold(u[layer].size, u[layer].size)
                arriving = list(trainers(active, layer))
                arrival.shuffle(arriving)
                for device in arriving:
                    fold.add(device, local[device][layer] - u[layer], (weights or {}).get(device, 1.0))
                course.sent.append((step, layer, fold.count))
                if fold.count:
                    aggregate = fold.finish(u[layer])
                    u[layer] = aggregate.value
                    d[layer] = fedlama.discrepancy(aggregate.discrepancy_numerator, tau[layer], u[layer].size)
                for device in active:
                    local[device][layer] = u[layer].copy()
            course.ledger = course.ledger.after_round(spec, active, due)
        course.at_cycle_end.append(local)
        course.discrepancy.append(list(d))
        tau = fedlama.adjust(d, spec.sizes, local_steps, phi).intervals
        course.intervals.append(list(tau))
    course.vectors, course.values = u, [vector.tolist() for vector in u]
    return course


def train(losses: Quadratics, device: str, local: Vectors, cut: int, steps: int, lr: float) -> None:
    """``steps`` SGD steps on layers from ``cut`` on, in place."""
    for _ in range(steps):
        gradient = losses.gradient(device, [vector.tolist() for vector in local])
        for layer in range(cut, len(local)):
            local[layer] -= np.float32(lr) * np.array(gradient[layer], np.float32)
