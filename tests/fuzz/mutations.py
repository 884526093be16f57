"""Inputs that come near to what a decoder awaits: valid ones, whose values, lengths, bytes and depth were spoilt."""

from __future__ import annotations

import random
import struct
from typing import Any

import google_crc32c
import msgspec

_encode = msgspec.msgpack.Encoder().encode


def nested(rng: random.Random, depth: int) -> bytes:
    """MessagePack that is nested so deeply, by lists, maps or both."""
    openings = rng.choice(([b"\x91"], [b"\x81\xa1a"], [b"\x91", b"\x81\xa1a", b"\xdc\x00\x01", b"\xde\x00\x01\xa1k"]))
    return b"".join(rng.choice(openings) for _ in range(depth)) + b"\xc0"


def odd_value(rng: random.Random) -> object:
    """A value that a field may not be ready for."""
    return rng.choice((
        None, True, 0, -1, 2**31, 2**32, 2**63 - 1, 2**64 - 1, -(2**63), 0.0, -0.0, 1e308, float("nan"), float("inf"),
        "", "x" * rng.choice((1, 65, 1001, 70_000)), "../../etc/passwd", "a\0b", "#", "+", "\u202e", "é" * 40,
        b"\xff" * rng.choice((1, 70)), [], [1] * rng.choice((1, 17, 3000)), [None], [[1]], {}, {"a": 1}, {1: 2},
        msgspec.msgpack.Ext(rng.randrange(-128, 128), b"x" * rng.randrange(20)),
        msgspec.Raw(nested(rng, rng.choice((3, 60, 300, 2000)))),
    ))  # fmt: skip


def spoilt_object(rng: random.Random, fields: dict[str, Any]) -> bytes:
    """A message's fields as MessagePack, after some were replaced, left out, or added."""
    spoilt = dict(fields)
    for _ in range(rng.choice((1, 1, 2, 4))):
        name, kind = rng.choice(list(spoilt) or ["v"]), rng.random()
        if kind < 0.6:
            spoilt[name] = odd_value(rng)
        elif kind < 0.7:
            spoilt.pop(name, None)
        elif kind < 0.8:
            spoilt[rng.choice(("z", "v ", "kind\0", "é" * 300))] = odd_value(rng)
        elif isinstance(spoilt.get(name), list | tuple) and spoilt[name]:
            items = list(spoilt[name])
            items[rng.randrange(len(items))] = odd_value(rng)
            spoilt[name] = items
        elif isinstance(spoilt.get(name), dict):
            spoilt[name] = {**spoilt[name], rng.choice(("a", "", "x" * 99)): odd_value(rng)}
    content = _encode(spoilt)
    return spoilt_bytes(rng, content) if rng.random() < 0.2 else content


def spoilt_bytes(rng: random.Random, content: bytes) -> bytes:
    """Some bytes replaced, cut off, doubled, or put in."""
    spoilt = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        if not spoilt:
            break
        at, kind = rng.randrange(len(spoilt)), rng.random()
        if kind < 0.4:
            spoilt[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        elif kind < 0.6:
            spoilt[at : at + 4] = struct.pack(
                "<I", rng.choice((0, 1, 2**31, 2**32 - 1, len(content), rng.getrandbits(32)))
            )
        elif kind < 0.75:
            del spoilt[at:]
        elif kind < 0.9:
            spoilt[at:at] = rng.randbytes(rng.choice((1, 4, 30)))
        else:
            spoilt[at:at] = spoilt[at : at + 40]
    return bytes(spoilt)


def sealed_again(message: bytes) -> bytes:
    """A message of `wire.framing` whose checksum is right again: what a sender that lies would send."""
    return message[:4] + struct.pack("<I", google_crc32c.value(message[8:])) + message[8:]
