"""How near a federation of each built-in task comes to training on the pooled data, and what it gains each device.

    python -m benchmarks.tasks [--quick] [--json FILE]

Eight devices hold unlike data: classes in proportions from Dirichlet(0.3), or whole owners. The federation (FedLAMA,
phi = 2) makes as many local steps on each device as the pooled training makes on all data, and as each device makes on
its own data alone. All begin at the same values, and are judged by the same test set; a figure is the mean over seeds.
The figure is what the task is judged by, or the error that says most, as the table names it.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import numpy as np

from benchmarks import task_networks
from benchmarks.reporting import Figures, Row, main
from benchmarks.task_networks import SOURCES, TASKS, Array, Data
from lamina.coordinator.settings import Aggregation, Cohorts, Evaluation, Training
from lamina.emulation.datasets import split_off
from lamina.emulation.experiment import Partition
from lamina.emulation.simulator.backends.loop import looping, one_thread
from lamina.emulation.simulator.backends.tasks import EvaluationTask, TrainingTask
from lamina.emulation.simulator.run_context import RunContext, prepare_run
from lamina.emulation.simulator.setting import Setting, TierCounts
from lamina.emulation.simulator.simulation import Simulation
from lamina.models.metrics import ACCURACY, finished

NETWORKS = Path(task_networks.__file__)
DEVICES, BATCH, STEPS, MOMENTUM = 8, 32, 5, 0.9
SHOWN = {"multi_label": "f1", "regression": "mae", "forecasting": "mae", "quantiles": "mae", "reconstruction": "mse"}
RATES = {
    "single_label": 0.1,
    "binary": 0.05,
    "multi_label": 0.2,
    "forecasting": 0.1,
    "quantiles": 0.1,
    "reconstruction": 1.0,
    "dense": 0.5,
    "tokens": 0.5,
}
RATE = 0.02
POOLED = "pooled"


class Found(NamedTuple):
    """What a task came to, by one seed: the figure's name, and its value."""

    metric: str
    federation: float
    pooled: float
    alone: float


def measure(quick: bool) -> tuple[Figures, list[Row]]:
    """The figures and their table."""
    seeds, rounds = (range(1), 8) if quick else (range(3), 120)
    figures: Figures = {}
    table: list[Row] = [("task", "data", "figure", "federation", "pooled", "alone")]
    with tempfile.TemporaryDirectory() as folder:
        for name in TASKS:
            found = [compared(name, seed, rounds, Path(folder)) for seed in seeds]
            means = {way: fmean(getattr(one, way) for one in found) for way in ("federation", "pooled", "alone")}
            figures |= {f"{name}_{way}": value for way, value in means.items()}
            table.append((name, SOURCES[name], found[0].metric, *(f"{value:.3f}" for value in means.values())))
    return figures, table


def compared(name: str, seed: int, rounds: int, folder: Path) -> Found:
    """Train a task in the three ways."""
    context = prepare_run(setting_of(name, seed, rounds, folder))
    metric = SHOWN.get(name, context.common.judge)
    everything = np.sort(np.concatenate(list(context.common.held.values())))
    held = {**context.common.held, POOLED: everything}
    federation = federated(context, metric)
    single = lone(context, held, metric)
    return Found(metric, federation, single[POOLED], fmean(value for who, value in single.items() if who != POOLED))


def setting_of(name: str, seed: int, rounds: int, folder: Path) -> Setting:
    """The federation, whose data are put into a file."""
    data = TASKS[name]()
    path = folder / f"{name}-{seed}.npz"
    np.savez(path, **_parts(data, seed))  # type: ignore[arg-type]  # no array is called allow_pickle
    owners = data.owners is not None and len(np.unique(data.owners)) >= DEVICES
    by_class = data.y is not None and data.y.ndim == 1 and data.y.dtype.kind == "i"
    kind = "natural" if owners and not by_class else "dirichlet"
    return Setting(
        data=str(path),
        model=f"{NETWORKS}:{name}",
        batch_size=BATCH,
        seed=seed,
        fleet=TierCounts(strong=DEVICES),
        partition=Partition(kind=kind, alpha=0.3),  # type: ignore[arg-type]  # one of the kinds
        cohorts=Cohorts(active=1.0),
        training=Training(
            rounds=rounds, local_steps=STEPS, lr=RATES.get(name, RATE), hyperparameters={"momentum": MOMENTUM}
        ),
        aggregation=Aggregation(phi=2, weighting="num_examples"),
        evaluation=Evaluation(every=rounds),
    )


def federated(context: RunContext, metric: str) -> float:
    """What the averaged model comes to at the end."""
    with looping(context.common, context.slots, context.data) as backend:
        simulation = Simulation(context, backend)
        while not simulation.finished:
            record, _ = simulation.advance()
        return record.figures[metric]


def lone(context: RunContext, held: dict[str, Array], metric: str) -> dict[str, float]:
    """What training alone comes to, for each owner of samples, in as many steps as a device makes in the federation."""
    common, training = context.common, context.setting.training
    alone = replace(common, held=held)
    steps = context.setting.rounds * training.local_steps
    found: dict[str, float] = {}
    with looping(alone, 1, context.data) as backend, one_thread():
        size = backend.arrays.base.size
        for name in held:
            backend.arrays.base[:] = context.initial
            task = TrainingTask(0, name, 0, 0, steps, context.setting.lr(0), takes=((0, size),), forgets=True)
            backend.carry_out([task])
            backend.arrays.base[:] = backend.arrays.rows[0]
            [result] = backend.carry_out([EvaluationTask(0, context.judged)])
            if common.metrics:
                found[name] = finished(common.metrics, np.array(result.sums), np.array(result.counts))[metric]
            else:
                assert metric == ACCURACY
                found[name] = result.right / result.samples
    return found


def _parts(data: Data, seed: int) -> dict[str, Array]:
    """The arrays of an archive, a fifth of each owner or class held out."""
    labels = data.owners if data.owners is not None else data.y
    assert labels is not None
    stay, out = split_off(labels, 0.2, seed)
    parts = {"x_train": data.x[stay], "x_test": data.x[out]}
    parts |= {} if data.y is None else {"y_train": data.y[stay], "y_test": data.y[out]}
    return parts if data.owners is None else {**parts, "ids": data.owners[stay]}


if __name__ == "__main__":
    main("How near does a federation of each task come to training on the pooled data?", measure)
