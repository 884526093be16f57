"""The examples of tasks: what they draw suits their networks, and they learn it."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
from rich.console import Console

from lamina.emulation.experiment import Experiment, Group, read_experiment
from lamina.emulation.progress import ProgressDisplay
from lamina.emulation.report import Summary
from lamina.emulation.run import emulate
from lamina.emulation.simulator.run import Result
from lamina.emulation.simulator.run import run as simulate
from lamina.emulation.simulator.setting import Setting, TierCounts
from tests.test_examples_of_data import loaded

EXAMPLES = Path(__file__).parent.parent / "examples"
OUTPUTS = {
    "forecasting": "readings.csv",
    "vibration": "",
    "own_loss": "diabetes.csv",
    "tagging": "messages.npz",
    "personal": "rooms.npz",
}
"""By example, the file that its `draw` is given; nothing: its folder."""


def drawn(name: str, folder: Path) -> Experiment:
    """The example with its data, as its README has a user make it."""
    place = folder / name
    shutil.copytree(EXAMPLES / name, place, ignore=shutil.ignore_patterns("*.npz", "*.csv", "runs", "__pycache__"))
    loaded(place / "draw.py").draw(place / OUTPUTS[name])
    return read_experiment(place / "experiment.toml")


def simulated(experiment: Experiment, folder: Path, rounds: int) -> Result:
    training = msgspec.structs.replace(experiment.training, rounds=rounds, local_steps=5)
    return simulate(
        Setting(
            data=experiment.data,
            model=experiment.model,
            batch_size=experiment.batch_size,
            fleet=TierCounts(strong=experiment.devices),
            partition=experiment.partition,
            training=training,
            aggregation=experiment.aggregation,
            evaluation=msgspec.structs.replace(experiment.evaluation, every=2),
        ),
        folder,
        backend="loop",
    )


@pytest.mark.parametrize("name", OUTPUTS)
def test_an_example_runs_in_short(name: str, tmp_path: Path) -> None:
    result = simulated(drawn(name, tmp_path), tmp_path / "runs", 4)
    assert np.isfinite(result.accuracy)
    assert bool(result.on_devices) == (name in ("forecasting", "personal"))
    assert {"forecasting": "loss", "vibration": "loss", "own_loss": "cost", "tagging": "accuracy"}.get(
        name, "loss"
    ) == result.judge


def emulated(experiment: Experiment, folder: Path) -> Summary:
    experiment = msgspec.structs.replace(experiment, broker="memory", out=str(folder))
    with ProgressDisplay(Console(file=io.StringIO())) as progress:
        return emulate(experiment, progress)


@pytest.mark.exhaustive
def test_forecasts_are_calibrated(tmp_path: Path) -> None:
    summary = emulated(drawn("forecasting", tmp_path), tmp_path / "run")
    assert summary.metrics
    assert 0.03 < summary.metrics["coverage_0.1"] < 0.25
    assert 0.75 < summary.metrics["coverage_0.9"] < 0.97
    assert summary.metrics["mae"] < 0.45  # the readings' own deviation is 0.7 and more
    assert summary.on_devices
    assert summary.on_devices.devices == 3


@pytest.mark.exhaustive
def test_a_worn_bearing_is_told(tmp_path: Path) -> None:
    experiment = drawn("vibration", tmp_path)
    emulated(experiment, tmp_path / "run")
    watch = loaded(tmp_path / "vibration" / "watch.py")
    assert watch.anomalies(tmp_path / "run", tmp_path / "vibration" / "faulty.npz").mean() > 0.8
    healthy = np.load(tmp_path / "vibration" / "healthy.npz")["x_test"]
    np.savez(tmp_path / "healthy.npz", x=healthy)
    assert watch.anomalies(tmp_path / "run", tmp_path / "healthy.npz").mean() < 0.1


@pytest.mark.exhaustive
def test_too_little_is_dearer_than_too_much(tmp_path: Path) -> None:
    summary = emulated(drawn("own_loss", tmp_path), tmp_path / "run")
    assert summary.judge == "cost"
    assert summary.metrics
    assert summary.metrics["cost"] < 1.15  # the best constant costs 1.2
    assert summary.metrics["shortages"] < 0.4
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["judge"] == "cost"


@pytest.mark.exhaustive
def test_words_are_tagged(tmp_path: Path) -> None:
    summary = emulated(drawn("tagging", tmp_path), tmp_path / "run")
    assert summary.accuracy is not None
    assert summary.accuracy > 0.8  # of four tags


@pytest.mark.exhaustive
def test_own_layers_fit_their_boards(tmp_path: Path) -> None:
    """On their own samples boards are right with a layer of their own, and can't be with one that all share."""
    experiment = drawn("personal", tmp_path)
    shared = msgspec.structs.replace(
        experiment, aggregation=msgspec.structs.replace(experiment.aggregation, personal=())
    )
    own, common = (emulated(each, tmp_path / f"run-{place}") for place, each in enumerate((experiment, shared)))
    assert own.on_devices
    assert common.on_devices
    assert own.on_devices.mean < 0.2 * common.on_devices.mean


def test_a_fleet_of_one_example_has_two_sizes() -> None:
    experiment = read_experiment(EXAMPLES / "forecasting" / "experiment.toml")
    assert [group.tier for group in experiment.fleet] == ["strong", "weak"]
    assert isinstance(experiment.fleet[0], Group)
