"""Another board takes a board's place: its name, its settings and its state; the old certificate is good no more."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from lamina.coordinator.cli import main as lamina
from lamina.coordinator.enrolment.home import Home
from lamina.edge_agent.cli import main as lamina_agent
from lamina.edge_agent.service.moving import pack, unpack
from lamina.models.errors import ConfigError
from tests.enrolled import Client, board_pass, broker_of, is_let_in, made, opened, until

STATE = {
    "state": b"round 7",
    "personal": b"mine",
    "orders": b"{}",
    "deployed/shelf.json": b"{}",
    "deployed/3-00112233445566ff/model.onnx": b"model",
    "deployed/3-00112233445566ff/manifest.json": b"{}",
}


def filled(folder: Path) -> Path:
    for name, content in {**STATE, "bundle/x.onnx": b"comes again", "lock": b"", "spill/0": b""}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def test_a_boards_state_goes_into_one_file_and_out_again(tmp_path: Path) -> None:
    file = tmp_path / "pi-3.state"
    assert pack(filled(tmp_path / "old"), file) == len(STATE)
    assert file.stat().st_mode & 0o077 == 0
    assert unpack(file, tmp_path / "new") == len(STATE)
    found = {str(path.relative_to(tmp_path / "new")): path.read_bytes() for path in (tmp_path / "new").rglob("*.*")}
    assert {name: content for name, content in STATE.items() if "." in name} == found
    with pytest.raises(ConfigError, match="a state of an agent already"):
        unpack(file, tmp_path / "new")
    with pytest.raises(ConfigError, match="no state of an agent"):
        pack(tmp_path / "empty", file)


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "agent.toml", "deployed/../x.json", "board.key"])
def test_a_file_that_holds_anything_else_is_refused_whole(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "evil.state", "w") as archive:
        archive.writestr("state", "x")
        archive.writestr(name, "x")
    with pytest.raises(ConfigError, match="is no file of a board's state"):
        unpack(tmp_path / "evil.state", tmp_path / "new")
    assert not (tmp_path / "new").exists()
    (tmp_path / "junk.state").write_bytes(b"junk")
    with pytest.raises(ConfigError, match="can't be read as a board's state"):
        unpack(tmp_path / "junk.state", tmp_path / "new")


@pytest.mark.broker
def test_the_new_board_has_the_name_and_the_state_and_the_old_one_is_out(
    mosquitto_program: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = made(tmp_path / "greenhouse", "pi-3")
    old = tmp_path / "greenhouse-pi-3"
    filled(old / "state")
    with broker_of(home):
        assert is_let_in(board_pass(home, "pi-3"), "pi-3")
        assert lamina(["replace", "pi-3", "--in", str(home.folder), "--at", "127.0.0.1"]) == 0
        assert lamina_agent(["pack", str(tmp_path / "pi-3.state"), "--config", str(old / "agent.toml")]) == 0
        old_pass = board_pass(home, "pi-3")
        until(lambda: not is_let_in(old_pass, "pi-3"), "the old board to be out")
        file = home.board_path("pi-3")
        new = tmp_path / "new"
        joined = ["join", str(file), "--folder", str(new), "--state", str(tmp_path / "pi-3.state")]
        assert lamina_agent(joined) == 0
        assert (new / "state" / "personal").read_bytes() == b"mine"
        assert 'device = "pi-3"' in (new / "agent.toml").read_text()
        at = board_pass(home, "pi-3")
        at.certificate = new / "board.crt"
        with Client(at, "pi-3") as client:
            assert client.publish("lamina/v1/greenhouse/device/pi-3/status")
    assert "revoked" in capsys.readouterr().out


def test_only_an_enrolled_board_is_replaced(tmp_path: Path) -> None:
    home = Home(made(tmp_path / "greenhouse", "pi-3").folder)
    with pytest.raises(ConfigError, match="pi-9 isn't enrolled"):
        home.replace("pi-9", days=5)
    before = home.register.find("pi-3")
    home.replace("pi-3", days=5)
    after = home.register.find("pi-3")
    assert before is not None
    assert after is not None
    assert after.serial != before.serial
    assert int(before.serial, 16) in home.register.revoked("device")
    assert (opened(home, "pi-3") / "board.crt").exists()
