"""``lamina-agent join CODE``: fetch this board's certificate and settings, and trust nobody but whom the code names."""

from __future__ import annotations

import argparse
import socket
import ssl
from pathlib import Path

import msgspec

from lamina.broker.programs.exit_status import ExitStatus
from lamina.broker.settings import load_toml, read_toml
from lamina.broker.wire.join_code import (
    MOST_ANSWER_BYTES,
    SERVER,
    BoardFile,
    JoinAnswer,
    JoinCode,
    JoinRequest,
    checked,
    parsed,
    read_board_file,
)
from lamina.edge_agent.service.moving import unpack
from lamina.edge_agent.settings import AgentSettings, anchored
from lamina.models.decoding import from_json
from lamina.models.errors import ConfigError, DecodeError, LinkError, brief
from lamina.models.storage.secret_file import write_secret

_PATIENCE_S = 20.0


def main(arguments: list[str]) -> int:
    """Join, and say what comes next."""
    parser = argparse.ArgumentParser(
        prog="lamina-agent join",
        description="Fetch this board's certificate and settings.",
        epilog="example: lamina-agent join lusab-babad-gutih-tugad-hupuk@192.168.1.10 --folder /var/lib/lamina",
    )
    parser.add_argument("code", nargs="+", help="as `lamina enrol` prints it; or a file NAME.board that it made")
    parser.add_argument("--folder", type=Path, help="for the files; left out, the device's name, here")
    parser.add_argument(
        "--state", type=Path, metavar="FILE", help="of `lamina-agent pack` on the board that this replaces"
    )
    options = parser.parse_args(arguments)
    code = " ".join(options.code)
    file = _from_disk(Path(code)) if code.endswith(".board") else fetched(parsed(code))
    folder = options.folder or Path(file.device)
    written(file, folder)
    if options.state is not None:
        settings = anchored(load_toml(folder / "agent.toml", AgentSettings), folder)
        print(
            f"{options.state}: {unpack(options.state, Path(settings.folder))} files of state are in {settings.folder}"
        )
    print(
        f"{folder}: this board is {file.device} of federation {file.federation}. Put its samples where "
        f"{folder / 'agent.toml'} says (data), and start it:\n    lamina-agent --config {folder / 'agent.toml'}"
    )
    return ExitStatus.DONE


def fetched(code: JoinCode) -> BoardFile:
    """The board's file, from the server of a code.

    Raises:
        ConfigError: the server is another's, or does not take the code.
        LinkError: it doesn't answer.
    """
    authority = _asked(code, JoinRequest(ask="authority"), _trusting_nobody()).authority
    try:
        certificate = ssl.PEM_cert_to_DER_cert(authority)
    except ValueError:
        certificate = b""
    if not code.names(certificate):
        raise ConfigError(
            f"what answers at {code.host}:{code.port} isn't the federation of this code: the code is mistyped, or "
            "somebody stands in between. Nothing was sent there"
        )
    trusting = ssl.create_default_context(cadata=authority)
    answer = _asked(code, JoinRequest(ask="board", token=code.token.hex()), trusting)
    if answer.board is None:
        raise ConfigError(f"{code.host}:{code.port}: {brief(answer.error) or 'it sent nothing'}")
    try:
        return checked(answer.board)
    except DecodeError as error:
        raise ConfigError(f"{code.host}:{code.port}: {error}") from None


def written(file: BoardFile, folder: Path) -> None:
    """Put the files in a folder, in the place of those before; the settings of a board that joined before stay.

    Raises:
        ConfigError: another board's files are there, or the folder can't be written to.
    """
    settings = folder / "agent.toml"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if settings.exists() and read_toml(settings).get("device") != file.device:
            raise ConfigError(f"{settings} is another board's: choose another --folder")
        for name, content in file.files.items():
            if name != "agent.toml" or not settings.exists():
                write_secret(folder / name, content)
    except OSError as error:
        raise ConfigError(f"{error.filename or folder}: can't be written: {error.strerror}") from None


def _from_disk(path: Path) -> BoardFile:
    try:
        return read_board_file(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path}: can't be read: {error.strerror}") from None
    except DecodeError as error:
        raise ConfigError(f"{path}: {error}") from None


def _asked(code: JoinCode, request: JoinRequest, context: ssl.SSLContext) -> JoinAnswer:
    """One line there, and one back."""
    place = f"{code.host}:{code.port}"
    try:
        with (
            socket.create_connection((code.host, code.port), _PATIENCE_S) as plain,
            context.wrap_socket(plain, server_hostname=SERVER) as link,
            link.makefile("rb") as answers,
        ):
            link.sendall(msgspec.json.encode(request) + b"\n")
            line = answers.readline(MOST_ANSWER_BYTES)
    except ssl.SSLCertVerificationError as error:
        raise ConfigError(
            f"{place} can't prove that it is the federation of this code: {error.verify_message}; somebody stands in "
            "between, or this board's clock is wrong"
        ) from None
    except OSError as error:
        raise LinkError(
            f"{place} doesn't answer: {error.strerror or error}; does `lamina enrol --serve` run?"
        ) from None
    try:
        return from_json(line, JoinAnswer)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise ConfigError(f"{place}: what answers there isn't `lamina enrol --serve`") from None


def _trusting_nobody() -> ssl.SSLContext:
    """TLS that checks no certificate, for the first question alone: its answer is compared with the code."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
