"""Every task trains with three sizes of agents, and comes to the simulator's parameters and metrics.

The tolerance is that of `tests.test_simulator_and_federation`, which says why.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lamina.broker.brokers.starter import RunningBroker
from lamina.broker.link.memory import MemoryBroker
from lamina.broker.link.mqtt import mqtt_dial
from lamina.broker.link.seam import Dial
from lamina.coordinator.settings import Aggregation, Evaluation, Training
from lamina.emulation.experiment import Partition
from lamina.emulation.simulator.rows import layer_offsets, to_tensors
from lamina.emulation.simulator.run_context import RunContext, prepare_run
from lamina.emulation.simulator.setting import Setting, TierCounts
from lamina.models.build import build_bundle
from lamina.models.bundle import Bundle, read_bundle
from lamina.models.definition import load_definition
from tests import task_nets
from tests.simulated import simulated_records
from tests.test_simulator_and_federation import ATOL, PEAKS, federate

NETS = Path(task_nets.__file__)
QUICK = ("forecast", "dense", "own", "image_and_kind")
ALL = list(task_nets.DATA)
SEED, BATCH, ROUNDS = 3, 6, 4


def arrays(x: Any, y: Any, end: str = "") -> dict[str, Any]:
    """An archive's arrays."""
    inputs = {f"x{end}.{name}": part for name, part in x.items()} if isinstance(x, dict) else {f"x{end}": x}
    return inputs if y is None else {**inputs, f"y{end}": y}


def stored(folder: Path, name: str, count: int) -> Path:
    path = folder / f"{name}.npz"
    parts: dict[str, Any] = {}
    for part, seed in (("train", 1), ("test", 2)):
        x, y = task_nets.data(name, seed, count)
        parts |= arrays(x, y, f"_{part}")
    np.savez(path, **parts)
    return path


def context_of(folder: Path, name: str) -> RunContext:
    return prepare_run(
        Setting(
            data=str(stored(folder, name, 60)),
            model=f"{NETS}:{name}",
            seed=SEED,
            batch_size=BATCH,
            partition=Partition(kind="iid"),
            fleet=TierCounts(strong=1, moderate=1, weak=1),
            aggregation=Aggregation(phi=2),
            training=Training(rounds=ROUNDS, local_steps=3, lr=0.05, hyperparameters={"momentum": 0.9}),
            evaluation=Evaluation(every=2),
        )
    )


def bundle_of(folder: Path, name: str) -> Bundle:
    definition = load_definition(f"{NETS}:{name}", seed=SEED)

    def measured(bundle: Path, cut: int) -> float:
        """The peaks by which each size of device gets the cut that the simulator gives it."""
        cuts = read_bundle(bundle).manifest.spec.cuts
        middle = cuts[len(cuts) // 2]
        if cut == cuts[-1]:
            return PEAKS["weak"]
        return PEAKS["moderate"] if cut >= middle else PEAKS["strong"]

    build_bundle(definition, folder / "bundle", batch_size=BATCH, measure=measured, check=False)
    return read_bundle(folder / "bundle")


async def compared(name: str, folder: Path, dial: Dial) -> None:
    context, bundle = context_of(folder, name), bundle_of(folder, name)
    x, y = task_nets.data(name, 2, 60)
    test = folder / "test.npz"
    np.savez(test, **arrays(x, y))
    result, tensors = await federate(
        context, bundle, dial, folder, name=f"task-{name}", evaluation=Evaluation(data=str(test), every=2)
    )
    state, records = simulated_records(context)
    for tensor, value in to_tensors(context.spec, state.base).items():
        np.testing.assert_allclose(tensors[tensor], value, rtol=0, atol=ATOL, err_msg=tensor)
    assert np.abs(state.base - context.initial).max() > 1000 * ATOL
    first = layer_offsets(context.spec)[1]
    assert np.abs((state.base - context.initial)[:first]).max() > 0  # the strong device trained it
    if bundle.manifest.metrics:
        assert result.metrics
        assert result.metrics == pytest.approx(records[-1].metrics, rel=1e-3, abs=1e-4)
        lines = (folder / "coordinator" / "rounds.csv").read_text().splitlines()
        last = next(reversed(list(csv.DictReader(lines))))
        column = {"loss": "evaluation_loss"}
        judge = column.get(bundle.manifest.judge, bundle.manifest.judge)
        assert float(last[judge]) == pytest.approx(result.metrics[bundle.manifest.judge])
        assert {column.get(name, name) for name in result.metrics} <= last.keys()
    else:
        assert result.accuracy == records[-1].accuracy
        assert (folder / "coordinator" / "rounds.csv").read_text().splitlines()[0].endswith("round_s,waited_s")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.exhaustive]) for name in ALL]
)
async def test_a_task_trains_as_the_simulator_says(tmp_path: Path, name: str) -> None:
    await compared(name, tmp_path, MemoryBroker().dial)


@pytest.mark.broker
@pytest.mark.parametrize("name", ALL)
async def test_a_task_trains_over_mosquitto(tmp_path: Path, mosquitto: RunningBroker, name: str) -> None:
    await compared(name, tmp_path, mqtt_dial(mosquitto.address))
