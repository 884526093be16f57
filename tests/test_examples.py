"""Every example is a folder with a README, and runs: it trains what it says, and sends nothing else."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from rich.console import Console
from safetensors.numpy import load_file

from lamina.emulation.experiment import Group, read_experiment
from lamina.emulation.progress import ProgressDisplay
from lamina.emulation.run import emulate
from lamina.models.definition import load_definition
from lamina.models.layout import derive_spec

EXAMPLES = Path(__file__).parents[1] / "examples"
NAMES = sorted(folder.name for folder in EXAMPLES.iterdir() if folder.is_dir())


def test_there_are_some_and_each_tells_what_it_is() -> None:
    assert {"backbone", "lora"} <= set(NAMES)
    assert all((EXAMPLES / name / "README.md").read_text().startswith("# ") for name in NAMES)


def test_a_backbone_is_run_once_and_adapters_stand_in_layers_of_their_own() -> None:
    backbone = derive_spec(load_definition(f"{EXAMPLES / 'backbone' / 'model.py'}:build"))
    assert (backbone.has_backbone, backbone.size) == (True, 1285)
    lora = derive_spec(load_definition(f"{EXAMPLES / 'lora' / 'model.py'}:build"))
    assert all(layer.name == "head" or layer.size < 2000 for layer in lora.layers)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", ["backbone", "lora"])
def test_a_pretrained_network_learns_in_its_last_layers(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    shutil.copytree(EXAMPLES / name, folder, ignore=shutil.ignore_patterns("*.npz", "*.safetensors", "runs"))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, EXAMPLES / "pretrain.py"]
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    experiment = read_experiment(folder / "experiment.toml")
    experiment = msgspec.structs.replace(
        experiment,
        broker="memory",
        out=str(tmp_path / "run"),
        fleet=(Group(devices=2),),
        training=msgspec.structs.replace(experiment.training, rounds=10),
    )
    with ProgressDisplay(Console(file=io.StringIO())) as progress:
        summary = emulate(experiment, progress)
    assert summary.accuracy is not None
    assert summary.accuracy > 0.4  # of five classes; ten rounds
    before, after = load_file(folder / "values.safetensors"), load_file(tmp_path / "run" / "model.safetensors")
    assert before.keys() == after.keys()
    moved = {tensor for tensor, value in before.items() if (value != after[tensor]).any()}
    assert moved
    assert all("head" in tensor or tensor.endswith((".up", ".down")) for tensor in moved)
