"""A board joins by a code: once, in time, from nobody but whom the code names, whatever a guesser does."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import ssl
import stat
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from queue import Queue

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.broker.wire.join_code import (
    PORT,
    SERVER,
    BoardFile,
    JoinCode,
    JoinRequest,
    fingerprint,
    parsed,
    read_board_file,
    words,
)
from lamina.coordinator.enrolment.certificates import Authority, utc_now
from lamina.coordinator.enrolment.home import Home
from lamina.coordinator.enrolment.register import Register
from lamina.coordinator.enrolment.serving import JoinServer
from lamina.coordinator.enrolment.tickets import WITHIN_S, WRONG_IN_ALL, WRONG_PER_ADDRESS, WrongGuesses
from lamina.edge_agent.commands.join import fetched, main, written
from lamina.models.errors import ConfigError, DecodeError, LinkError
from tests.patience import PATIENCE_S


class Clock:
    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "greenhouse")
    home.make(Register("greenhouse", ("localhost",), 8883, 8884, 10, 64))
    home.enrol("pi-3", days=30, budget_mib=64, data="x.npz")
    return home


@asynccontextmanager
async def served(home: Home, clock: Clock) -> AsyncIterator[int]:
    """The server's port; it stays when no code is open."""
    port = asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(JoinServer(home, clock).serve("127.0.0.1", 0, port.set_result))
    await asyncio.wait({serving, port}, return_when=asyncio.FIRST_COMPLETED)
    try:
        yield await port
    finally:
        serving.cancel()
        await asyncio.wait({serving})


def at(code: JoinCode, port: int) -> JoinCode:
    return JoinCode(code.token, code.fingerprint, "127.0.0.1", port)


async def test_a_code_brings_a_board_its_files_once(home: Home, tmp_path: Path) -> None:
    clock = Clock()
    code = home.code("pi-3", 10**6, "127.0.0.1", PORT)
    home.enrol("pi-4", days=30, budget_mib=64, data="x.npz")
    home.code("pi-4", 10**6, "127.0.0.1", PORT)  # the server stays as long as a code is open
    async with served(home, clock) as port:
        file = await asyncio.to_thread(fetched, at(code, port))
        with pytest.raises(ConfigError, match="this code is wrong, was used, or is over"):
            await asyncio.to_thread(fetched, at(code, port))
    assert (file.federation, file.device) == ("greenhouse", "pi-3")
    assert not home.board_path("pi-3").exists()  # the key is on the board alone
    written(file, tmp_path / "board")
    for path in (tmp_path / "board").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_a_server_that_is_started_again_knows_which_codes_are_good(home: Home) -> None:
    clock = Clock()
    codes = {}
    for board in ("pi-4", "pi-5"):
        home.enrol(board, days=30, budget_mib=64, data="x.npz")
        codes[board] = home.code(board, 10**6, "127.0.0.1", PORT)
    home.code("pi-3", 10**6, "127.0.0.1", PORT)
    async with served(home, clock) as port:
        await asyncio.to_thread(fetched, at(codes["pi-4"], port))
    async with served(Home(home.folder), clock) as port:
        with pytest.raises(ConfigError, match="was used"):
            await asyncio.to_thread(fetched, at(codes["pi-4"], port))
        assert (await asyncio.to_thread(fetched, at(codes["pi-5"], port))).device == "pi-5"


def test_a_code_is_over_after_its_time(home: Home) -> None:
    clock = Clock()
    tickets = home.tickets(clock)
    token = tickets.issue("pi-3", 10)
    clock.now += 601
    assert tickets.take(token.hex()) is None
    assert tickets.open() == []


def test_a_new_code_ends_the_one_before(home: Home) -> None:
    tickets = home.tickets(Clock())
    first, second = (tickets.issue("pi-3", 10) for _ in range(2))
    assert tickets.take(first.hex()) is None
    assert tickets.take(second.hex()) == "pi-3"


