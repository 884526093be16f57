"""The code by which a board is brought into a federation, and what the board and the server say to each other.

    lusab-babad-gutih-tugad-hupuk@192.168.1.10:8885

Five words of five letters (proquints, arXiv 0901.4016: sixteen bits each, that can be read out over a phone), and where
the server is. The first three are the *token*, 48 random bits that are good once, for a while. The last two are a
fingerprint of the federation's authority, keyed with the token (HMAC-SHA-256): whoever stands in between does not know
the token, so can't look for an authority of its own that has the same fingerprint, and a board that meets another
fingerprint says nothing. The token crosses the network only inside TLS that the authority's own certificate has proved.

Board and server exchange lines of JSON, one each way:

    {"ask": "authority"}            ->  {"authority": PEM}     over TLS that proves nothing yet
    {"ask": "board", "token": ...}  ->  {"board": BoardFile}   over TLS proved by that authority, to the name `SERVER`
                                        {"error": ...}
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass
from typing import Annotated

import msgspec
from msgspec import Meta

from lamina.broker.wire.bounds import NAME, DeviceName, Name
from lamina.models.decoding import from_json
from lamina.models.errors import ConfigError, DecodeError

PORT = 8885
SERVER = "join.lamina"
"""What the server's certificate names, wherever the server runs: no broker's or board's certificate does."""

MOST_REQUEST_BYTES, MOST_ANSWER_BYTES = 1 << 10, 1 << 17
TOKEN_BYTES = 6
_FINGERPRINT_BYTES = 4
_CONSONANTS, _VOWELS = "bdfghjklmnprstvz", "aiou"
_WORD = re.compile(f"[{_CONSONANTS}][{_VOWELS}][{_CONSONANTS}][{_VOWELS}][{_CONSONANTS}]")
_FILES = ("agent.toml", "ca.crt", "board.crt", "board.key", "operator.pub")


class BoardFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All that a board needs to take part: one file, which is a secret.

    Attributes:
        federation: its name.
        device: the board's name.
        files: their content by their names; agent.toml names the others.
    """

    federation: Annotated[str, Meta(pattern=NAME)]
    device: DeviceName
    files: Annotated[dict[Name, Annotated[str, Meta(max_length=1 << 16)]], Meta(max_length=len(_FILES))]


class JoinRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a board says."""

    ask: Name
    token: Name = ""


class JoinAnswer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What the server says; one of the three."""

    authority: Annotated[str, Meta(max_length=1 << 16)] = ""
    board: BoardFile | None = None
    error: Annotated[str, Meta(max_length=300)] = ""


@dataclass(frozen=True, slots=True)
class JoinCode:
    """A code, taken apart.

    Attributes:
        token: authorises once.
        fingerprint: of the authority, keyed with the token.
        host: where the server is.
        port: of the server.
    """

    token: bytes
    fingerprint: bytes
    host: str
    port: int

    def __str__(self) -> str:
        place = f"[{self.host}]" if ":" in self.host else self.host
        return f"{words(self.token + self.fingerprint)}@{place}{'' if self.port == PORT else f':{self.port}'}"

    def names(self, authority: bytes) -> bool:
        """Whether it is this authority's (its certificate in DER)."""
        return hmac.compare_digest(self.fingerprint, fingerprint(self.token, authority))


def fingerprint(token: bytes, authority: bytes) -> bytes:
    """What a code says of an authority, whose certificate is given in DER."""
    return hmac.digest(token, authority, "sha256")[:_FINGERPRINT_BYTES]


def hashed(token: str) -> str:
    """What the server keeps of a token (hexadecimal)."""
    return hashlib.sha256(b"lamina join " + token.encode()).hexdigest()


def parsed(code: str) -> JoinCode:
    """The code that a person has typed, in small or capital letters, with hyphens or spaces.

    Raises:
        ConfigError: it is none.
    """
    said, at, place = code.strip().rpartition("@")
    parts = re.split(r"[\s-]+", said.strip().lower())
    if not at or len(parts) != (TOKEN_BYTES + _FINGERPRINT_BYTES) // 2 or not all(map(_WORD.fullmatch, parts)):
        raise ConfigError(
            "this is no code: it is five words of five letters, an @, and where `lamina enrol --serve` runs, such as "
            "lusab-babad-gutih-tugad-hupuk@192.168.1.10"
        )
    content = b"".join(map(_bits, parts))
    host, port = _place(place)
    return JoinCode(content[:TOKEN_BYTES], content[TOKEN_BYTES:], host, port)


def words(content: bytes) -> str:
    """Bytes as proquints; an even number of them."""
    return "-".join(_word(int.from_bytes(content[at : at + 2], "big")) for at in range(0, len(content), 2))


def read_board_file(content: bytes) -> BoardFile:
    """The file of a board.

    Raises:
        DecodeError: it is none, or it would write other files than a board's.
    """
    try:
        file = from_json(content, BoardFile)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise DecodeError(f"no file of a board: {error}") from error
    return checked(file)


def checked(file: BoardFile) -> BoardFile:
    """Return the file if it has what a board's has.

    Raises:
        DecodeError: it has not.
    """
    if sorted(file.files) != sorted(_FILES):
        raise DecodeError(f"no file of a board: it holds other files than {', '.join(_FILES)}")
    return file


def _word(number: int) -> str:
    return (
        _CONSONANTS[number >> 12] + _VOWELS[number >> 10 & 3] + _CONSONANTS[number >> 6 & 15]
        + _VOWELS[number >> 4 & 3] + _CONSONANTS[number & 15]
    )  # fmt: skip


def _bits(word: str) -> bytes:
    number = 0
    for at, letter in enumerate(word):
        letters, bits = (_VOWELS, 2) if at % 2 else (_CONSONANTS, 4)
        number = number << bits | letters.index(letter)
    return number.to_bytes(2, "big")


def _place(place: str) -> tuple[str, int]:
    found = re.fullmatch(r"(?:\[(?P<six>[0-9a-fA-F:.]+)\]|(?P<name>[A-Za-z0-9._-]+))(?::(?P<port>\d{1,5}))?", place)
    port = int(found["port"] or PORT) if found else 0
    if not found or not 0 < port < 65536:
        raise ConfigError(f"{place[:80]!r} behind the code's @ is no place: give it as HOST or HOST:PORT")
    return found["six"] or found["name"], port
