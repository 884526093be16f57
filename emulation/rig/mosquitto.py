"""A mosquitto on a port of its own that can be stopped, killed, emptied and started again."""

from __future__ import annotations

import secrets
import socket
from pathlib import Path

from lamina.broker.brokers.starter import find_mosquitto, mosquitto_configuration
from lamina.emulation.rig.program import Program, wait_until
from lamina.models.errors import ConfigError

_READY_S = 60.0


class Mosquitto(Program):
    """The broker of a rig.

    Args:
        folder: for its configuration, its log and, where it keeps anything, what it keeps.
        keeps: whether retained messages and sessions survive an orderly end (mosquitto's persistence).
        extra: more lines of its configuration.

    Raises:
        ConfigError: mosquitto isn't installed.
    """

    def __init__(self, folder: Path, *, keeps: bool = False, extra: str = "") -> None:
        program = find_mosquitto()
        if program is None:
            raise ConfigError("mosquitto isn't installed, and a rig breaks a real broker")
        folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self._folder = folder
        file = folder / "mosquitto.conf"
        text = mosquitto_configuration("127.0.0.1", self.port, folder, keep=keeps)
        file.write_text(f"{text}{extra}\n", encoding="utf-8")
        super().__init__([program, "-c", str(file)], folder / "broker.log")

    def start(self, *arguments: str) -> None:
        """Start it, and return when it takes connections."""
        super().start(*arguments)
        wait_until(self._answers, _READY_S, "mosquitto's first answer")

    def forget(self) -> None:
        """Have it know nothing of what was said before, when it is started again."""
        for path in self._folder.glob("mosquitto.db*"):
            path.unlink()

    def _answers(self) -> bool:
        if not self.running:
            raise ConfigError(f"mosquitto ended with status {self.status}: {self.words[-500:]}")
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1.0).close()
        except OSError:
            return False
        return True


def free_port() -> int:
    """A port of the loopback interface on which nobody listens, outside the range that the kernel hands out itself."""
    for _ in range(100):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", 20000 + secrets.randbelow(12000)))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise ConfigError("no free port was found between 20000 and 32000")