def test_the_file_of_tickets_lets_nobody_in(home: Home) -> None:
    token = home.tickets(Clock()).issue("pi-3", 10)
    path = home.folder / "authority" / "tickets.json"
    assert token.hex() not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_whoever_stands_in_between_is_found_out_and_learns_nothing(home: Home) -> None:
    """Its own authority has another fingerprint; the right authority's certificate is no use without its key."""
    clock = Clock()
    code = home.code("pi-3", 10**6, "127.0.0.1", PORT)
    evil = Authority.new("lamina greenhouse devices", utc_now())
    for shown in (evil.pem, home.authority().pem):
        heard: list[bytes] = []
        async with impostor(evil, shown, heard) as port:
            with pytest.raises(ConfigError, match=r"stands in between|somebody stands"):
                await asyncio.to_thread(fetched, at(code, port))
        assert not any(code.token.hex().encode() in line for line in heard)
    async with served(home, clock) as port:
        assert (await asyncio.to_thread(fetched, at(code, port))).device == "pi-3"


@asynccontextmanager
async def impostor(authority: Authority, shown: str, heard: list[bytes]) -> AsyncIterator[int]:
    issued = authority.issue(SERVER, utc_now(), 2, [SERVER])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    pair = Path(os.environ.get("TMPDIR", "/tmp")) / f"impostor-{os.getpid()}.pem"
    pair.write_text(issued.key + issued.certificate)
    context.load_cert_chain(pair)
    pair.unlink()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.readline())
        writer.write(json.dumps({"authority": shown}).encode() + b"\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def test_guessing_ends_after_a_few_tries(home: Home) -> None:
    clock = Clock()
    code = home.code("pi-3", 10**6, "127.0.0.1", PORT)
    der = home.authority().der
    async with served(home, clock) as port:
        for guess in range(WRONG_PER_ADDRESS):
            token = guess.to_bytes(6, "big")
            wrong = JoinCode(token, fingerprint(token, der), "127.0.0.1", port)
            with pytest.raises(ConfigError, match="is wrong, was used"):
                await asyncio.to_thread(fetched, wrong)
        with pytest.raises(ConfigError, match="too many wrong codes"):
            await asyncio.to_thread(fetched, at(code, port))  # not even the right one, from there
        clock.now += WITHIN_S + 1
        assert (await asyncio.to_thread(fetched, at(code, port))).device == "pi-3"


def test_many_addresses_have_no_more_tries_together() -> None:
    wrong = WrongGuesses()
    for n in range(WRONG_IN_ALL):
        assert wrong.may_try(f"10.0.0.{n}", 0.0)
        wrong.note(f"10.0.0.{n}", 0.0)
    assert not wrong.may_try("10.0.1.1", 1.0)
    assert wrong.may_try("10.0.1.1", WITHIN_S + 1)


async def test_noise_costs_the_server_nothing(home: Home) -> None:
    code = home.code("pi-3", 10**6, "127.0.0.1", PORT)
    async with served(home, Clock()) as port:
        with closing(socket.create_connection(("127.0.0.1", port))) as plain:
            plain.sendall(os.urandom(2000))
        trusting = ssl._create_unverified_context()
        for noise in (
            b"\n",
            b"x" * 100_000,
            b"{" * 900 + b"\n",
            b'{"ask": "file:///etc/passwd"}\n',
            b'{"ask":"board"}\n',
        ):
            await asyncio.to_thread(said, trusting, port, noise)
        assert (await asyncio.to_thread(fetched, at(code, port))).device == "pi-3"


def said(context: ssl.SSLContext, port: int, line: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), 10) as plain, context.wrap_socket(plain) as link:
        try:
            link.sendall(line)
            return link.recv(1000)
        except OSError:
            return b""


@given(
    st.binary(min_size=6, max_size=6),
    st.binary(min_size=4, max_size=4),
    st.sampled_from(["pi.local", "::1", "10.0.0.7"]),
    st.integers(1, 65535),
)
def test_a_code_says_all_of_itself(token: bytes, mark: bytes, host: str, port: int) -> None:
    code = JoinCode(token, mark, host, port)
    assert parsed(str(code)) == code
    assert parsed(str(code).split("@")[0].replace("-", "  ").upper() + "@" + str(code).split("@")[1]) == code


