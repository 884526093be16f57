"""From a drawer with three boards to a model on them, over loopback with TLS and real processes, step by step.

    python scripts/ten_minutes.py                  # 20 rounds; prints each step's time and what a person types
    python scripts/ten_minutes.py --rounds 3 --folder /tmp/x

What is typed is run as it stands, but for ports, which are drawn, and for what goes on in the background. The samples
are scikit-learn's digits, a third for each board; the boards have different memory limits.
"""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
from sklearn.datasets import load_digits

from lamina.emulation.rig.mosquitto import free_port
from lamina.emulation.rig.program import Program, wait_until
from lamina.models.machine import module_command

BOARDS = {"pi-1": "strong", "pi-2": "moderate", "pi-3": "weak"}
_LIMIT_S = 900.0
_PROGRAMS = {
    "lamina": module_command("lamina.coordinator.cli"),
    "lamina-agent": module_command("lamina.edge_agent.cli"),
}


class Step(msgspec.Struct, frozen=True):
    """One step of the path.

    Attributes:
        name: what it is for.
        typed: what a person types, a line each.
        seconds: that it took.
    """

    name: str
    typed: tuple[str, ...]
    seconds: float


class Path10:
    """The path, in a folder.

    Args:
        folder: an empty one.
        rounds: to train.
    """

    def __init__(self, folder: Path, rounds: int) -> None:
        self.folder, self.rounds = folder, rounds
        self.steps: list[Step] = []
        self.port, self.coordinator_port, self.join_port, self.page_port = (free_port() for _ in range(4))
        self._stack = ExitStack()
        self._typed: list[str] = []

    def walk(self) -> list[Step]:
        """Go the whole way; returns its steps.

        Raises:
            RuntimeError: a step failed.
        """
        with self._stack:
            self._samples()
            self._init()
            self._broker()
            codes = self._enrol()
            self._agents(codes)
            self._train()
            self._deploy()
            self._predict()
        return self.steps

    # -- steps ---------------------------------------------------------------------------------------------------------

    def _samples(self) -> None:
        """What boards would have: three parts, an evaluation set, and something to predict from."""
        x, y = load_digits(return_X_y=True)
        x = (x / 16).astype(np.float32).reshape(-1, 1, 8, 8)
        order = np.random.default_rng(0).permutation(len(x))
        held, rest = order[:300], order[300:]
        np.savez(self.folder / "test.npz", x=x[held], y=y[held])
        np.save(self.folder / "seven.npy", x[[int(held[y[held] == 7][0])]])
        for place, board in enumerate(BOARDS):
            part = rest[place :: len(BOARDS)]
            np.savez(self.folder / f"{board}.npz", x=x[part], y=y[part])

    def _init(self) -> None:
        with self._step("the federation's folder, keys and certificates"):
            self._run(
                "lamina init greenhouse --host localhost",
                f"--port {self.port} --coordinator-port {self.coordinator_port}",
            )
        with self._step("the network, as graphs for three sizes of board"):
            self._run("lamina bundle digits_cnn greenhouse/bundle")
        with self._step("settings: evaluation data and the dashboard"):
            self._type("(in greenhouse/federation.toml: evaluation.data, dashboard.port, min_devices = 3)")
            file = self.folder / "greenhouse" / "federation.toml"
            text = file.read_text().replace("min_devices = 2", "min_devices = 3")
            text = re.sub(r"^rounds = \d+", f"rounds = {self.rounds}", text, flags=re.M)
            file.write_text(text + f'\n[evaluation]\ndata = "../test.npz"\n\n[dashboard]\nport = {self.page_port}\n')

    def _broker(self) -> None:
        with self._step("the broker, with TLS"):
            broker = self._start("lamina broker --folder greenhouse", "--host 127.0.0.1")
            wait_until(lambda: "listens with TLS" in broker.words or not broker.running, _LIMIT_S, "the broker")
            self._check(broker)

    def _enrol(self) -> dict[str, str]:
        """The boards' codes; they are served in the background until all have joined."""
        codes: dict[str, str] = {}
        with self._step("three boards are enrolled, and join by their codes"):
            for board, tier in BOARDS.items():
                typed = f"lamina enrol {board} --in greenhouse --tier {tier} --data ../{board}.npz"
                said = self._run(typed, f"--at 127.0.0.1 --port {self.join_port}")
                [codes[board]] = re.findall(r"lamina-agent join (\S+)$", said, flags=re.M)[:1]
            server = self._start("lamina enrol --serve --in greenhouse", f"--listen 127.0.0.1 --port {self.join_port}")
            wait_until(lambda: "serving on port" in server.words or not server.running, _LIMIT_S, "the codes' server")
            self._check(server)
            for board, code in codes.items():
                self._run(
                    f"lamina-agent join {code} --folder {board}", shown=f"lamina-agent join CODE --folder {board}"
                )
            self._await_end(server)
        return codes

    def _agents(self, codes: dict[str, str]) -> None:
        with self._step("three agents"):
            self.agents = [self._start(f"lamina-agent --config {board}/agent.toml") for board in codes]
            for agent in self.agents:
                wait_until(partial(_is_linked_or_over, agent), _LIMIT_S, "an agent")
                self._check(agent)

    def _train(self) -> None:
        with self._step(f"{self.rounds} rounds, with the dashboard"):
            run = self._start("lamina run greenhouse/federation.toml")
            page = f"http://127.0.0.1:{self.page_port}"
            wait_until(lambda: f"dashboard: {page}" in run.words or not run.running, _LIMIT_S, "the dashboard")
            self._check(run)
            with urllib.request.urlopen(f"{page}/api/overview", timeout=30) as answer:
                certificates = [device["certificate_until"] for device in msgspec.json.decode(answer.read())["devices"]]
            assert all(certificates), certificates
            self._await_end(run)
        self.result = run.words.strip().splitlines()[-1]

    def _deploy(self) -> None:
        with self._step("the model goes to one board, and then to all"):
            self._run("lamina deploy greenhouse/federation.toml --canary 1")

    def _predict(self) -> None:
        with self._step("a board says what it sees"):
            self.said = self._run("lamina-agent predict seven.npy --config pi-3/agent.toml").strip()

    # -- running -------------------------------------------------------------------------------------------------------

    @contextmanager
    def _step(self, name: str) -> Iterator[None]:
        self._typed = []
        began = time.monotonic()
        yield
        self.steps.append(Step(name, tuple(self._typed), round(time.monotonic() - began, 1)))
        print(f"{self.steps[-1].seconds:7.1f} s  {name}", flush=True)
        for line in self._typed:
            print(f"             $ {line}", flush=True)

    def _type(self, line: str) -> None:
        self._typed.append(line)

    def _command(self, line: str) -> list[str]:
        program, *words = shlex.split(line)
        return [*_PROGRAMS[program], *words]

    def _run(self, line: str, ports: str = "", *, shown: str = "") -> str:
        """What a command prints; its ports are not shown."""
        self._type(shown or line)
        done = subprocess.run(
            self._command(f"{line} {ports}"),
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=_LIMIT_S,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{line}: status {done.returncode}: {done.stderr[-2000:]}")
        return done.stdout

    def _start(self, line: str, ports: str = "") -> Program:
        """A command that goes on; it ends with the path."""
        self._type(f"{line} &")
        number = len(list(self.folder.glob("*.log")))
        program = Program(
            ["env", "-C", str(self.folder), *self._command(f"{line} {ports}")], self.folder / f"{number}.log"
        )
        program.start()
        self._stack.callback(program.close)
        return program

    def _await_end(self, program: Program) -> None:
        if program.wait(_LIMIT_S):
            self._check(program)

    def _check(self, program: Program) -> None:
        if program.status:
            raise RuntimeError(f"{' '.join(program.command[3:])}: status {program.status}: {program.words[-2000:]}")


def _is_linked_or_over(agent: Program) -> bool:
    return "linked to federation" in agent.words or not agent.running


def main() -> int:
    """Walk the path, and print its steps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--folder", type=Path, help="an empty one; left out, a temporary one")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the steps there, too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        path = Path10(folder.resolve(), options.rounds)
        steps = path.walk()
    typed = sum(len(step.typed) for step in steps)
    print(f"{sum(step.seconds for step in steps):7.1f} s  in all; {typed} lines typed; {path.result}; {path.said}")
    if options.json:
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(steps), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
