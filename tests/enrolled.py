"""A federation's folder with some boards, its broker as `lamina broker` runs it, and clients with any certificate."""

from __future__ import annotations

import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from lamina.broker.wire.topics import Topics
from lamina.coordinator.enrolment.home import Home
from lamina.coordinator.enrolment.register import Register
from lamina.emulation.rig.mosquitto import free_port
from lamina.emulation.rig.program import Program, wait_until
from lamina.models.machine import module_command
from tests.patience import PATIENCE_S

GREENHOUSE = Topics("greenhouse")


def made(folder: Path, *boards: str, max_devices: int = 50, memory_mib: int = 128) -> Home:
    """A federation's folder in which these boards are enrolled; their files are opened in ``folder/boards``."""
    home = Home(folder)
    home.make(Register("greenhouse", ("localhost",), free_port(), free_port(), max_devices, memory_mib))
    for board in boards:
        home.enrol(board, days=30, budget_mib=64, data="samples.npz")
        opened(home, board)
    return home


def opened(home: Home, board: str) -> Path:
    """The folder with a board's files, as joining leaves it."""
    folder = home.folder.parent / f"{home.folder.name}-{board}"
    folder.mkdir(exist_ok=True)
    for name, content in home.board_file(board).files.items():
        (folder / name).write_text(content)
    return folder


@contextmanager
def broker_of(home: Home, *flags: str) -> Iterator[Program]:
    """`lamina broker` of the folder, running."""
    program = Program(
        [
            *module_command("lamina.coordinator.cli"),
            "broker",
            "--folder",
            str(home.folder),
            "--host",
            "127.0.0.1",
            *flags,
        ],
        home.folder.parent / f"{home.folder.name}-broker.log",
    )
    program.start()
    try:
        wait_until(lambda: "listens with TLS" in program.words or not program.running, what="the broker")
        assert program.running, program.words
        yield program
    finally:
        program.terminate()


def until(condition: Callable[[], bool], what: str) -> None:
    wait_until(condition, PATIENCE_S, what)


@dataclass
class Pass:
    """A certificate with its key, and where it is tried."""

    home: Home
    certificate: Path | None
    port: int
    authority: Path | None = None

    @property
    def context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.authority or self.home.broker / "ca.crt"))
        if self.certificate:
            context.load_cert_chain(self.certificate, self.certificate.with_suffix(".key"))
        return context

    def tool(self, program: str, *arguments: str, timeout_s: float = 20.0) -> subprocess.CompletedProcess[str]:
        """Run mosquitto_pub or mosquitto_sub."""
        flags = ["-h", "localhost", "-p", str(self.port), "--cafile", str(self.home.broker / "ca.crt"), "-V", "5"]
        if self.certificate:
            flags += ["--cert", str(self.certificate), "--key", str(self.certificate.with_suffix(".key"))]
        return subprocess.run(
            [program, *flags, *arguments], capture_output=True, text=True, timeout=timeout_s, check=False
        )


def board_pass(home: Home, board: str, port: int | None = None) -> Pass:
    """A board's certificate, on the devices' way in unless another is named."""
    folder = home.folder.parent / f"{home.folder.name}-{board}"
    return Pass(home, folder / "board.crt", port or home.register.port)


def coordinator_pass(home: Home, port: int | None = None) -> Pass:
    """The coordinator's certificate, on its own way in unless another is named."""
    return Pass(home, home.folder / "coordinator" / "coordinator.crt", port or home.register.coordinator_port)


@dataclass
class Client:
    """A raw client, whose id is whatever it says."""

    at: Pass
    name: str = ""
    clean: bool = True
    heard: list[tuple[str, bytes]] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)

    def __enter__(self) -> Self:
        self.client = mqtt.Client(
            CallbackAPIVersion.VERSION2, self.name, protocol=mqtt.MQTTv5, reconnect_on_failure=False
        )
        self.client.tls_set_context(self.at.context)
        self.connected = False
        self.acknowledged: set[int] = set()
        self.client.on_connect = self._on_connect
        self.client.on_message = lambda client, data, message: self.heard.append((message.topic, message.payload))
        self.client.on_publish = self._on_publish
        self.client.on_disconnect = lambda client, data, flags, reason, properties: self.ended.append(str(reason))
        properties = Properties(PacketTypes.CONNECT)
        if not self.clean:
            properties.SessionExpiryInterval = 3600
        self.client.connect("localhost", self.at.port, clean_start=self.clean, properties=properties)
        self.client.loop_start()
        until(lambda: self.connected or bool(self.ended), "the broker's answer")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.client.disconnect()
        self.client.loop_stop()

    def publish(self, topic: str, payload: bytes = b"x", retain: bool = False) -> bool:
        """Whether the broker took it."""
        before = len(self.refused)
        sent = self.client.publish(topic, payload, 1, retain).mid
        until(lambda: sent in self.acknowledged or bool(self.ended), "an acknowledgement")
        return sent in self.acknowledged and len(self.refused) == before

    def subscribe(self, *topics: str) -> None:
        for topic in topics:
            self.client.subscribe(topic, 1)

    def _on_connect(self, client, data, flags, reason, properties) -> None:
        if reason.is_failure:
            self.ended.append(str(reason))
        else:
            self.connected = True

    def _on_publish(self, client, data, mid, reason, properties) -> None:
        if reason.is_failure:
            self.refused.append(str(reason))
        self.acknowledged.add(mid)


def is_let_in(at: Pass, name: str = "x") -> bool:
    """Whether the broker answers a client with this certificate."""
    try:
        with Client(at, name) as client:
            return client.connected
    except (OSError, ssl.SSLError):
        return False


def settled(seconds: float = 0.4) -> None:
    """What was to be delivered over loopback has been by then; what was not is only told by its absence."""
    time.sleep(seconds)


def idle_sockets(port: int, count: int) -> list[socket.socket]:
    """Connections on which nobody says anything."""
    return [socket.create_connection(("127.0.0.1", port), timeout=5) for _ in range(count)]
