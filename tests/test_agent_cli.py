"""``lamina-agent`` as an operator meets it: flags, files, one-line errors, exit statuses, signals."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lamina.broker.brokers.starter import RunningBroker
from lamina.broker.link.mqtt import mqtt_dial
from lamina.broker.wire.messages import DeviceStatus, decode
from lamina.broker.wire.topics import Topics
from lamina.edge_agent.cli import main, options_of, settings_of
from tests.patience import PATIENCE_S

ROOT = Path(__file__).parent.parent


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration and its data, in a folder of their own."""
    np.savez(tmp_path / "train.npz", x=np.zeros((4, 2), np.float32), y=np.array([0, 1, 2, 1]))
    path = tmp_path / "agent.toml"
    path.write_text('federation = "lab"\ndevice = "pi-1"\ndata = "train.npz"\nbudget_mib = 64\nthreads = 1\n')
    return path


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 2) -> str:
    """What is said when the command is refused."""
    assert main(arguments) == status
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    return said.err


def test_check_prints_the_profile(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(config), "--check"]) == 0
    profile = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert list(profile)[:2] == ["device", "budget_mib"]
    assert profile["device"] == "pi-1"
    assert float(profile["budget_mib"]) == 64
    assert (profile["num_examples"], profile["classes"], profile["sample_shape"]) == ("4", "3", "(2,)")


def test_flags_go_before_the_file(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(config), "--check", "--device", "pi-2", "--budget-mib", "8.5"]) == 0
    said = capsys.readouterr().out
    assert "pi-2" in said
    assert "8.5" in said


def test_flags_alone_suffice(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = str(config.parent / "train.npz")
    assert main(["--federation", "lab", "--device", "pi-3", "--data", data, "--check"]) == 0
    assert "pi-3" in capsys.readouterr().out


def test_data_in_the_file_is_looked_for_beside_it(
    config: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert main(["--config", str(config), "--check"]) == 0
    capsys.readouterr()
    said = refusal(capsys, "--config", str(config), "--check", "--data", "train.npz")  # a flag's path starts here
    assert "elsewhere" in said
    assert "no such file" in said


def test_a_missing_file_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert "agent.toml: no such file" in refusal(capsys, "--config", "nowhere/agent.toml")


def test_a_missing_key_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert "lamina-agent: flags: missing key 'device'" in refusal(capsys, "--federation", "lab")


def test_an_unknown_key_names_the_nearest(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config.write_text(config.read_text() + 'devise = "pi"\n')
    assert "unknown key 'devise'; did you mean 'device'?" in refusal(capsys, "--config", str(config))


def test_labels_that_are_none_are_one_line(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(config.parent / "train.npz", x=np.zeros((2, 2)), y=np.array(["a", "b"]))
    assert "train.npz: y must be numbers, and is <U1: number the classes" in refusal(capsys, "--config", str(config))


@pytest.mark.parametrize(
    ("flag", "host", "port"),
    [("pc", "pc", 1883), ("pc:99", "pc", 99), ("[::1]:99", "::1", 99), ("::1", "::1", 1883)],
)
def test_a_broker_is_a_host_and_perhaps_a_port(flag: str, host: str, port: int) -> None:
    options = options_of(["--federation", "lab", "--device", "a", "--data", "m:f", "--broker", flag])
    broker = settings_of(options).broker
    assert (broker.host, broker.port) == (host, port)


def test_a_broker_flag_keeps_the_rest_of_the_files_table(config: Path) -> None:
    config.write_text(config.read_text() + '[broker]\nhost = "old"\nport = 7\nusername = "me"\n')
    broker = settings_of(options_of(["--config", str(config), "--broker", "new"])).broker
    assert (broker.host, broker.port, broker.username) == ("new", 7, "me")


def test_a_port_that_is_no_number_is_one_line(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refusal(capsys, "--config", str(config), "--broker", "pc:mqtt")
    assert said == "lamina-agent: --broker pc:mqtt: the port must be a number\n"


def test_a_broker_that_stays_away_is_status_1(
    config: Path, capsys: pytest.CaptureFixture[str], any_closed_port: int
) -> None:
    config.write_text(config.read_text() + "broker_s = 0.2\n")
    said = refusal(capsys, "--config", str(config), "--broker", f"127.0.0.1:{any_closed_port}", status=1)
    assert f"127.0.0.1:{any_closed_port}" in said
    assert "gave up after 0.2 s" in said


@pytest.mark.broker
@pytest.mark.parametrize(("stop", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
async def test_a_signal_makes_it_say_goodbye(
    config: Path, mosquitto: RunningBroker, root: str, stop: signal.Signals, status: int
) -> None:
    topic = Topics(root).device("pi-1", "status")
    place = f"{mosquitto.address.host}:{mosquitto.address.port}"
    command = ["-m", "lamina.edge_agent.cli", "--config", str(config), "--federation", root, "--broker", place]
    agent = await asyncio.create_subprocess_exec(
        sys.executable, *command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE
    )
    said: list[str] = []
    async with asyncio.timeout(PATIENCE_S), mqtt_dial(mosquitto.address)(f"{root}-watcher", None) as link:
        await link.subscribe(topic)
        async for delivery in link.deliveries():
            said.append(decode(delivery.payload, DeviceStatus).state)
            delivery.acknowledge()
            if said[-1] == "online":
                agent.send_signal(stop)
            if said[-1] == "sleeping":
                break
        _, errors = await agent.communicate()
    assert said == ["online", "sleeping"]
    assert agent.returncode == status
    assert b"Traceback" not in errors


def test_the_agent_starts_without_what_a_board_does_not_have() -> None:
    heavy = {"torch", "onnx", "scipy", "psutil", "lamina.coordinator"}
    program = f"import sys, lamina.edge_agent.cli; print(*{heavy} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == ""
