"""Tickets: who may fetch a board's file, once, and until when; and how many wrong guesses are borne.

The file of tickets holds hashes of the codes' tokens, so that whoever reads a copy can't join by it, and a server that
is started again knows which codes are still good. A ticket is taken off the file before the board's file is sent: a
code is good once at most, and if the board doesn't get what was sent, the operator makes another.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path

import msgspec

from lamina.broker.wire.join_code import TOKEN_BYTES, hashed
from lamina.models.decoding import from_json
from lamina.models.errors import ConfigError
from lamina.models.storage.secret_file import write_secret

WRONG_PER_ADDRESS, WRONG_IN_ALL, WITHIN_S = 5, 100, 3600.0
"""Within an hour. A token has 48 bits: even all hundred guesses meet one of a thousand codes once in 3 * 10^9 hours."""

_MOST_ADDRESSES = 1024


class Ticket(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One code.

    Attributes:
        device: whose file it fetches.
        token: hash of its token.
        until: seconds since 1970.
    """

    device: str
    token: str
    until: int


class Tickets:
    """The file of tickets, which one program at a time changes (the folder's lock).

    Args:
        path: of the file.
        clock: seconds since 1970.
    """

    def __init__(self, path: Path, clock: Callable[[], float]) -> None:
        self._path, self._clock = path, clock

    def open(self) -> list[Ticket]:
        """The tickets that are still good.

        Raises:
            ConfigError: the file is damaged.
        """
        try:
            tickets = from_json(self._path.read_bytes(), list[Ticket])
        except FileNotFoundError:
            return []
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise ConfigError(f"{self._path}: can't be read: {error}; remove it, and make new codes") from None
        return [ticket for ticket in tickets if ticket.until > self._clock()]

    def issue(self, device: str, minutes: float) -> bytes:
        """A new token for a device, in the place of the one before."""
        token = secrets.token_bytes(TOKEN_BYTES)
        ticket = Ticket(device, hashed(token.hex()), int(self._clock() + 60 * minutes))
        self._write([*(other for other in self.open() if other.device != device), ticket])
        return token

    def take(self, token: str) -> str | None:
        """The device of a token, which is good no more; ``None`` if there is none."""
        tickets, sought = self.open(), hashed(token)
        found = next((ticket for ticket in tickets if secrets.compare_digest(ticket.token, sought)), None)
        if found is None:
            return None
        self._write([ticket for ticket in tickets if ticket is not found])
        return found.device

    def forget(self, device: str) -> None:
        """No code of a device is good any more."""
        self._write([ticket for ticket in self.open() if ticket.device != device])

    def _write(self, tickets: list[Ticket]) -> None:
        write_secret(self._path, msgspec.json.format(msgspec.json.encode(tickets), indent=1) + b"\n")


class WrongGuesses:
    """Counts wrong guesses, by address and in all, within the last hour."""

    def __init__(self) -> None:
        self._of: dict[str, list[float]] = {}

    def may_try(self, address: str, now: float) -> bool:
        """Whether an address is answered at all."""
        self._forget(now)
        count = sum(map(len, self._of.values()))
        return len(self._of.get(address, ())) < WRONG_PER_ADDRESS and count < WRONG_IN_ALL

    def note(self, address: str, now: float) -> None:
        """One more wrong guess."""
        if address in self._of or len(self._of) < _MOST_ADDRESSES:
            self._of.setdefault(address, []).append(now)

    def _forget(self, now: float) -> None:
        recent = {address: [at for at in times if at > now - WITHIN_S] for address, times in self._of.items()}
        self._of = {address: times for address, times in recent.items() if times}
