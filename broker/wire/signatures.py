"""Makes and checks the signatures of orders: Ed25519, by libsodium.

A key file is PEM as `openssl genpkey -algorithm ed25519` writes it (RFC 8410), so that a key may as well be kept in
whatever else knows PEM.
"""

from __future__ import annotations

import base64
import binascii
import re

import msgspec
from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

from lamina.broker.wire.messages import Message, decode, encode
from lamina.broker.wire.orders import Mandate, Signed, endorsed_bytes, envelope, is_signed, signed_bytes
from lamina.models.errors import ConfigError, DecodeError

# What stands before the 32 bytes of a key in its DER form.
_SECRET = bytes.fromhex("302e020100300506032b657004220420")
_PUBLIC = bytes.fromhex("302a300506032b6570032100")
_PEM = re.compile(r"-----BEGIN (?P<what>[A-Z ]+)-----\s+(?P<body>[A-Za-z0-9+/=\s]+?)\s+-----END (?P=what)-----")
_SECRET_NAME, _PUBLIC_NAME = "PRIVATE KEY", "PUBLIC KEY"


class Trusted(msgspec.Struct, frozen=True):
    """An order whose signatures are good.

    Attributes:
        order: its bytes.
        sequence: its place among the orders of its mandate.
        mandate: by which it was given.
    """

    order: bytes
    sequence: int
    mandate: Mandate


def secret_pem(key: SigningKey) -> str:
    """The file of a secret key."""
    return _pem(_SECRET_NAME, _SECRET + bytes(key))


def public_pem(key: VerifyKey) -> str:
    """The file of a public key."""
    return _pem(_PUBLIC_NAME, _PUBLIC + bytes(key))


def secret_key(text: str, what: str) -> SigningKey:
    """The key in a file.

    Raises:
        ConfigError: it holds none; ``what`` says whose it is.
    """
    return SigningKey(_der(text, _SECRET_NAME, _SECRET, what))


def public_key(text: str, what: str) -> VerifyKey:
    """The key in a file.

    Raises:
        ConfigError: it holds none; ``what`` says whose it is.
    """
    return VerifyKey(_der(text, _PUBLIC_NAME, _PUBLIC, what))


def endorsed(operator: SigningKey, mandate: Mandate) -> tuple[bytes, bytes]:
    """A mandate's bytes, and the operator's signature of them."""
    content = encode(mandate)
    return content, operator.sign(endorsed_bytes(content)).signature


def sealed(
    coordinator: SigningKey, mandate: bytes, endorsement: bytes, *, topic: str, sequence: int, order: Message
) -> bytes:
    """An order in its envelope, as it is said on ``topic``."""
    content = encode(order)
    signature = coordinator.sign(signed_bytes(topic, sequence, content)).signature
    return encode(
        Signed(order=content, sequence=sequence, signature=signature, mandate=mandate, endorsement=endorsement)
    )


class Checker:
    """Checks orders against the operator's key. The mandate that it saw last is not checked twice.

    Args:
        operator: the operator's public key.
        federation: the only one whose mandates count.
    """

    def __init__(self, operator: VerifyKey, federation: str) -> None:
        self._operator, self._federation = operator, federation
        self._seen: tuple[bytes, bytes, Mandate] | None = None

    def check(self, topic: str, payload: bytes) -> Trusted:
        """The order that came on a topic.

        Raises:
            DecodeError: it is not signed, or by nobody for whom the operator spoke; or it was said elsewhere.
        """
        if not is_signed(payload):
            raise DecodeError("it is not signed by the federation's operator")
        signed = envelope(payload)
        mandate = self._mandate(signed.mandate, signed.endorsement)
        if not _is_good(VerifyKey(mandate.key), signed_bytes(topic, signed.sequence, signed.order), signed.signature):
            raise DecodeError("its signature is not that of the coordinator for whom the operator spoke")
        return Trusted(signed.order, signed.sequence, mandate)

    def _mandate(self, content: bytes, endorsement: bytes) -> Mandate:
        if self._seen is not None and self._seen[:2] == (content, endorsement):
            return self._seen[2]
        if not _is_good(self._operator, endorsed_bytes(content), endorsement):
            raise DecodeError("its mandate is not signed by the federation's operator")
        mandate = decode(content, Mandate)
        if mandate.federation != self._federation:
            raise DecodeError("its mandate is for another federation")
        self._seen = content, endorsement, mandate
        return mandate


def _is_good(key: VerifyKey, content: bytes, signature: bytes) -> bool:
    try:
        key.verify(content, signature)
    except BadSignatureError:
        return False
    return True


def _pem(what: str, der: bytes) -> str:
    return f"-----BEGIN {what}-----\n{base64.b64encode(der).decode()}\n-----END {what}-----\n"


def _der(text: str, name: str, prefix: bytes, what: str) -> bytes:
    found = _PEM.search(text)
    if found is None or found["what"] != name:
        raise ConfigError(f"{what}: holds no Ed25519 {name.lower()} in PEM")
    try:
        der = base64.b64decode("".join(found["body"].split()), validate=True)
    except binascii.Error:
        raise ConfigError(f"{what}: its PEM is damaged") from None
    if len(der) != len(prefix) + 32 or not der.startswith(prefix):
        raise ConfigError(f"{what}: holds a key of another kind than Ed25519")
    return der[len(prefix) :]
