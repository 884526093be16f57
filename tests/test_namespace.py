"""A user's own folder may hold `models.py`, `broker/` and `coordinator.py`: our packages stand below `lamina`."""

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from lamina.broker.brokers.starter import RunningBroker

pytestmark = pytest.mark.slow

MODELS = "class Net:\n    CLASSES = 3\n"
NETWORK = """
from models import Net
from torch import nn

import coordinator, broker

def build():
    module = nn.Sequential(nn.Flatten(), nn.Linear(4, Net.CLASSES))
    module.input_shape, module.classes = (2, 2), Net.CLASSES
    return module
"""
SAMPLES = """
import numpy as np
from models import Net

def samples():
    rng = np.random.default_rng(0)
    return rng.random((30, 2, 2), np.float32), rng.integers(0, Net.CLASSES, 30)
"""
FEDERATION = """
federation = "{root}"
bundle = "bundle"
folder = "run"
[broker]
port = {port}
[training]
rounds = 2
local_steps = 1
[cohorts]
min_devices = 1
wait_s = 120.0
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A user's folder, whose names are those of our packages; each says so if it is imported in our place."""
    files = {
        "models.py": MODELS,
        "broker/__init__.py": "OURS = False\n",
        "coordinator.py": "OURS = False\n",
        "edge_agent.py": "raise ImportError('the user\\'s edge_agent')\n",
        "emulation/__init__.py": "raise ImportError('the user\\'s emulation')\n",
        "my_network.py": NETWORK,
        "my_samples.py": SAMPLES,
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def command(name: str, *words: object) -> list[str]:
    """The program as a shell finds it; it does not have the current folder on its path."""
    return [str(Path(sys.executable).with_name(name)), *map(str, words)]


def test_bundle_and_emulate_work_in_it(home: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez(home / "all.npz", x=rng.random((60, 2, 2), np.float32), y=rng.integers(0, 3, 60))
    subprocess.run(command("lamina", "bundle", "my_network.py:build", "bundle"), cwd=home, check=True)
    assert (home / "bundle" / "manifest.json").exists()
    words = ["--model", "my_network.py:build", "--data", "all.npz", "--devices", "2", "--rounds", "2", "--out", "out"]
    subprocess.run(command("lamina", "emulate", *words, "--broker", "amqtt"), cwd=home, check=True)
    assert msgspec.json.decode((home / "out" / "summary.json").read_bytes())["rounds"] == 2


def test_an_agent_takes_samples_from_a_function_in_it(home: Path, amqtt: RunningBroker, root: str) -> None:
    subprocess.run(command("lamina", "bundle", "my_network.py:build", "bundle"), cwd=home, check=True)
    (home / "federation.toml").write_text(FEDERATION.format(root=root, port=amqtt.address.port))
    words = ["--federation", root, "--device", "pi-1", "--data", "my_samples:samples", "--budget-mib", 500]
    place = ["--broker", f"127.0.0.1:{amqtt.address.port}", "--folder", "agent"]
    agent = subprocess.Popen(
        command("lamina-agent", *words, *place), cwd=home, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    try:
        subprocess.run(command("lamina", "run", "federation.toml"), cwd=home, check=True)
    finally:
        agent.kill()
        agent.wait()
    assert msgspec.json.decode((home / "run" / "summary.json").read_bytes())["devices"][0]["rounds_done"] == 2
