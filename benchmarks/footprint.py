"""What an agent takes of a board: its memory, idle and training, and its files; and what a Flower client takes.

    idle_rss_mib            an agent that is linked to a mosquitto and waits for a federation
    training_rss_mib        the most that it takes while it trains digits_cnn whole, in batches of 32, for 30 rounds
    install_mb              its environment on the disk: the wheel with the extra edge, compiled, without pip
    flower_idle_rss_mib     a SuperNode that is connected to its SuperLink and waits
    flower_training_rss_mib the most that it and its ClientApp take for the same network, samples and batches; 8 rounds,
                            since it starts a process of its own for each
    flower_install_mb       the environment of flwr and torch's CPU build, without pip

Memory is the proportional set size of the program and what it starts, once a twentieth of a second; no other process
maps the libraries of its environment, so it is that of the program alone. Flower is measured where an environment has
it: `--flower FOLDER`, by default below the temporary folder. Make it by

    python -m venv FOLDER && FOLDER/bin/pip install flwr torch --extra-index-url https://download.pytorch.org/whl/cpu
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from benchmarks.footprint_flower import NoFlower, measure_flower
from benchmarks.processes import disk_mb, peak_of, settled_mib
from benchmarks.reporting import Figures, Row, command_line, show
from lamina.broker.brokers.starter import RunningBroker, running_broker
from lamina.broker.link.mqtt import mqtt_dial
from lamina.coordinator.service.coordinator import Coordinator
from lamina.coordinator.settings import Aggregation, Cohorts, FederationSettings, Training
from lamina.emulation.datasets import load_dataset
from lamina.models.build import build_bundle
from lamina.models.bundle import Bundle, read_bundle
from lamina.models.definition import load_definition

QUESTION = "What does an agent take of a board, and what does a Flower client?"
ROOT = Path(__file__).parent.parent
SAMPLES, STEPS = 180, 10
_PATIENCE_S = 120.0


def measure(environment: Path | None, flower: Path, rounds: int) -> tuple[Figures, list[Row]]:
    """All figures, and a table."""
    with tempfile.TemporaryDirectory(prefix="lamina-footprint-") as name, running_broker("mosquitto") as broker:
        folder = Path(name)
        environment = environment or made_environment(folder)
        samples = folder / "samples.npz"
        dataset = load_dataset("digits")
        assert dataset.y_train is not None
        np.savez(samples, x=dataset.x_train[:SAMPLES], y=dataset.y_train[:SAMPLES])
        build_bundle(load_definition("digits_cnn"), folder / "bundle", batch_size=32)
        bundle = read_bundle(folder / "bundle")
        figures: Figures = {"install_mb": disk_mb(environment)}
        figures |= _agent(environment / "bin" / "python", broker, bundle, samples, folder, rounds)
        rows: list[Row] = [("", "Lamina", "Flower")]
        try:
            figures |= measure_flower(flower, samples, folder / "flower", rounds=min(rounds, 8), steps=STEPS)
        except NoFlower as missing:
            print(f"Flower is left out: {missing}")
        largest = _largest(environment)
    for what in ("idle_rss_mib", "training_rss_mib", "install_mb"):
        theirs = figures.get(f"flower_{what}")
        rows.append((what, f"{figures[what]:.1f}", "" if theirs is None else f"{theirs:.0f}"))
    rows += [(f"  {name}", f"{took:.1f}", "") for name, took in largest]
    return figures, rows


def made_environment(folder: Path) -> Path:
    """A board's environment, with the wheel of this checkout and the extra edge, and nothing else."""
    pip = [sys.executable, "-m", "pip"]
    _run([*pip, "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)])
    [wheel] = folder.glob("*.whl")
    environment = folder / "board"
    _run([sys.executable, "-m", "venv", "--without-pip", str(environment)])
    constraints = ["-c", str(ROOT / "constraints.txt")]
    python = str(environment / "bin" / "python")
    _run([*pip, "--python", python, "install", "--quiet", *constraints, f"{wheel}[edge]"])
    return environment


def _run(command: Sequence[str]) -> None:
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)


def _agent(python: Path, broker: RunningBroker, bundle: Bundle, samples: Path, folder: Path, rounds: int) -> Figures:
    with _running_agent(python, broker, samples, folder) as agent:
        idle = settled_mib(agent.pid)
        settings = FederationSettings(
            federation="footprint",
            bundle=str(bundle.folder),
            folder=str(folder / "coordinator"),
            training=Training(rounds=rounds, local_steps=STEPS, lr=0.05),
            cohorts=Cohorts(min_devices=1),
            aggregation=Aggregation(phi=1),
        )
        with peak_of(agent.pid) as peak:
            asyncio.run(Coordinator(settings, bundle, mqtt_dial(broker.address)).run())
    return {"idle_rss_mib": idle, "training_rss_mib": peak.mib}


@contextmanager
def _running_agent(
    python: Path, broker: RunningBroker, samples: Path, folder: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """An agent as a board runs it, linked."""
    log = folder / "agent.log"
    flags = {
        "--federation": "footprint",
        "--device": "board",
        "--data": str(samples),
        "--folder": str(folder / "agent"),
        "--host": broker.address.host,
        "--port": str(broker.address.port),
    }
    command = [str(python), "-P", "-m", "lamina.edge_agent.cli", *(word for flag in flags.items() for word in flag)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    with log.open("wb") as output:
        agent = subprocess.Popen(command, stdout=output, stderr=output, cwd=folder, env=environment)
        try:
            until = time.monotonic() + _PATIENCE_S
            while b"linked to federation" not in log.read_bytes():
                if agent.poll() is not None or time.monotonic() > until:
                    raise RuntimeError(f"the agent did not come: {log.read_text()[-500:]}")
                time.sleep(0.1)
            yield agent
        finally:
            agent.terminate()
            agent.wait()


def _largest(environment: Path) -> list[tuple[str, float]]:
    """The packages of an environment that take most, in MB, and all the others together."""
    [site] = environment.glob("lib/python3*/site-packages")
    sizes = {path.name: disk_mb(path) for path in site.iterdir() if path.is_dir()}
    ordered = sorted(sizes.items(), key=lambda item: -item[1])
    rest = disk_mb(environment) - sum(took for _, took in ordered[:6])
    return [*ordered[:6], ("all else", rest)]


def main() -> None:
    """Measure, and show."""
    parser = command_line(QUESTION)
    parser.add_argument("--environment", type=Path, metavar="FOLDER", help="a board's, in place of one made here")
    default = Path(tempfile.gettempdir()) / "lamina-flower"
    parser.add_argument("--flower", type=Path, metavar="FOLDER", default=default, help="has flwr and torch")
    options = parser.parse_args()
    show(QUESTION, *measure(options.environment, options.flower, rounds=5 if options.quick else 30), options.json)


if __name__ == "__main__":
    main()
