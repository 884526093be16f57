"""Measures a Flower client that trains digits_cnn with torch, as `benchmarks.footprint` measures an agent.

A SuperLink and a SuperNode run as on two machines; the app is submitted by ``flwr run``. What counts is the SuperNode
and the processes that it starts.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.processes import disk_mb, peak_of, settled_mib
from benchmarks.reporting import Figures

_PATIENCE_S = 240.0

_PROJECT = """
[project]
name = "footprint"
version = "1.0.0"
license = "Apache-2.0"
description = "digits_cnn on one client"
dependencies = ["flwr"]

[tool.flwr.app]
publisher = "nobody"

[tool.flwr.app.components]
serverapp = "digits.server:app"
clientapp = "digits.client:app"

[tool.flwr.app.config]
rounds = {rounds}
steps = {steps}
samples = "{samples}"
done = "{done}"
"""

_NETWORK = """
import torch
from torch import nn


class DigitsCnn(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3, padding=1)
        self.conv2 = nn.Conv2d(32, 32, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.conv3 = nn.Conv2d(32, 32, 3, padding=1)
        self.hidden = nn.Linear(512, 64)
        self.classifier = nn.Linear(64, 10)

    def forward(self, x):
        x = self.pool(self.conv2(self.conv1(x).relu()).relu())
        return self.classifier(self.hidden(self.conv3(x).relu().flatten(1)).relu())
"""

_CLIENT = """
import numpy as np
import torch
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from digits.network import DigitsCnn

app = ClientApp()


@app.train()
def train(message, context):
    torch.set_num_threads(1)
    archive = np.load(context.run_config["samples"])
    x, y = torch.from_numpy(archive["x"].astype(np.float32)), torch.from_numpy(archive["y"].astype(np.int64))
    net = DigitsCnn()
    net.load_state_dict(message.content["arrays"].to_torch_state_dict())
    optimiser = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    for step in range(context.run_config["steps"]):
        rows = torch.randperm(len(x))[:32]
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(net(x[rows]), y[rows])
        loss.backward()
        optimiser.step()
    metrics = MetricRecord({"loss": loss.item(), "num-examples": len(x)})
    content = RecordDict({"arrays": ArrayRecord(net.state_dict()), "metrics": metrics})
    return Message(content=content, reply_to=message)
"""

_SERVER = """
from pathlib import Path

from flwr.app import ArrayRecord
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg

from digits.network import DigitsCnn

app = ServerApp()


@app.main()
def main(grid, context):
    strategy = FedAvg(
        fraction_evaluate=0.0, min_train_nodes=1, min_evaluate_nodes=1, min_available_nodes=1,
    )
    config = context.run_config
    strategy.start(grid=grid, initial_arrays=ArrayRecord(DigitsCnn().state_dict()), num_rounds=config["rounds"])
    Path(config["done"]).write_text("done")
"""


class NoFlower(Exception):
    """There is no Flower to measure; the message says why."""


def measure_flower(environment: Path, samples: Path, folder: Path, *, rounds: int, steps: int) -> Figures:
    """The figures of a Flower client.

    Raises:
        NoFlower: the environment isn't there, or what is in it doesn't train.
    """
    programs = environment / "bin"
    if not (programs / "flower-supernode").exists():
        raise NoFlower(f"{environment} has no flower-supernode")
    folder.mkdir()
    done = folder / "done"
    app = _write_app(folder, rounds=rounds, steps=steps, samples=samples, done=done)
    surroundings = {
        "HOME": str(folder),
        "FLWR_HOME": str(folder / "flwr"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "OMP_NUM_THREADS": "1",
        "PATH": f"{programs}:{os.environ['PATH']}",
    }
    control, node = _free_port(), _free_port()
    (folder / "flwr").mkdir()
    (folder / "flwr" / "config.toml").write_text(
        f'[superlink]\ndefault = "here"\n\n[superlink.here]\naddress = "127.0.0.1:{control}"\ninsecure = true\n'
    )
    link = ["flower-superlink", "--insecure", "--disable-runtime-dependency-installation"]
    link += ["--host", "127.0.0.1", "--port", str(control)]
    client = ["flower-supernode", "--insecure", "--superlink", f"127.0.0.1:{control}", "--port", str(node)]
    with _running(link, folder / "superlink.log", surroundings):
        _await_port(control)
        with _running(client, folder / "supernode.log", surroundings) as supernode:
            time.sleep(10)  # it connects, and loads what it needs
            idle = settled_mib(supernode.pid)
            with peak_of(supernode.pid) as peak:
                _submit(app, surroundings, folder)
                _await(done, folder)
    pip = sum(disk_mb(path) for path in environment.glob("lib/python3*/site-packages/pip*"))
    return {
        "flower_idle_rss_mib": idle,
        "flower_training_rss_mib": peak.mib,
        "flower_install_mb": disk_mb(environment) - pip,
    }


def _write_app(folder: Path, **values: object) -> Path:
    app = folder / "app"
    (app / "digits").mkdir(parents=True)
    (app / "pyproject.toml").write_text(_PROJECT.format(**values))
    for name, text in {"__init__": "", "network": _NETWORK, "client": _CLIENT, "server": _SERVER}.items():
        (app / "digits" / f"{name}.py").write_text(text)
    return app


def _submit(app: Path, surroundings: Mapping[str, str], folder: Path) -> None:
    command = ["flwr", "run", str(app), "here"]
    found = subprocess.run(command, env=surroundings, capture_output=True, text=True, cwd=folder, check=False)
    if found.returncode:
        raise NoFlower(f"flwr run ended with {found.returncode}: {(found.stdout + found.stderr)[-500:]}")


def _await(done: Path, folder: Path) -> None:
    until = time.monotonic() + _PATIENCE_S
    while not done.exists():
        if time.monotonic() > until:
            raise NoFlower(f"its training did not end: {(folder / 'superlink.log').read_text()[-500:]}")
        time.sleep(0.2)


@contextmanager
def _running(command: Sequence[str], log: Path, surroundings: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=surroundings, stdout=output, stderr=output, cwd=log.parent)
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _await_port(port: int) -> None:
    until = time.monotonic() + _PATIENCE_S
    while time.monotonic() < until:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise NoFlower("its SuperLink does not listen")
