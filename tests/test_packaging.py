"""The agent as it gets onto a board: its unit, the wheel by the installer, the Debian package under a real systemd."""

import asyncio
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from lamina.broker.brokers.starter import RunningBroker
from lamina.broker.link.mqtt import mqtt_dial
from tests.conftest import missing
from tests.patience import PATIENCE_S

ROOT = Path(__file__).parent.parent
PACKAGING = ROOT / "edge_agent" / "packaging"
UNIT = PACKAGING / "lamina-agent.service"


def test_the_units_exposure_is_rated_below_3(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze isn't installed")
    (tmp_path / UNIT.name).write_text(UNIT.read_text().replace("/opt/lamina/bin/lamina-agent", "/bin/true"))
    command = ["systemd-analyze", "security", "--offline=true", str(tmp_path / UNIT.name)]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "Invalid" not in told.stderr + told.stdout
    assert "Unknown" not in told.stderr
    [level] = re.findall(r"Overall exposure level for \S+: ([\d.]+)", told.stdout)
    assert float(level) < 3


def test_the_unit_hands_over_every_file_that_joining_writes() -> None:
    from lamina.broker.wire.join_code import _FILES

    assert set(re.findall(r"^LoadCredential=(\S+):/etc/lamina/\1$", UNIT.read_text(), re.MULTILINE)) == set(_FILES)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "name the wheel"),
        (["nothing.whl"], "nothing.whl: no such file"),
        (["--python", "/bin/false", "WHEEL"], "older than 3.11, or doesn't run"),
        (["--colour", "WHEEL"], "unknown option --colour"),
    ],
)
def test_the_installer_says_what_is_wrong(words: list[str], message: str, tmp_path: Path) -> None:
    (tmp_path / "x.whl").touch()
    given = [str(tmp_path / "x.whl") if word == "WHEEL" else word for word in words]
    command = ["sh", str(PACKAGING / "install-agent.sh"), "--prefix", str(tmp_path / "lamina"), *given]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert message in ran.stderr
    assert not (tmp_path / "lamina").exists()


def test_an_old_python_without_uv_is_told_what_to_install(tmp_path: Path) -> None:
    """As on a Jetson, whose Python is 3.10."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("sh", "dirname", "mkdir", "rm", "sed"):
        (programs / name).symlink_to(shutil.which(name) or "")
    for version in ("python3", "python3.11", "python3.12", "python3.13", "python3.14"):
        (programs / version).write_text("#!/bin/sh\nexit 1\n")
        (programs / version).chmod(0o755)
    (tmp_path / "x.whl").touch()
    command = ["sh", str(PACKAGING / "install-agent.sh"), "--prefix", str(tmp_path / "lamina"), str(tmp_path / "x.whl")]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, env={"PATH": str(programs)})
    assert ran.returncode == 2
    assert "install uv" in ran.stderr


def built(command: list[str], cwd: Path = ROOT, **environment: str) -> str:
    """What a script prints; where packages can't be had the test is skipped, but not in CI."""
    ran = subprocess.run(command, cwd=cwd, env=os.environ | environment, capture_output=True, text=True, check=False)
    if ran.returncode:
        missing(f"{command[0]} ended with {ran.returncode}: {ran.stderr[-500:]}")
    return ran.stdout


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("samples") / "samples.npz"
    np.savez(path, x=rng.random((40, 1, 8, 8), np.float32), y=rng.integers(0, 10, 40))
    return path


def train(broker: RunningBroker, federation: str, folder: Path) -> None:
    """Two rounds with one device, whoever that is."""
    from benchmarks.fleets import trivial_bundle
    from lamina.coordinator.service.coordinator import Coordinator
    from lamina.coordinator.settings import Cohorts, FederationSettings, Training

    bundle = trivial_bundle(folder)
    settings = FederationSettings(
        federation=federation,
        bundle=str(bundle.folder),
        folder=str(folder / "coordinator"),
        training=Training(rounds=2, local_steps=2),
        cohorts=Cohorts(min_devices=1, wait_s=PATIENCE_S),
    )
    result = asyncio.run(Coordinator(settings, bundle, mqtt_dial(broker.address)).run())
    assert result.rounds == 2


