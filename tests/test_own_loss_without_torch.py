"""A loss and a metric of the user's, in a file of theirs, on a board that has neither torch nor onnx."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lamina.broker.brokers.starter import RunningBroker
from lamina.broker.link.mqtt import mqtt_dial
from lamina.coordinator.service.coordinator import Coordinator
from lamina.coordinator.settings import Aggregation, Cohorts, Deadlines, Evaluation, FederationSettings, Training
from lamina.models.build import build_bundle
from lamina.models.bundle import read_bundle
from lamina.models.definition import load_definition
from lamina.models.held_out import divided
from lamina.models.samples import LabelledSamples
from tests.test_examples_of_data import loaded
from tests.test_simulator_and_federation import PATIENCE_S

FILE = Path(__file__).parent.parent / "examples" / "own_loss" / "model.py"

BOARD = """
import importlib.abc, sys

class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "onnx"):
            raise ImportError(f"a board has no {name}")

sys.meta_path.insert(0, Blocked())
from lamina.edge_agent.cli import main
status = main(sys.argv[1:])
assert not {"torch", "onnx"} & {name.split(".")[0] for name in sys.modules}
sys.exit(status)
"""


def data(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((count, 10)).astype(np.float32)
    return x, (x[:, 0] + 0.5 * x[:, 1] + 0.3 * rng.standard_normal(count)).astype(np.float32)


def stored(path: Path, x: np.ndarray, y: np.ndarray) -> None:
    np.savez(path, x=x, y=y)


@pytest.mark.broker
async def test_boards_without_torch_train_by_it_and_judge_by_it(tmp_path: Path, mosquitto: RunningBroker) -> None:
    build_bundle(load_definition(f"{FILE}:build", seed=0), tmp_path / "bundle", batch_size=8, check=False)
    bundle = read_bundle(tmp_path / "bundle")
    boards, test = {"b1": data(1, 60), "b2": data(2, 60)}, data(3, 80)
    for name, arrays in (*boards.items(), ("test", test)):
        stored(tmp_path / f"{name}.npz", *arrays)
    settings = FederationSettings(
        federation="own-loss",
        bundle=str(bundle.folder),
        folder=str(tmp_path / "run"),
        training=Training(rounds=2, local_steps=3, lr=0.05),
        aggregation=Aggregation(phi=1),
        cohorts=Cohorts(min_devices=2, wait_s=PATIENCE_S),
        deadlines=Deadlines(broker_s=20.0),
        evaluation=Evaluation(data=str(tmp_path / "test.npz"), devices=0.3),
    )
    command = [sys.executable, "-c", BOARD, "--federation", "own-loss", "--once", "--threads", "1"]
    address = f"{mosquitto.address.host}:{mosquitto.address.port}"
    running = [
        subprocess.Popen(
            [
                *(*command, "--broker", address, "--device", name, "--data", str(tmp_path / f"{name}.npz")),
                *("--folder", str(tmp_path / name), "--budget-mib", "200"),
            ],
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in boards
    ]
    try:
        async with asyncio.timeout(PATIENCE_S):
            result = await Coordinator(settings, bundle, mqtt_dial(mosquitto.address)).run()
            ended = [await asyncio.to_thread(board.communicate) for board in running]
    finally:
        for board in running:
            board.kill()
    assert [board.returncode for board in running] == [0, 0], ended
    assert result.metrics
    assert result.on_devices
    assert {"cost", "shortages"} <= result.metrics.keys()
    own: Any = loaded(FILE)
    module = own.build()
    module.load_state_dict(load_file(tmp_path / "run" / "model.safetensors"))

    def costs(x: np.ndarray, y: np.ndarray) -> float:
        with torch.no_grad():
            return float(own.mean_cost(module(torch.from_numpy(x)), torch.from_numpy(y)))

    assert result.metrics["cost"] == pytest.approx(costs(*test), rel=1e-5)
    kept = {name: divided(LabelledSamples(*arrays), 0.3).kept for name, arrays in boards.items()}
    expected = np.mean([costs(*(part[kept[name]] for part in arrays)) for name, arrays in boards.items()])
    assert result.on_devices.judge == "cost"
    assert result.on_devices.mean == pytest.approx(float(expected), rel=1e-5)
