#!/usr/bin/env python3
"""A federation of fifty real agents over a real mosquitto, under seeded kills, for as long as it is told to.

    scripts/soak.py --minutes 30

Agents live several to a process, as memory asks for, and train a small network for real. Every few seconds a process
of agents, the coordinator or the broker is killed, or told to end, and started again a little later; one process of
agents and nothing else is spared. Prints a table, and ends with status 1 unless all of this holds: every round is in
``rounds.csv`` once and in order, none is empty, none lasted its deadline, and memory is flat.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np

from lamina.broker.link.address import BrokerAddress
from lamina.broker.link.mqtt import mqtt_dial
from lamina.edge_agent.settings import AgentSettings
from lamina.emulation.host import host
from lamina.emulation.rig.federation import Rig
from lamina.emulation.rig.program import Program

FEATURES, CLASSES = 6, 3
ROUND_S = 300.0
SETTINGS = {
    "training": {"rounds": 1_000_000, "local_steps": 20, "lr": 0.05},
    "cohorts": {"min_devices": 10, "active": 0.5},
    "aggregation": {"phi": 2},
    "deadlines": {"round_s": ROUND_S, "lost_s": 5.0},
}
SAMPLE_S = 5.0
WARM_UP = 0.25  # of the time, before memory counts
GROWTH = 1.10  # that counts as flat, beside noise of a few MiB
NOISE_MIB = 8.0


@dataclass
class SoakCounts:
    """What was done and seen."""

    kills: dict[str, int] = field(default_factory=lambda: {"agents": 0, "coordinator": 0, "broker": 0})
    memory_mib: dict[str, list[tuple[float, float]]] = field(default_factory=dict)  # by process: seconds, MiB
    recoveries_s: list[float] = field(default_factory=list)


def main() -> int:
    """Run the command; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--agents", type=int, default=50)
    parser.add_argument("--per-process", type=int, default=5, metavar="N", help="agents in one process (default 5)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--host", type=Path, help=argparse.SUPPRESS)  # what a process of agents is started with
    options = parser.parse_args()
    if options.host is not None:
        asyncio.run(_live(msgspec.json.decode(options.host.read_bytes(), type=tuple[AgentSettings, ...])))
        return 0
    with tempfile.TemporaryDirectory(prefix="lamina-soak-") as folder:
        return _soak(Path(folder), options)


async def _live(agents: tuple[AgentSettings, ...]) -> None:
    hosting = asyncio.ensure_future(host(agents, mqtt_dial, lambda failure: print(failure, file=sys.stderr)))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, hosting.cancel)
    await asyncio.wait({hosting})


def _soak(folder: Path, options: argparse.Namespace) -> int:
    bundle, data = _bundle(folder / "bundle"), _data(folder, options.agents)
    rig = Rig(folder, bundle, data, settings=SETTINGS, keeps=True)
    tally = SoakCounts()
    with rig:
        hosts = _hosts(rig, folder, data, options)
        rig.others += hosts
        for process in hosts:
            process.start()
        rig.start_coordinator()
        rig.wait_for_round(1)
        _disturb(rig, hosts, tally, random.Random(options.seed), 60 * options.minutes)
        committed = rig.committed
        rig.wait_for_round(committed + 2)  # it still works
        rig.coordinator.terminate()
        return _report(rig, tally, options)


def _disturb(rig: Rig, hosts: list[Program], tally: SoakCounts, rng: random.Random, lasts_s: float) -> None:
    began, next_fault_s, back = time.monotonic(), 5.0, list[tuple[float, str, Program]]()
    next_sample_s, waiting_since, known = 0.0, None, rig.committed
    while (now_s := time.monotonic() - began) < lasts_s or back:
        if now_s >= next_fault_s and now_s < lasts_s:
            next_fault_s = now_s + rng.uniform(4.0, 20.0)
            what = rng.choices(("agents", "coordinator", "broker"), (6, 3, 2))[0]
            program = {"coordinator": rig.coordinator, "broker": rig.broker}.get(what) or rng.choice(hosts[1:])
            if program.running:
                (program.kill if rng.random() < 0.7 else program.terminate)()
                tally.kills[what] += 1
                back.append((now_s + rng.uniform(0.0, 8.0), what, program))
        for due in [due for due in back if now_s >= due[0]]:
            back.remove(due)
            due[2].start()
            if due[1] != "agents":
                waiting_since, known = time.monotonic(), rig.committed
        if waiting_since is not None and rig.committed > known:
            tally.recoveries_s.append(time.monotonic() - waiting_since)
            waiting_since = None
        if now_s >= next_sample_s:
            next_sample_s = now_s + SAMPLE_S
            _sample(tally, now_s, {"coordinator": rig.coordinator, "broker": rig.broker, "spared agents": hosts[0]})
        for program in [rig.coordinator, *hosts]:
            if not program.running and program not in [due[2] for due in back]:
                raise RuntimeError(
                    f"{program.log.name} ended by itself, status {program.status}:\n{program.words[-2000:]}"
                )
        time.sleep(0.1)


