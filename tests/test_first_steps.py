"""The commands of docs/operating.md, in their order: from an empty folder to a board that is revoked."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest

from lamina.coordinator.cli import main
from lamina.coordinator.dashboard.text import until
from lamina.coordinator.enrolment.expiry import ending_soon, ends
from lamina.coordinator.enrolment.home import Home
from lamina.coordinator.enrolment.register import Register
from lamina.emulation.rig.mosquitto import free_port
from lamina.emulation.rig.program import Program, wait_until
from lamina.models.errors import ConfigError
from lamina.models.machine import module_command
from lamina.models.storage.secret_file import read_secret

pytest.importorskip("torch")

PAGE = Path(__file__).parent.parent / "docs" / "operating.md"
PROGRAMS = {
    "lamina": module_command("lamina.coordinator.cli"),
    "lamina-agent": module_command("lamina.edge_agent.cli"),
}
LIMIT_S = 240.0


def commands() -> list[str]:
    """The lines of the page's shell blocks."""
    blocks = re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line]


class Walk:
    """Runs the page's commands in a folder, in the background where they go on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.running: list[Program] = []
        self.ports = [free_port() for _ in range(3)]

    def program(self, line: str) -> Program:
        words = shlex.split(line.removesuffix(" &").replace("broker.local", "localhost"))
        flags = {
            "init": ["--port", self.ports[0], "--coordinator-port", self.ports[1]],
            "broker": ["--host", "127.0.0.1"],
            "enrol": ["--listen", "127.0.0.1", "--at", "127.0.0.1", "--port", self.ports[2]]
            if "--serve" in words
            else [],
        }.get(words[1], [])
        inside = "import os, sys; os.chdir(sys.argv[1]); os.execv(sys.argv[2], sys.argv[2:])"
        command = [sys.executable, "-c", inside, str(self.folder), *PROGRAMS[words[0]], *words[1:], *map(str, flags)]
        return Program(command, self.folder / f"log-{len(list(self.folder.glob('log-*')))}")

    def start(self, line: str) -> Program:
        program = self.program(line)
        program.start()
        self.running.append(program)
        return program

    def run(self, line: str) -> str:
        program = self.start(line)
        assert program.wait(LIMIT_S) == 0, f"{line}: {program.words}"
        return program.words

    def close(self) -> None:
        for program in self.running:
            program.close()


@pytest.fixture
def walk(tmp_path: Path, mosquitto_program: str):
    walk = Walk(tmp_path)
    yield walk
    walk.close()


@pytest.mark.slow
def test_the_commands_of_the_page_do_what_it_says(walk: Walk) -> None:
    lines = iter(commands())
    assert "greenhouse is federation greenhouse" in walk.run(next(lines))
    walk.run(next(lines))
    broker = walk.start(next(lines))
    wait_until(lambda: "listens with TLS" in broker.words, LIMIT_S, "the broker")
    enrolling = walk.start(next(lines))
    wait_until(lambda: "serving on port" in enrolling.words, LIMIT_S, "the codes")
    codes = re.findall(r"lamina-agent join (\S+@\S+)", enrolling.words)

    join, take_part = next(lines), next(lines)
    agents = []
    for board, code in zip(("pi-1", "pi-2"), codes, strict=True):
        assert f"this board is {board}" in walk.run(join.replace("CODE", code).replace("pi-1", board))
        rng = np.random.default_rng(len(board))
        np.savez(walk.folder / board / "samples.npz", x=rng.random((40, 1, 8, 8), np.float32), y=np.arange(40) % 10)
        agents.append(walk.start(take_part.replace("pi-1", board)))
    assert enrolling.wait(LIMIT_S) == 0

    settings = walk.folder / "greenhouse" / "federation.toml"
    settings.write_text(settings.read_text().replace("rounds = 20", "rounds = 2"))
    run = walk.run(next(lines))
    assert "signed with" in run
    assert "2 rounds in" in run
    assert "finished, round 2 of 2" in walk.run(next(lines))
    assert "pi-2                 device" in walk.run(next(lines))
    assert re.search(r"pi-1 .* 36[45] days", walk.run("lamina devices greenhouse/federation.toml"))

    assert "federation greenhouse" in walk.run(next(lines))  # mandate
    assert "lamina-agent join" in walk.run(next(lines))  # renew pi-1
    assert "broker: a new certificate" in walk.run(next(lines))
    assert "pi-2: revoked" in walk.run(next(lines))
    assert list(lines) == []


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a federation's folder in it."""
    folder = tmp_path_factory.mktemp("desk")
    Home(folder / "greenhouse").make(Register("greenhouse", ("broker.local",), 8883, 8884, 2, 64))
    (folder / "full").mkdir()
    (folder / "full" / "x").touch()
    return folder