@pytest.mark.exhaustive
@pytest.mark.broker
def test_the_wheel_in_a_clean_environment_trains(tmp_path: Path, mosquitto: RunningBroker, samples: Path) -> None:
    dist, prefix = tmp_path / "dist", tmp_path / "opt" / "lamina"
    line = built([str(ROOT / "scripts" / "wheel.sh"), str(dist)]).splitlines()[-1]
    [wheel] = dist.glob("*.whl")
    carried = f"scp {wheel} {dist / 'install-agent.sh'} pi-3:"
    assert line.strip() == f"{carried} && ssh -t pi-3 sudo sh install-agent.sh {wheel.name}"
    install = [
        "sh",
        "install-agent.sh",
        "--prefix",
        str(prefix),
        "--no-service",
        "--python",
        sys.executable,
        wheel.name,
    ]
    for _ in range(2):  # the second time in the place of the first
        assert "lamina-agent" in built(install, dist, PIP_CONSTRAINT=str(ROOT / "constraints.txt"))
    assert sorted(path.name for path in prefix.parent.iterdir()) == ["lamina"]
    command = [
        prefix / "bin" / "lamina-agent",
        "--federation",
        "wheel",
        "--device",
        "board",
        "--data",
        samples,
        "--once",
    ]
    command += ["--broker", f"127.0.0.1:{mosquitto.address.port}"]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    agent = subprocess.Popen([str(word) for word in command], cwd=tmp_path, env=clean)
    try:
        train(mosquitto, "wheel", tmp_path)
        assert agent.wait(PATIENCE_S) == 0
    finally:
        agent.kill()
        agent.wait()


@contextmanager
def service(deb: Path, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    program = subprocess.Popen(
        [str(ROOT / "scripts" / "try-service.sh"), str(deb), str(folder)],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        yield program
    finally:
        program.kill()  # and with it all that is in its namespaces
        program.communicate()


@pytest.mark.exhaustive
@pytest.mark.broker
def test_the_package_trains_as_a_service_that_may_do_little(
    tmp_path: Path, mosquitto: RunningBroker, samples: Path
) -> None:
    """Under a real systemd: as a dynamic user, without capabilities, behind the unit's filter of system calls."""
    if shutil.which("dpkg-deb") is None or not Path("/usr/bin/python3").exists() or os.geteuid() != 0:
        pytest.skip("dpkg and root are needed")
    built([str(ROOT / "scripts" / "deb.sh"), str(tmp_path)], COMPRESSION="gzip")
    [deb] = tmp_path.glob("*.deb")
    folder = tmp_path / "board"
    (folder / "etc").mkdir(parents=True)
    shutil.copy(samples, folder)
    (folder / "etc" / "agent.toml").write_text(
        'federation = "package"\ndevice = "board"\ndata = "/srv/samples.npz"\n'
        f'[broker]\nhost = "127.0.0.1"\nport = {mosquitto.address.port}\n'
    )
    with service(deb, folder) as running:
        until = time.monotonic() + PATIENCE_S
        while not (folder / "process").exists():
            if running.poll() is not None:
                assert running.stderr is not None
                said = running.stderr.read().decode()
                assert running.returncode == 77, said  # it can't be tried here
                pytest.skip(said)
            assert time.monotonic() < until, "the service does not run"
            time.sleep(0.2)
        train(mosquitto, "package", tmp_path)
    facts = dict(re.findall(r"^(\w+):\s+(\S+)", (folder / "process").read_text(), re.MULTILINE))
    user = int(facts.pop("Uid"))
    assert 61184 <= user <= 65519  # systemd's range of dynamic users
    assert facts == {"CapEff": "0" * 16, "NoNewPrivs": "1", "Seccomp": "2"}
    credentials = {
        name: mode
        for name, mode, _ in re.findall(r"^(\S+) (\d+) (\d+)$", (folder / "process").read_text(), re.MULTILINE)
    }
    assert credentials == dict.fromkeys(("agent.toml", "ca.crt", "board.crt", "board.key", "operator.pub"), "400")
    assert "round 1" in (folder / "agent.log").read_text()