def test_words_are_those_of_the_paper() -> None:
    assert words(bytes([127, 0, 0, 1])) == "lusab-babad"
    assert words(bytes([63, 84, 220, 193])) == "gutih-tugad"


@pytest.mark.parametrize(
    "code",
    ["", "lusab", "lusab-babad-gutih-tugad-hupuk", "lusab-babad-gutih-tugad@h", "lusab-babad-gutih-tugad-hupux@h",
     "lusab-babad-gutih-tugad-hupuk@h:0", "lusab-babad-gutih-tugad-hupuk@h/x", "lusab-babad-gutih-tugad-hupuk@h:99999"],
)  # fmt: skip
def test_what_is_no_code_is_said_before_anything_is_sent(code: str) -> None:
    with pytest.raises(ConfigError, match=r"is no code|is no place"):
        parsed(code)


def test_where_nobody_serves_it_says_so(any_closed_port: int) -> None:
    with pytest.raises(LinkError, match="does `lamina enrol --serve` run"):
        fetched(JoinCode(b"abcdef", b"abcd", "127.0.0.1", any_closed_port))


def test_a_boards_file_writes_no_others(home: Home, tmp_path: Path) -> None:
    file = home.board_file("pi-3")
    for files in ({}, {**file.files, "../../x": "x"}, {**dict(list(file.files.items())[1:]), "/etc/x": "x"}):
        with pytest.raises(DecodeError, match="no file of a board"):
            read_board_file(msgspec.json.encode(BoardFile("greenhouse", "pi-3", files)))
    with pytest.raises(DecodeError):
        read_board_file(b"\xff")


def test_a_carried_file_does_what_a_code_does_and_joining_again_keeps_the_settings(
    home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "board"
    carried = home.board_path("pi-3")
    assert main([str(carried), "--folder", str(folder)]) == 0
    assert "lamina-agent --config" in capsys.readouterr().out
    (folder / "agent.toml").write_text((folder / "agent.toml").read_text() + "# mine\n")
    before = (folder / "board.crt").read_text()
    home.renew("pi-3", days=30)
    assert main([str(carried), "--folder", str(folder)]) == 0
    assert "# mine" in (folder / "agent.toml").read_text()
    assert (folder / "board.crt").read_text() != before
    home.enrol("pi-4", days=30, budget_mib=None, data="x.npz")
    with pytest.raises(ConfigError, match="another board's"):
        main([str(home.board_path("pi-4")), "--folder", str(folder)])


def test_requests_are_small() -> None:
    assert len(msgspec.json.encode(JoinRequest(ask="board", token="f" * 12))) < 100


async def test_a_code_whose_file_is_gone_is_answered(home: Home) -> None:
    code = home.code("pi-3", 10**6, "127.0.0.1", PORT)
    home.board_path("pi-3").unlink()
    async with served(home, Clock()) as port:
        with pytest.raises(ConfigError, match="`lamina renew`"):
            await asyncio.to_thread(fetched, at(code, port))


class SlowHome(Home):
    """A machine that has much else to do."""

    def board_file(self, device: str) -> BoardFile:
        time.sleep(1.5)
        return super().board_file(device)


def test_the_board_with_the_last_open_code_gets_its_file_before_the_server_ends(home: Home) -> None:
    code, ports = home.code("pi-3", 10**6, "127.0.0.1", PORT), Queue[int]()
    serving = JoinServer(SlowHome(home.folder), Clock()).serve("127.0.0.1", 0, ports.put)
    program = threading.Thread(target=asyncio.run, args=(serving,))  # whose end ends whatever its loop still does
    program.start()
    try:
        assert fetched(at(code, ports.get(timeout=PATIENCE_S))).device == "pi-3"
    finally:
        program.join()
