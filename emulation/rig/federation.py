"""A federation of real processes: one broker, one coordinator, some agents, and what they left behind.

    with Rig(folder, bundle, data) as rig:
        rig.start()
        rig.wait_for_round(3)
        rig.coordinator.kill()
        rig.coordinator.start()
        rig.wait_for_end()
        assert rig.model == undisturbed.model

The bundle and the samples are given, so that rigs whose results are compared share them.
"""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from lamina.emulation.rig.mosquitto import Mosquitto
from lamina.emulation.rig.program import Program, wait_until
from lamina.models.machine import module_command

_COORDINATOR = (*module_command("lamina.coordinator.cli"), "run")
_AGENT = (*module_command("lamina.edge_agent.cli"), "--config")
_AGGREGATOR = (*module_command("lamina.coordinator.cli"), "aggregator")
_ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


@dataclass
class Rig:
    """A federation of real processes; as a context it starts the broker, and ends every process that it started.

    Attributes:
        folder: everything is written below it.
        bundle: folder of the bundle.
        data: samples of the devices, one ``.npz`` each, in order; device 1 has the first.
        settings: tables of ``federation.toml`` and their keys, over the rig's own.
        agent_settings: keys of every ``agent.toml``, over the rig's own.
        budgets: of the devices in MiB, in order; ``None`` leaves all of them at ``64``.
        coordinator_port: where the coordinator dials; 0 is the broker itself. A proxy's port goes here.
        agent_port: the same of agents and aggregators.
        keeps: whether the broker's memory survives its orderly end.
        broker_extra: more lines of the broker's configuration.
        name: of the federation.
    """

    folder: Path
    bundle: Path
    data: Sequence[Path]
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    agent_settings: Mapping[str, Any] = field(default_factory=dict)
    budgets: Sequence[float] | None = None
    coordinator_port: int = 0
    agent_port: int = 0
    keeps: bool = False
    broker_extra: str = ""
    name: str = "rig"

    def __post_init__(self) -> None:
        self.broker = Mosquitto(self.folder / "broker", keeps=self.keeps, extra=self.broker_extra)
        self.run_folder = self.folder / "run"
        self.agents: dict[int, Program] = {}
        self.others: list[Program] = []
        self.coordinator = Program(
            [*_COORDINATOR, str(self.folder / "federation.toml")], self.folder / "coordinator.log", _ENVIRONMENT
        )

    def __enter__(self) -> Self:
        self.broker.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for program in (*self.agents.values(), *self.others, self.coordinator, self.broker):
            program.close()
        if error is not None:
            error.add_note(self.account())

    # Starting.

    def start(self, *flags: str) -> None:
        """Start an agent for each of the data, and the coordinator with these flags."""
        for index in range(1, len(self.data) + 1):
            self.agent(index).start()
        self.start_coordinator(*flags)

    def start_coordinator(self, *flags: str) -> None:
        """Write ``federation.toml`` and start the coordinator with these flags."""
        own: dict[str, dict[str, Any]] = {
            "broker": {"port": self.coordinator_port or self.broker.port},
            "cohorts": {"min_devices": len(self.data)},
        }
        names = [*own, *(name for name in self.settings if name not in own)]
        tables = {name: {**own.get(name, {}), **self.settings.get(name, {})} for name in names}
        top = {"federation": self.name, "bundle": str(self.bundle), "folder": str(self.run_folder)}
        write_toml(self.folder / "federation.toml", top, tables)
        self.coordinator.start(*flags)

    def agent(self, index: int, program: Sequence[str] = _AGENT, **changes: Any) -> Program:
        """The agent of a device, from 1; made at the first call, by which ``changes`` replace keys of its file."""
        if index not in self.agents:
            top = {
                "federation": self.name,
                "device": f"device-{index}",
                "data": str(self.data[(index - 1) % len(self.data)]),
                "budget_mib": self.budgets[index - 1] if self.budgets else 64,
                "threads": 1,
                "tuning": False,
                "folder": str(self.folder / f"agent-{index}"),
                **self.agent_settings,
                **changes,
            }
            file = self.folder / f"agent-{index}.toml"
            write_toml(file, top, {"broker": {"port": self.agent_port or self.broker.port}})
            self.agents[index] = Program([*program, str(file)], self.folder / f"agent-{index}.log", _ENVIRONMENT)
        return self.agents[index]

    def aggregator(self, *flags: str) -> Program:
        """An aggregator of this federation, not yet started; the flags say which (``--site NAME``, ``--share 1/2``)."""
        port = str(self.agent_port or self.broker.port)
        command = [*_AGGREGATOR, self.name, *flags, "--port", port]
        program = Program(command, self.folder / f"aggregator-{len(self.others) + 1}.log", _ENVIRONMENT)
        self.others.append(program)
        return program

    # What became of it.

    @property
    def committed(self) -> int:
        """Rounds that are committed."""
        rounds = (int(path.stem) for path in (self.run_folder / "state").glob("*.commit"))
        return max(rounds, default=0)

    @property
    def rows(self) -> list[dict[str, str]]:
        """The records of finished rounds, as ``rounds.csv`` has them."""
        try:
            with (self.run_folder / "rounds.csv").open(newline="", encoding="utf-8") as file:
                return list(csv.DictReader(file))
        except FileNotFoundError:
            return []

    @property
    def model(self) -> str:
        """The digest of the final parameters; empty where there are none yet."""
        path = self.run_folder / "model.safetensors"
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""

    def wait_for_round(self, rounds: int, limit_s: float = 240.0) -> float:
        """Return the seconds that it took until so many rounds were committed.

        Raises:
            TimeoutError: they were not within ``limit_s``.
            RuntimeError: the coordinator ended before.
        """

        def committed() -> bool:
            ended = not self.coordinator.running
            if self.committed >= rounds:
                return True
            if ended:
                raise RuntimeError(f"the coordinator ended with status {self.coordinator.status} before round {rounds}")
            return False

        return wait_until(committed, limit_s, f"the commit of {rounds} rounds")

    def wait_for_end(self, limit_s: float = 240.0) -> int:
        """The coordinator's exit status, once it has ended."""
        return self.coordinator.wait(limit_s)

    def account(self) -> str:
        """What happened, for a test that failed: every process's last words."""
        logs = [self.coordinator, *self.agents.values(), *self.others]
        return "\n".join(
            f"--- {program.log.name}, status {program.status}\n" + "\n".join(program.words.splitlines()[-25:])
            for program in logs
        )


def write_toml(path: Path, top: Mapping[str, Any], tables: Mapping[str, Mapping[str, Any]]) -> None:
    """Write a configuration of plain values: keys at the top, then tables of keys."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sections = [_lines(top), *(f"[{name}]\n{_lines(table)}" for name, table in tables.items())]
    path.write_text("\n".join(sections), encoding="utf-8")


def _lines(keys: Mapping[str, Any]) -> str:
    return "".join(f"{key} = {_value(value)}\n" for key, value in keys.items())


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} = {_value(part)}" for key, part in value.items()) + "}"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_value, value))}]"
    return f'"{value}"' if isinstance(value, (str, Path)) else str(value)
