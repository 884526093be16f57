"""Whether another program takes part under this device's name: a cloned memory card, a second service.

The newer one takes the older one's place at the broker. Where the broker says so (MQTT 5), the link does; others only
end the connection, and the two would take it from each other for ever. So each start of an agent has an instance in its
profile, which the broker retains, and listens to its own.

Another's instance is a rival's if it was not there when this one came, and its program was started later. One that was
started earlier may be a profile from several starts ago: a broker that is killed comes back with what it saved last. It
is a rival's, on a board whose clock runs ahead, only if it is heard again and again within a short time, as it is when
two programs take the connection from each other.

A board that follows signed orders alone believes nobody's word that it has a rival: whoever can publish as it, and the
broker, could end its agent by a forged profile. Its instances end in a code that only a program with this board's own
key can make, as a clone can, and the broker can't. An instance without it is passed over, and so is an earlier one,
which may be this board's own, said again; instances grow from one start to the next, whatever the clock does.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets
from pathlib import Path

from lamina.edge_agent.settings import AgentSettings
from lamina.models.errors import ConfigError
from lamina.models.storage.disk import DISK, Disk, read
from lamina.models.storage.replace import replace_file
from lamina.models.storage.secret_file import write_secret

log = logging.getLogger("lamina.agent")

AGAIN = 5
"""How often an earlier instance is heard within `WITHIN_S` before it is a rival's."""

WITHIN_S = 30.0

_FILE, _SECRET = "instance", "instance.key"
_CODE_BYTES = 12


def instance_of(started_ms: int, random: str, key: bytes = b"") -> str:
    """The name of one start of an agent; names sort as their times do.

    Args:
        started_ms: wall clock at the start, in milliseconds since 1970.
        random: tells apart starts at the same time.
        key: proves whose it is; empty: nothing does.
    """
    name = f"{started_ms:012x}-{random}"
    return f"{name}-{_code(name, key)}" if key else name


class Rivals:
    """What an agent has heard under its own name.

    Args:
        mine: its instance, as `instance_of` makes it.
        key: by which instances prove whose they are; empty: all are believed.

    Attributes:
        found: whether a rival was heard of.
    """

    def __init__(self, mine: str, key: bytes = b"") -> None:
        self._mine, self._key = mine, key
        self._before: set[str] = set()  # instances that were there when it came
        self._announced = False
        self._earlier: list[float] = []  # when an instance was heard that was started earlier, in seconds
        self.found = False

    @property
    def needs_proof(self) -> bool:
        """Whether nobody's word is believed."""
        return bool(self._key)

    def took_over(self, instance: str, now: float) -> bool:
        """Whether a profile of this instance, heard at ``now`` (seconds), shows that a rival has this device's name."""
        self.found = self.found or self._is_rival(instance, now)
        return self.found

    def _is_rival(self, instance: str, now: float) -> bool:
        if instance == self._mine:
            self._announced = True
        elif not self._announced and not self._key:  # who needs proof does not need to be told what was there before
            self._before.add(instance)
        if self._key:
            return instance > self._mine and self._is_proven(instance)
        if not self._announced or instance in {"", self._mine, *self._before}:
            return False
        if instance > self._mine:
            return True
        self._earlier = [at for at in self._earlier if at > now - WITHIN_S] + [now]
        return len(self._earlier) >= AGAIN

    def _is_proven(self, instance: str) -> bool:
        name, _, code = instance.rpartition("-")
        return hmac.compare_digest(code.encode(), _code(name, self._key).encode())


class Instances:
    """Names the starts of one board's agent, so that a later one sorts behind all before it.

    Args:
        settings: the operator's of the board.
        disk: the last one lies on.

    Raises:
        ConfigError: the board was enrolled, and its key can't be read.
    """

    def __init__(self, settings: AgentSettings, disk: Disk = DISK) -> None:
        self._path, self._disk = Path(settings.folder) / _FILE, disk
        self._secret = self._path.with_name(_SECRET)
        self.key = self._key_of(settings)

    def next(self, now_ms: int, random: str) -> str:
        """The name of a start."""
        try:
            last = int(read(self._path, self._disk), 16)
        except (OSError, ValueError):
            last = 0
        return instance_of(max(now_ms, last + 1) if self.key else now_ms, random, self.key)

    def note(self, instance: str) -> None:
        """The agent of this name takes part from now on."""
        if not self.key:
            return
        try:
            if self._drawn:
                write_secret(self._secret, self._drawn)
            replace_file(self._path, instance.partition("-")[0].encode(), self._disk)
        except OSError as error:
            log.warning("%s: can't be written: %s", self._path, error.strerror)

    def _key_of(self, settings: AgentSettings) -> bytes:
        """A secret that all that has this board's files has; empty for a board that follows whoever speaks."""
        self._drawn = ""
        if not settings.operator_key_file:
            return b""
        path = Path(settings.broker.key_file or self._secret)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            if settings.broker.key_file:
                raise ConfigError(f"broker.key_file {path}: no such file") from None
            self._drawn = secrets.token_hex(32)  # is written when the agent takes part
            content = self._drawn.encode()
        except OSError as error:
            raise ConfigError(f"{path}: can't be read: {error.strerror}") from error
        return hashlib.blake2b(content, digest_size=32, person=b"lamina instance").digest()


def _code(name: str, key: bytes) -> str:
    return hashlib.blake2b(name.encode(), digest_size=_CODE_BYTES, key=key).hexdigest()
