"""compose.yaml: what it starts exists, is limited, and trains. No Docker here: the same commands run as processes."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
import yaml

from lamina.broker.settings import convert, read_toml
from lamina.coordinator.dashboard import metrics
from lamina.coordinator.settings import FederationSettings
from tests.patience import PATIENCE_S

ROOT = Path(__file__).parent.parent
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]
TIERS = ("strong", "moderate", "weak")


def test_every_service_has_limits() -> None:
    assert all("mem_limit" in service and "cpus" in service for service in SERVICES.values())


def test_one_variable_scales_agents_of_three_sizes_and_their_preparation() -> None:
    assert {SERVICES[tier]["deploy"]["replicas"] for tier in TIERS} == {"${SCALE:-2}"}
    assert SERVICES["prepare"]["environment"]["SCALE"] == "${SCALE:-2}"
    limits = [SERVICES[tier]["mem_limit"] for tier in TIERS]
    assert sorted(limits, key=lambda limit: -int(limit[:-1])) == limits


def test_what_is_mounted_is_there() -> None:
    named = set(COMPOSE["volumes"])
    for name, service in SERVICES.items():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert source in named or (ROOT / source).exists(), f"{name}: {source}"


def test_nothing_listens_beyond_this_machine() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert len(ports) == 3
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_the_training_is_a_valid_part_of_a_federation() -> None:
    table = {"federation": "compose", "bundle": "bundle"} | read_toml(ROOT / "compose" / "training.toml")
    assert convert(table, FederationSettings, "training.toml").dashboard.port == 8080


def test_the_images_hold_what_they_need_on_both_processors() -> None:
    text = (ROOT / "Dockerfile").read_text()
    assert {"edge", "coordinator"} <= set(re.findall(r" AS (\w+)", text))
    for source in re.findall(r"^COPY (.*) \S+$", text, re.MULTILINE):
        assert all((ROOT / name).exists() for name in source.split())
    assert "linux/amd64,linux/arm64" in (ROOT / "Makefile").read_text()


def test_grafana_shows_what_the_coordinator_exports() -> None:
    dashboard = json.loads((ROOT / "compose" / "grafana" / "lamina.json").read_text())
    exported = {name for table in (metrics._WHOLE, metrics._LAYER, metrics._DEVICE) for name, *_ in table}
    exported |= {f"{name}_total" for name, *_ in metrics._BYTES}
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    shown = {name for query in queries for name in re.findall(r"\blamina_\w+", query)}
    assert shown <= exported
    assert len(shown) > 12
    assert dashboard["templating"]["list"][0]["query"]["query"] == "label_values(lamina_round, federation)"
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in dashboard["panels"]}
    assert len(places) == len(dashboard["panels"])
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    uid = yaml.safe_load((ROOT / "compose/grafana/provisioning/datasources/prometheus.yml").read_text())
    assert {panel["datasource"]["uid"] for panel in dashboard["panels"]} == {uid["datasources"][0]["uid"]}


def test_prometheus_asks_the_coordinator_where_it_listens() -> None:
    [job] = yaml.safe_load((ROOT / "compose" / "prometheus.yml").read_text())["scrape_configs"]
    dashboard = read_toml(ROOT / "compose" / "training.toml")["dashboard"]
    [target] = job["static_configs"][0]["targets"]
    assert target == f"coordinator:{dashboard['port']}"
    assert job["tls_config"]["server_name"] in dashboard["names"]
    assert job["authorization"]["credentials_file"].endswith(dashboard["token_file"])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.broker
@pytest.mark.exhaustive
def test_the_same_commands_as_processes_end_well(tmp_path: Path, mosquitto_program: str) -> None:
    """Container paths become folders below tmp_path, the host `broker` this machine; a few rounds do."""
    compose = shutil.copytree(ROOT / "compose", tmp_path / "compose")
    training = compose / "training.toml"
    text = training.read_text().replace("rounds = 40", "rounds = 4").replace('host = "0.0.0.0"', 'host = "127.0.0.1"')
    training.write_text(text.replace("port = 8080", f"port = {free_port()}"))
    folders = {name: tmp_path / name for name in ("federation", "data", "state")}
    for folder in folders.values():
        folder.mkdir()
    environment = os.environ | {name.upper(): str(folder) for name, folder in folders.items()}
    environment |= {"SCALE": "1", "BROKER": "localhost", "OMP_NUM_THREADS": "1"}
    environment |= {"PORT": str(free_port()), "COORDINATOR_PORT": str(free_port())}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"

    def started(words: list[str]) -> subprocess.Popen[bytes]:
        moved = [word.replace("/compose/", f"{compose}/") for word in words]
        moved = [re.sub(r"^/federation", f"{tmp_path}/federation", word) for word in moved]
        moved = ["127.0.0.1" if word == "0.0.0.0" else word for word in moved]
        return subprocess.Popen(moved, cwd=tmp_path, env=environment)

    def command(service: str) -> list[str]:
        return [*SERVICES[service].get("entrypoint", ["lamina"]), *SERVICES[service].get("command", ())]

    for _ in range(2):  # the second time, all is there
        assert started(command("prepare")).wait(PATIENCE_S) == 0
    running = [started(command("broker"))]
    try:
        coordinator = started(command("coordinator"))
        running.append(coordinator)
        agents = [started(command(tier)) for tier in TIERS]
        running += agents
        until = time.monotonic() + PATIENCE_S
        while len(list(folders["state"].glob("weak-1/agent.toml"))) == 0 and time.monotonic() < until:
            time.sleep(0.1)
        too_many = started(command("weak"))
        running.append(too_many)
        assert too_many.wait(PATIENCE_S) == 2
        assert coordinator.wait(PATIENCE_S) == 0
        assert [agent.wait(PATIENCE_S) for agent in agents] == [0] * len(agents)
    finally:
        for process in running:
            process.terminate()
            process.wait()
    summary = msgspec.json.decode((folders["federation"] / "run" / "summary.json").read_bytes())
    assert summary["rounds"] == 4
    assert {device["tier"] for device in summary["devices"]} == set(TIERS)
