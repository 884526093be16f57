"""Starts a broker as a process of its own: an installed mosquitto, else the embedded one.

    with running_broker() as broker:
        dial = mqtt_dial(broker.address)

Meant for emulations, tests and a desk: anonymous, on the loopback interface unless told otherwise. A fleet's broker has
TLS: `lamina init` writes its files, with which it is started here, too (`Tls`).
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from lamina.broker.link.address import BrokerAddress
from lamina.models.errors import ConfigError
from lamina.models.machine import module_command

Kind = Literal["auto", "mosquitto", "amqtt"]

READY_S = 15.0
STOP_S = 10.0
_FOLDERS_OFF_PATH = ("/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin")  # where packages put mosquitto
_HOW_TO_GET = "install mosquitto (Debian: apt install mosquitto; macOS: brew install mosquitto)"

# Becomes the program that follows, asking the kernel to end it when its parent ends, were it by SIGKILL.
_WITH_ITS_PARENT = (
    "import ctypes, os, signal, sys\n"
    "PR_SET_PDEATHSIG = 1\n"
    "ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)\n"
    "os.execv(sys.argv[1], sys.argv[1:])\n"
)

# Each limit is stated because the default loses something: 1,000 queued messages are fewer than a model's retained
# chunks, versions differ in how large a packet they take, and 0 does not mean "unlimited" in all of them.
_MOSQUITTO = """\
listener {port} {host}
allow_anonymous true
set_tcp_nodelay true
max_packet_size 4194304
max_queued_messages 100000
max_queued_bytes 536870912
max_inflight_messages 20
log_dest stderr
log_type error
log_type warning
"""


@dataclass(frozen=True, slots=True)
class RunningBroker:
    """A broker that runs until its context ends.

    Attributes:
        kind: ``mosquitto`` or ``amqtt``.
        address: where it listens, and the protocol that it speaks.
        pid: its process.
    """

    kind: Literal["mosquitto", "amqtt"]
    address: BrokerAddress
    pid: int


@dataclass(frozen=True, slots=True)
class Tls:
    """How a broker with TLS is started.

    Attributes:
        folder: with the files that its configuration names; it keeps its state there, too.
        configuration: the text of mosquitto.conf, with further lines that hold for all listeners.
    """

    folder: Path
    configuration: Callable[[str], str]


@contextmanager
def running_broker(
    kind: Kind = "auto",
    *,
    port: int = 0,
    host: str = "127.0.0.1",
    folder: Path | None = None,
    tls: Tls | None = None,
) -> Iterator[RunningBroker]:
    """Start a broker, wait until it answers, and end it with the context.

    Args:
        kind: ``auto`` is mosquitto where it is installed, else amqtt.
        port: to listen on; 0 picks a free one.
        host: address to listen on.
        folder: for configuration, log and retained messages, which mosquitto keeps there from run to run; ``None``
            is a temporary one.
        tls: a configuration of the caller's own, which says the port that is given here.

    Raises:
        ConfigError: the broker isn't installed, the port is taken, or it did not start.
    """
    program = choose(kind, find_mosquitto(), has_amqtt())
    port = _free_port(host, port)
    with tempfile.TemporaryDirectory(prefix="lamina-broker-") as temporary:
        home = tls.folder if tls else Path(temporary) if folder is None else folder
        home.mkdir(parents=True, exist_ok=True)
        if program is not None:
            text = (
                tls.configuration(_as_root())
                if tls
                else mosquitto_configuration(host, port, home, keep=folder is not None)
            )
            command = _mosquitto_command(program, home, text)
        else:
            command = [*module_command("lamina.broker.brokers.embedded"), "--host", host, "--port", str(port)]
        with _process(command, home / "broker.log", home if tls else None) as process:
            _wait_until_it_answers(process, host, port, home / "broker.log")
            yield RunningBroker(
                kind="mosquitto" if program is not None else "amqtt",
                address=BrokerAddress(
                    host=_reachable(host), port=port, protocol="5" if program is not None else "3.1.1"
                ),
                pid=process.pid,
            )


def choose(kind: Kind, mosquitto: str | None, amqtt: bool) -> str | None:
    """The mosquitto to start, or ``None`` for amqtt, given what is installed.

    Raises:
        ConfigError: the wanted one isn't.
    """
    if kind != "amqtt" and mosquitto is not None:
        return mosquitto
    if kind == "mosquitto":
        raise ConfigError(f"mosquitto isn't on PATH or in {', '.join(_FOLDERS_OFF_PATH)}: {_HOW_TO_GET}")
    if not amqtt:
        other = "" if kind == "amqtt" else f"{_HOW_TO_GET}, or "
        raise ConfigError(f"no broker to start: {other}take the embedded one (pip install 'lamina-fl[emulation]')")
    return None


def find_mosquitto() -> str | None:
    """Path of the installed mosquitto; it is often off a user's PATH. ``None`` where there is none that runs."""
    path = shutil.which("mosquitto") or shutil.which("mosquitto", path=os.pathsep.join(_FOLDERS_OFF_PATH))
    return path if path and _runs(path) else None


@cache
def _runs(program: str) -> bool:
    """Whether a file is a program of this machine: it may be one of another processor, or no program at all."""
    try:
        subprocess.run([program, "-h"], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    except OSError:
        return False
    return True


def has_amqtt() -> bool:
    """Whether the embedded broker can be started."""
    return importlib.util.find_spec("amqtt") is not None


def mosquitto_configuration(host: str, port: int, folder: Path, *, keep: bool) -> str:
    """The text of mosquitto.conf; ``keep`` has it save retained messages in ``folder``."""
    text = _MOSQUITTO.format(host=host, port=port)
    if keep:
        text += f"persistence true\npersistence_location {folder.resolve()}/\nautosave_interval 300\n"
    return text + _as_root()


def _as_root() -> str:
    """What root must say: else mosquitto becomes `nobody`, who can't write to the folder."""
    return "user root\n" if hasattr(os, "geteuid") and os.geteuid() == 0 else ""


def _mosquitto_command(program: str, folder: Path, text: str) -> list[str]:
    file = folder.resolve() / "running.conf"
    file.write_text(text, encoding="utf-8")
    command = [program, "-c", str(file)]
    return [sys.executable, "-ISc", _WITH_ITS_PARENT, *command] if sys.platform == "linux" else command


def _reachable(host: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _free_port(host: str, port: int) -> int:
    """The port itself, or a free one for 0.

    Raises:
        ConfigError: it can't be listened on.
    """
    with socket.socket(_family(host), socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigError(f"broker: can't listen on {host}:{port}: {error.strerror}; choose another port") from None
        return int(probe.getsockname()[1])


@contextmanager
def _process(command: list[str], log: Path, folder: Path | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """A child that is ended with the context, and that a Ctrl-C at the terminal does not reach before its clients."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT, start_new_session=True, cwd=folder
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.communicate(timeout=STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def _wait_until_it_answers(process: subprocess.Popen[bytes], host: str, port: int, log: Path) -> None:
    """Return when the broker takes connections.

    Raises:
        ConfigError: it ended, or took too long.
    """
    deadline = time.monotonic() + READY_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with socket.create_connection((_reachable(host), port), timeout=1.0):
                return
        except OSError:
            time.sleep(0.01)
    said = "; ".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-5:]) or "nothing"
    what = "did not answer" if process.poll() is None else f"ended with status {process.returncode}"
    raise ConfigError(f"broker on {host}:{port} {what}; it said: {said}")