def test_what_is_secret_is_its_owners_alone_and_in_no_output(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    assert main(shlex.split("enrol pi-1 --in greenhouse --qr --at 10.0.0.1")) == 0
    words = capsys.readouterr().out
    secret = [path for path in folder.rglob("*") if path.suffix in (".key", ".board", ".json") and path.is_file()]
    assert len(secret) >= 7
    for path in secret:
        assert path.stat().st_mode & 0o077 == 0, path
        if path.suffix == ".key":
            assert path.read_text().splitlines()[1] not in words
    assert words.count("\N{FULL BLOCK}") + words.count("\N{LOWER HALF BLOCK}") > 50  # the code as a picture


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("broker --host 0.0.0.0", "without TLS a broker is open to everybody"),
        ("broker --host 192.0.2.1 --folder elsewhere", "without TLS a broker is open to everybody"),
        ("broker --port 1 --folder greenhouse", "`lamina init` is told them"),
        ("init full", "isn't empty"),
        ("init new --name a/b", "can't stand in an MQTT topic"),
        ("enrol pi-1 --in elsewhere", "`lamina init FOLDER` makes a federation's folder"),
        ("enrol coordinator --in greenhouse", "can't be called 'coordinator'"),
        ("enrol ../x --in greenhouse", "can't stand in an MQTT topic"),
        ("enrol --in greenhouse", "name the boards to enrol"),
        ("enrol pi-9 --days 0 --in greenhouse", "--days must be at least 1"),
        ("revoke pi-9 --in greenhouse", "pi-9 isn't enrolled"),
        ("revoke broker --in greenhouse", "make a new federation folder"),
        ("renew pi-9 --in greenhouse", "pi-9 isn't enrolled"),
        ("enrol pi-9 --tier weak --in greenhouse", "--tier needs the bundle"),
        ("enrol barn --site-of pi-9 --in greenhouse", "pi-9 isn't enrolled"),
        ("mandate greenhouse/federation.toml", "bundle"),
    ],
)
def test_a_mistake_is_one_line(
    line: str, says: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    assert main(shlex.split(line)) == 2
    said = capsys.readouterr().err
    assert says in said
    assert len(said.splitlines()) == 1


def test_only_so_many_boards_are_let_in_as_the_broker_has_room_for(tmp_path: Path) -> None:
    home = Home(tmp_path / "greenhouse")
    home.make(Register("greenhouse", ("localhost",), 8883, 8884, 1, 64))
    home.enrol("pi-1", days=30, budget_mib=None, data="x.npz")
    with pytest.raises(ConfigError, match="was enrolled"):
        home.enrol("pi-1", days=30, budget_mib=None, data="x.npz")
    with pytest.raises(ConfigError, match="room for 1 devices"):
        home.enrol("pi-2", days=30, budget_mib=None, data="x.npz")


def test_what_ends_soon_is_said_with_what_to_do(tmp_path: Path) -> None:
    home = Home(tmp_path / "greenhouse")
    home.make(Register("greenhouse", ("localhost",), 8883, 8884, 9, 64))
    home.enrol("pi-1", days=10, budget_mib=None, data="x.npz")
    home.enrol("pi-2", days=300, budget_mib=None, data="x.npz")
    now = home.register.find("pi-1").until - 5 * 86400
    assert [line.split("   ")[-1] for line in ending_soon(home.folder, now)] == ["ends in 5 days: lamina renew pi-1"]
    assert "has ended: lamina renew pi-1" in ending_soon(home.folder, now + 6 * 86400)[0]
    assert ending_soon(tmp_path, now) == []
    assert ends(home.folder).keys() == {"pi-1", "pi-2"}
    assert [until(end, 1e9) for end in (None, 1_000_000_000 - 1, 1_000_000_000 + 3 * 86400)] == ["-", "ended", "3 days"]


def test_a_key_that_others_can_read_is_no_secret(tmp_path: Path) -> None:
    path = tmp_path / "operator.key"
    path.write_text("x")
    with pytest.raises(ConfigError, match="chmod 600"):
        read_secret(path, "the operator's key")
