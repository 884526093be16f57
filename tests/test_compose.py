"""compose.yaml: what it starts exists, is limited, and trains. No Docker here: the same commands run as processes."""

import os
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import msgspec
import pytest
import yaml

from lamina.broker.brokers.starter import RunningBroker
from lamina.broker.settings import convert, load_toml
from lamina.coordinator.settings import FederationSettings
from lamina.edge_agent.settings import AgentSettings
from lamina.models.bundle import read_bundle
from tests.patience import PATIENCE_S

ROOT = Path(__file__).parent.parent
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
AGENTS = sorted(name for name in COMPOSE["services"] if name[-1].isdigit())


def test_every_service_has_a_memory_limit() -> None:
    assert all("mem_limit" in service for service in COMPOSE["services"].values())


def test_agents_of_three_sizes_share_out_the_data() -> None:
    commands = [COMPOSE["services"][name]["command"] for name in AGENTS]
    assert {name.split("-")[0] for name in AGENTS} == {"strong", "moderate", "weak"}
    shares = {command[command.index("--data") + 1] for command in commands}
    assert shares == {f"/data/devices/device-{number}.npz" for number in range(1, len(AGENTS) + 1)}


def test_its_configuration_files_are_valid() -> None:
    federation = load_toml(ROOT / "compose" / "federation.toml", FederationSettings)
    agent = convert(tomllib.loads((ROOT / "compose" / "agent.toml").read_text()), AgentSettings, "agent.toml")
    assert federation.federation == agent.federation
    assert federation.broker.host == agent.broker.host == "mosquitto"
    assert "mosquitto" in COMPOSE["services"]
    assert federation.cohorts.min_devices == len(AGENTS)


@pytest.mark.broker
@pytest.mark.slow
def test_the_same_commands_as_processes_end_well(tmp_path: Path, mosquitto: RunningBroker) -> None:
    """Container paths become folders below tmp_path, the host `mosquitto` the test's broker; a few rounds do."""
    for name in ("compose", "data", "bundle", "runs"):
        (tmp_path / name).mkdir()
    for file in ("federation.toml", "agent.toml"):
        text = (ROOT / "compose" / file).read_text().replace('host = "mosquitto"', f"port = {mosquitto.address.port}")
        text = text.replace("rounds = 40", "rounds = 4").replace('"/tmp/lamina"', '"lamina"')
        (tmp_path / "compose" / file).write_text(_moved(text, tmp_path))

    for line in COMPOSE["services"]["prepare"]["command"][0].strip().splitlines():
        _run(shlex.split(_moved(line, tmp_path)), tmp_path)
    peaks = {sub.cut: sub.peak_mib for sub in read_bundle(tmp_path / "bundle" / "digits").manifest.sub_models}
    strong, moderate, weak = peaks.values()
    assert strong > moderate > weak

    agents = []
    try:
        for name in AGENTS:
            command = [_moved(word, tmp_path) for word in COMPOSE["services"][name]["command"]]
            # How much an idle engine takes differs between machines: the sizes are set from what was just measured.
            budget = {"strong": strong + 1, "moderate": (moderate + strong) / 2, "weak": (weak + moderate) / 2}
            command[command.index("--budget-mib") + 1] = str(budget[name.split("-")[0]])
            home = tmp_path / name
            home.mkdir()
            command += ["--folder", str(home)]
            agents.append(subprocess.Popen([sys.executable, "-m", "lamina.edge_agent.cli", *command], cwd=ROOT))
        command = [_moved(word, tmp_path) for word in COMPOSE["services"]["coordinator"]["command"]]
        _run(["lamina", *command], tmp_path)
        assert [agent.wait(timeout=PATIENCE_S) for agent in agents] == [0] * len(AGENTS)
    finally:
        for agent in agents:
            agent.kill()
            agent.wait()
    summary = msgspec.json.decode((tmp_path / "runs" / "compose" / "summary.json").read_bytes())
    assert summary["rounds"] == 4
    assert {device["tier"] for device in summary["devices"]} == {"strong", "moderate", "weak"}


def _moved(text: str, folder: Path) -> str:
    for name in ("compose", "data", "bundle", "runs"):
        for before in ('"', " ", ""):
            if before or text.startswith(f"/{name}/"):
                text = text.replace(f"{before}/{name}/", f"{before}{folder}/{name}/")
    return text


def _run(words: list[str], cwd: Path) -> None:
    assert words[0] == "lamina"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-m", "lamina.coordinator.cli", *words[1:]], cwd=cwd, env=environment, check=True)