def _sample(tally: SoakCounts, now_s: float, programs: dict[str, Program]) -> None:
    for name, program in programs.items():
        if program.running and (mib := _resident_mib(program.pid)) is not None:
            tally.memory_mib.setdefault(name, []).append((now_s, mib))


def _resident_mib(pid: int) -> float | None:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:")), None)


def _report(rig: Rig, tally: SoakCounts, options: argparse.Namespace) -> int:
    rows = rig.rows
    missing = len(set(range(rig.committed)) - {int(row["round"]) for row in rows})
    empty = sum(int(row["updates"]) == 0 < int(row["expected"]) for row in rows)
    late = sum(float(row["round_s"]) >= ROUND_S for row in rows)
    in_order = [int(row["round"]) for row in rows] == list(range(len(rows)))
    print(f"{options.agents} agents, {options.minutes:g} minutes, seed {options.seed}")
    print(f"{'rounds':24} {rig.committed}")
    print(f"{'rows missing':24} {missing}{'' if in_order else ', and not in order'}")
    print(f"{'rounds empty':24} {empty}")
    print(f"{'rounds past deadline':24} {late}")
    print(f"{'kills':24} {', '.join(f'{what} {count}' for what, count in tally.kills.items())}")
    if tally.recoveries_s:
        worst, median = max(tally.recoveries_s), statistics.median(tally.recoveries_s)
        print(f"{'next round after a start':24} median {median:.1f} s, worst {worst:.1f} s")
    growing = [name for name, samples in sorted(tally.memory_mib.items()) if not _is_flat(name, samples)]
    return 0 if not missing and in_order and not empty and not late and not growing else 1


def _is_flat(name: str, samples: list[tuple[float, float]]) -> bool:
    """Whether the last quarter takes no more than the second one; printed as a line."""
    ends_s = samples[-1][0]
    second = [mib for at, mib in samples if WARM_UP * ends_s <= at < 0.5 * ends_s]
    last = [mib for at, mib in samples if at >= 0.75 * ends_s]
    if not second or not last:
        return True
    before, after = statistics.median(second), statistics.median(last)
    flat = after <= max(GROWTH * before, before + NOISE_MIB)
    print(
        f"{name + ', MiB':24} {before:.0f} in the second quarter, {after:.0f} in the last{'' if flat else ': it grows'}"
    )
    return flat


def _hosts(rig: Rig, folder: Path, data: list[Path], options: argparse.Namespace) -> list[Program]:
    agents = [
        AgentSettings(
            federation=rig.name,
            device=f"device-{index + 1}",
            data=str(path),
            broker=BrokerAddress(port=rig.broker.port, keepalive_s=10),
            budget_mib=64.0,
            threads=1,
            tuning=False,
            folder=str(folder / f"agent-{index + 1}"),
            shared_process=True,
        )
        for index, path in enumerate(data)
    ]
    processes = []
    for start in range(0, len(agents), options.per_process):
        file = folder / f"agents-{start}.json"
        file.write_bytes(msgspec.json.encode(agents[start : start + options.per_process]))
        command = [sys.executable, "-P", str(Path(__file__).resolve()), "--host", str(file)]
        processes.append(Program(command, folder / f"agents-{start}.log"))
    return processes


def _bundle(folder: Path) -> Path:
    from torch import nn

    from lamina.models.build import build_bundle
    from lamina.models.definition import Definition

    module = nn.Sequential(nn.Linear(FEATURES, 32), nn.Tanh(), nn.Linear(32, 16), nn.Tanh(), nn.Linear(16, CLASSES))
    build_bundle(Definition("soak", module, (FEATURES,), CLASSES), folder, batch_size=8, measure=lambda *_: 10.0)
    return folder


def _data(folder: Path, devices: int) -> list[Path]:
    paths = []
    for seed in range(devices):
        rng = np.random.default_rng(seed)
        y = np.where(rng.random(64) < 0.6, seed % CLASSES, rng.integers(0, CLASSES, 64))
        x = rng.normal(size=(64, FEATURES)) + 3.0 * np.eye(CLASSES, FEATURES)[y]
        paths.append(folder / f"device-{seed + 1}.npz")
        np.savez(paths[-1], x=x.astype(np.float32), y=y.astype(np.int64))
    return paths


if __name__ == "__main__":
    sys.exit(main())
