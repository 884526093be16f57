"""What the fault tests share: a bundle, samples for six devices, and a rig of real processes over a real mosquitto."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from lamina.emulation.rig.federation import Rig
from lamina.models.build import build_bundle
from lamina.models.definition import Definition

FEATURES, CLASSES, DEVICES = 6, 3, 6

MakeRig = Callable[..., Rig]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.broker)
            item.add_marker(pytest.mark.faults)


def write_dense(folder: Path, name: str, widths: tuple[int, int], divisor: float) -> None:
    """Write the bundle of three dense layers, whose values are drawn, and divided so."""
    first, second = widths
    module = nn.Sequential(
        nn.Linear(FEATURES, first), nn.Tanh(), nn.Linear(first, second), nn.Tanh(), nn.Linear(second, CLASSES)
    )
    for index, parameter in enumerate(module.parameters()):
        values = np.random.default_rng(index).normal(size=tuple(parameter.shape)) / divisor
        parameter.data = parameter.data.new_tensor(values)
    build_bundle(Definition(name, module, (FEATURES,), CLASSES), folder, batch_size=8, measure=lambda *_: 10.0)


@pytest.fixture(scope="session")
def fault_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three dense layers that can be cut before each; one local step of a batch takes some 50 microseconds."""
    folder = tmp_path_factory.mktemp("bundle")
    write_dense(folder, "small", (8, 5), 2)
    return folder


@pytest.fixture(scope="session")
def fault_data(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three clouds that a small network can tell apart; each device has mostly one of them."""
    folder = tmp_path_factory.mktemp("data")
    paths = []
    for seed in range(DEVICES):
        rng = np.random.default_rng(seed)
        y = np.where(rng.random(24) < 0.6, seed % CLASSES, rng.integers(0, CLASSES, 24))
        x = rng.normal(size=(24, FEATURES)) + 3.0 * np.eye(CLASSES, FEATURES)[y]
        paths.append(folder / f"device-{seed + 1}.npz")
        np.savez(paths[-1], x=x.astype(np.float32), y=y.astype(np.int64))
    return paths


@pytest.fixture
def rig(mosquitto_program: str, fault_bundle: Path, fault_data: list[Path], tmp_path: Path) -> Iterator[MakeRig]:
    """Makes rigs, each with its broker running: ``rig(devices=2, settings={...})``; they end with the test."""
    with ExitStack() as stack:
        count = 0

        def make(devices: int = 2, bundle: Path | None = None, **options: Any) -> Rig:
            nonlocal count
            count += 1
            folder = tmp_path / f"rig-{count}"
            return stack.enter_context(Rig(folder, bundle or fault_bundle, fault_data[:devices], **options))

        yield make
