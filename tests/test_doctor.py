"""The two doctors find what is amiss before training does, and say what to do."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from lamina.broker.brokers.starter import RunningBroker
from lamina.broker.programs.findings import certificate, clock, disk, secret
from lamina.coordinator.cli import main as lamina
from lamina.edge_agent.cli import main as lamina_agent
from lamina.models.bundle import Bundle
from tests.whole_federation import samples, small_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return small_bundle(tmp_path_factory.mktemp("bundle") / "small")


def board(at: Path, port: int, **changes: str) -> Path:
    held = samples(0)
    np.savez(at / "train.npz", x=held.x, y=held.y)
    table = {"federation": '"lab"', "device": '"pi"', "data": '"train.npz"', "broker_s": "2.0", **changes}
    path = at / "agent.toml"
    path.write_text("".join(f"{key} = {value}\n" for key, value in table.items()) + f"[broker]\nport = {port}\n")
    return path


def found(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, str]]:
    return {finding["subject"]: finding for finding in json.loads(capsys.readouterr().out)}


def test_a_board_that_can_take_part(tmp_path: Path, amqtt: RunningBroker, capsys: pytest.CaptureFixture[str]) -> None:
    status = lamina_agent(["doctor", "--config", str(board(tmp_path, amqtt.address.port)), "--json"])
    findings = found(capsys)
    assert status == 0, findings
    assert findings["data"]["text"].startswith("24 samples in ")
    assert "lets this program in" in findings["broker"]["text"]
    assert findings["federation"]["verdict"] == "doubtful"
    assert findings["federation"]["text"] == "nobody has coordinated 'lab' at this broker"
    assert {finding["verdict"] for finding in findings.values()} <= {"good", "doubtful"}


def test_whatever_is_amiss_is_found_in_one_look(
    tmp_path: Path, any_closed_port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("no folder")
    path = board(tmp_path, any_closed_port, data='"nowhere.npz"', folder='"file/state"', budget_mib="1e9")
    assert lamina_agent(["doctor", "--config", str(path), "--json"]) == 1
    findings = found(capsys)
    bad = {name for name, finding in findings.items() if finding["verdict"] == "bad"}
    assert bad == {"data", "disk", "broker"}
    assert "no such file" in findings["data"]["text"]
    assert findings["memory"]["remedy"] == "lower budget_mib, or end what else runs here"


def test_a_wrong_setting_is_a_finding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "agent.toml"
    path.write_text('federation = "lab"\ndevise = "pi"\n')
    assert lamina_agent(["doctor", "--config", str(path)]) == 1
    assert "did you mean 'device'?" in capsys.readouterr().out


def test_a_coordinator_and_its_files(
    tmp_path: Path, bundle: Bundle, amqtt: RunningBroker, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "federation.toml"
    path.write_text(
        f'federation = "lab"\nbundle = "{bundle.folder}"\nfolder = "run"\n[broker]\nport = {amqtt.address.port}\n'
        '[evaluation]\ndata = "missing.npz"\n'
    )
    assert lamina(["doctor", str(path), "--json"]) == 1
    findings = found(capsys)
    assert findings["bundle"]["text"].endswith("3 layers, 3 sizes of sub-model")
    assert findings["coordinator"]["text"].startswith("none runs here")
    assert {name for name, finding in findings.items() if finding["verdict"] == "bad"} == {"data"}


def test_a_clock_that_has_no_battery() -> None:
    assert clock(0.0).verdict == "bad"
    assert clock(1_795_000_000.0).verdict in ("good", "doubtful")


def test_a_key_that_others_can_read_and_a_disk(tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    key.write_text("secret")
    key.chmod(0o644)
    assert (secret(key).verdict, secret(key).remedy) == ("doubtful", f"chmod 600 {key}")
    key.chmod(0o600)
    assert secret(key).verdict == "good"
    assert disk(tmp_path / "new").text.startswith(f"{tmp_path / 'new'} can be written to")


def test_a_certificate_that_ends(tmp_path: Path) -> None:
    key, now = Ed25519PrivateKey.generate(), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "pi")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + timedelta(days=100))
    path = tmp_path / "cert.pem"
    path.write_bytes(builder.sign(key, None).public_bytes(Encoding.PEM))
    good = certificate(path)
    assert good.verdict == "good"
    assert good.text.startswith(f"{path} is good for ")
    assert certificate(path, time.time() + 80 * 86400).verdict == "doubtful"
    assert certificate(path, time.time() + 101 * 86400).verdict == "bad"
