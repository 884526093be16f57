"""Orders that are signed: what makes a board fetch, load or run something carries its operator's consent.

A task and a plan are orders. Where the federation has an operator's key they cross the wire in an envelope:

    Signed      the order's bytes, a sequence number, the coordinator's signature over both and over the topic,
                and the mandate by which the coordinator speaks
    Mandate     the operator's word, signed by the operator's key: this coordinator's key speaks for this federation,
                with these bundles, until then

So a signature binds an order to its federation and its device (both stand in the topic), and to its epoch and round
(both stand in the order's bytes). The sequence number, within one mandate, and the mandate's own time of issue grow:
an order that was good once is not good again after a later one (`edge_agent.admission.orders`).

The manifest is signed by its digest, which stands in the mandate, and names every file of the bundle by its own. A
layer's value is signed by its digest, which stands in the plan (`lamina.broker.wire.deltas.digest_of`).

The key that signs mandates may be kept off the coordinator's machine. `signatures` makes and checks the signatures; it
alone needs a library for that.
"""

from __future__ import annotations

import struct

from lamina.broker.wire.bounds import Digests, Endorsement, Epoch, Key, Name, OrderBytes, SignatureBytes
from lamina.broker.wire.messages import Message, decode

_SEQUENCE = struct.Struct("<Q")
_ORDER = b"lamina order 1\0"
_MANDATE = b"lamina mandate 1\0"
_TAG = b"\xa4kind\xa6signed"


class Mandate(Message, frozen=True, kw_only=True, tag="mandate"):
    """The operator's word that a coordinator's key may speak for a federation.

    Attributes:
        federation: its name.
        key: the coordinator's public key, Ed25519.
        manifests: SHA-256 of the manifest of each bundle that boards may be given.
        issued: microseconds since 1970; a later mandate replaces all before it.
        until: seconds since 1970, after which boards take no more orders by it.
    """

    federation: Name
    key: Key
    manifests: Digests
    issued: Epoch
    until: Epoch


class Signed(Message, frozen=True, kw_only=True, tag="signed"):
    """The envelope of an order.

    Attributes:
        order: the bytes of a task or a plan.
        sequence: grows with every order that a coordinator signs.
        signature: the coordinator's, of `signed_bytes`.
        mandate: the bytes of the `Mandate`.
        endorsement: the operator's signature, of `endorsed_bytes`.
    """

    order: OrderBytes
    sequence: Epoch
    signature: SignatureBytes
    mandate: Endorsement
    endorsement: SignatureBytes


def signed_bytes(topic: str, sequence: int, order: bytes) -> bytes:
    """What a coordinator signs: the order, where it is said, and its place among all orders."""
    return b"".join((_ORDER, topic.encode(), b"\0", _SEQUENCE.pack(sequence), order))


def endorsed_bytes(mandate: bytes) -> bytes:
    """What the operator signs."""
    return _MANDATE + mandate


def is_signed(payload: bytes) -> bool:
    """Whether a message is an envelope, by its first bytes."""
    return _TAG in payload[:24]


def opened(payload: bytes) -> bytes:
    """The order in an envelope, unchecked; a message without an envelope is its own order.

    For programs to which no operator's key was given: laptops, emulations, aggregators.

    Raises:
        DecodeError: the envelope is damaged.
    """
    return envelope(payload).order if is_signed(payload) else payload


def envelope(payload: bytes) -> Signed:
    """The envelope, unchecked.

    Raises:
        DecodeError: it is none, or it is damaged.
    """
    return decode(payload, Signed)
