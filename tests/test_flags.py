"""The same flags say everywhere where the broker is, over what a file says."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from lamina.broker.link.address import BrokerAddress
from lamina.broker.programs.ending import refuse_windows, said_of
from lamina.broker.programs.flags import add_federation_argument, federation_and_broker
from lamina.coordinator import cli as coordinator_cli
from lamina.edge_agent import cli as agent_cli
from lamina.models.errors import ConfigError

FILE = """
federation = "lab"
bundle = "bundle"

[broker]
host = "mqtts://file.example:1234"
password_file = "secret"

[training]
rounds = 3
"""


def said(tmp_path: Path, *words: str) -> tuple[str, BrokerAddress]:
    parser = argparse.ArgumentParser()
    add_federation_argument(parser)
    return federation_and_broker(parser.parse_args(words), tmp_path)


def test_a_name_and_no_flags_are_this_machines_broker(tmp_path: Path) -> None:
    assert said(tmp_path, "lab") == ("lab", BrokerAddress())


def test_a_file_in_place_of_the_name_says_the_rest(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    (folder / "federation.toml").write_text(FILE)
    name, address = said(tmp_path, "a/federation.toml")
    assert (name, str(address), address.is_encrypted) == ("lab", "file.example:1234", True)
    assert address.password_file == str(folder / "secret")


def test_flags_go_before_the_file_and_do_not_turn_tls_off(tmp_path: Path) -> None:
    (tmp_path / "federation.toml").write_text(FILE)
    _, address = said(tmp_path, "federation.toml", "--broker", "pc:99", "--username", "me", "--ca-file", "ca.crt")
    assert (str(address), address.is_encrypted, address.username) == ("pc:99", True, "me")
    assert address.ca_file == str(tmp_path / "ca.crt")
    assert not said(tmp_path, "federation.toml", "--broker", "mqtt://pc")[1].is_encrypted


def test_a_password_of_the_flags_replaces_the_files(tmp_path: Path) -> None:
    (tmp_path / "federation.toml").write_text(FILE)
    _, address = said(tmp_path, "federation.toml", "--password-file", "other")
    assert address.password_file == str(tmp_path / "other")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("gone.toml",), "gone.toml: no such file"),
        (("lab", "--broker", "pc:mqtt"), "--broker pc:mqtt: the port must be a number"),
        (("lab", "--cert-file", "a.crt"), "flags: broker.cert_file and broker.key_file go together"),
    ],
)
def test_what_makes_no_sense_is_said(tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        said(tmp_path, *words)
    assert message in str(caught.value)


@pytest.mark.parametrize("program", [coordinator_cli.main, agent_cli.main])
@pytest.mark.parametrize("flag", ["-V", "--version"])
def test_the_version_is_told(program: object, flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        program([flag])  # type: ignore[operator]
    assert ended.value.code == 0
    assert version("lamina-fl") in capsys.readouterr().out


def test_a_closed_pipe_is_one_line_and_status_2(tmp_path: Path) -> None:
    for module, words in {
        "lamina.coordinator.cli": ["broker", "--port", "0"],
        "lamina.edge_agent.cli": [
            "--check",
            "--federation",
            "lab",
            "--device",
            "pi",
            "--data",
            str(tmp_path / "d.npz"),
        ],
    }.items():
        import numpy as np

        np.savez(tmp_path / "d.npz", x=np.zeros((4, 2), np.float32), y=np.zeros(4, np.int64))
        reading, writing = os.pipe()
        os.close(reading)
        command = [sys.executable, "-P", "-m", module, *words]
        done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
        os.close(writing)
        assert done.returncode == 2, done.stderr
        assert done.stderr.splitlines()[-1].endswith("whoever read the output has closed it")
        assert "Traceback" not in done.stderr


def test_windows_is_refused_plainly() -> None:
    with pytest.raises(ConfigError, match="Windows is not supported: run it in WSL 2"):
        refuse_windows("win32")
    refuse_windows("darwin")


def test_an_error_of_the_system_names_its_file() -> None:
    assert said_of(OSError(28, "No space left on device", "/runs/a")).startswith("/runs/a: No space left on device")
    assert said_of(OSError("something")) == "something"
