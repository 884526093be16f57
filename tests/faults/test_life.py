"""The life of a federation and of its agents: ended by signals, told of, and given more rounds."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lamina.emulation.rig.federation import Rig
from lamina.emulation.rig.program import wait_until
from tests.faults.conftest import MakeRig

SETTINGS: dict[str, dict[str, Any]] = {
    "training": {"rounds": 4, "local_steps": 20},
    "aggregation": {"phi": 1},
    "deadlines": {"round_s": 3600, "lost_s": 120},
}


def status_of(rig: Rig) -> str:
    """What ``lamina status`` prints, asked by the federation's file."""
    command = [sys.executable, "-P", "-m", "lamina.coordinator.cli", "status", str(rig.folder / "federation.toml")]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_both_signals_are_a_goodbye_that_says_how_to_go_on(rig: MakeRig, number: signal.Signals, status: int) -> None:
    fleet = rig(settings={**SETTINGS, "training": {"rounds": 5000, "local_steps": 500}})
    fleet.start()
    fleet.wait_for_round(3)
    fleet.coordinator.signal(number)
    assert fleet.coordinator.wait() == status
    assert "lamina run" in fleet.coordinator.words.splitlines()[-1]
    assert "Traceback" not in fleet.coordinator.words
    assert ": stopped, round" in status_of(fleet)
    agent = fleet.agents[1]
    agent.signal(number)
    assert agent.wait() == (130 if number is signal.SIGINT else 0)
    wait_until(lambda: "device-1                 sleeping" in status_of(fleet), what="the goodbye of device-1")


def test_a_finished_federation_is_given_more_rounds_and_its_agents_are_still_there(
    rig: MakeRig, fault_data: list[Path]
) -> None:
    fleet = rig(settings={**SETTINGS, "evaluation": {"data": str(fault_data[5])}})
    fleet.start()
    assert fleet.wait_for_end() == 0
    accuracy = fleet.rows[-1]["accuracy"]
    said = status_of(fleet)
    assert ": finished, round 4 of 4" in said
    assert f"accuracy {float(accuracy):.4f}" in said  # of the last round
    for agent in fleet.agents.values():
        wait_until(lambda agent=agent: "waiting for the next training" in agent.words, what="an agent that was told")
        assert agent.running
    late = fleet.agent(3, device="late", data=str(fault_data[2]))
    late.start()
    wait_until(lambda: "waiting for the next training" in late.words, what="a late agent that was told")
    fleet.settings = {**SETTINGS, "training": {"rounds": 8, "local_steps": 20}}
    fleet.start_coordinator()
    assert fleet.wait_for_end() == 0
    assert [int(row["round"]) for row in fleet.rows] == list(range(8))
    assert all(agent.running for agent in fleet.agents.values())


def test_an_agent_for_once_ends_with_the_federation(rig: MakeRig) -> None:
    fleet = rig(settings=SETTINGS, agent_settings={"once": True})
    fleet.start()
    assert fleet.wait_for_end() == 0
    assert [agent.wait() for agent in fleet.agents.values()] == [0, 0]


@pytest.mark.skipif(not os.path.exists("/proc/net/tcp"), reason="only Linux lists a process's sockets so")
def test_no_program_connects_to_anything_but_its_broker(
    rig: MakeRig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = rig(settings={**SETTINGS, "training": {"rounds": 5000, "local_steps": 500}})
    home = tmp_path / "home"
    home.mkdir()
    for program in (fleet.coordinator, fleet.agent(1), fleet.agent(2)):
        kept = {name: value for name, value in os.environ.items() if name not in ("CI", "ORT_DISABLE_TELEMETRY")}
        program._environment = {**kept, "HOME": str(home), "XDG_CACHE_HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"}
    fleet.start()
    fleet.wait_for_round(3)
    places = set()
    for _ in range(40):
        for program in (fleet.coordinator, *fleet.agents.values()):
            places |= remote_ports(program.pid)
        fleet.wait_for_round(fleet.committed + 1)
    assert places == {fleet.broker.port}
    assert list(home.rglob("*")) == []


def remote_ports(process: int) -> set[int]:
    """Remote ports of a process's sockets of TCP and UDP."""
    inodes = set()
    for link in Path(f"/proc/{process}/fd").iterdir():
        try:
            inodes.add(os.readlink(link).removeprefix("socket:[").removesuffix("]"))
        except OSError:
            continue
    ports = set()
    for table in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/{process}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[9] in inodes:
                ports.add(int(fields[2].rpartition(":")[2], 16))
    return ports - {0}
