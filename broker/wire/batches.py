"""The values of many small layers cross in one message: one after the other, each as it would cross alone.

A broker and two clients take about as long over a message of a hundred bytes as over one of ten thousand, and most
layers are small. So the messages of several layers may be put into a batch:

| bytes   | field                                                              |
| ------- | ------------------------------------------------------------------ |
| 4       | magic, ``LAMB``                                                    |
| 4       | u32, little-endian: length of the message that follows; and so on  |
| rest    | the message, a chunk of `lamina.broker.wire.chunks` with its own CRC-32C       |
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

from lamina.broker.wire.bounds import MOST_LAYERS
from lamina.broker.wire.runs import runs
from lamina.models.errors import DecodeError

_MAGIC = b"LAMB"
_LENGTH = struct.Struct("<I")

WRAPPING_BYTES = len(_MAGIC) + _LENGTH.size
"""What a batch of one message has beside it."""


def size(messages: Sequence[bytes]) -> int:
    """Bytes of the batch that `pack` makes."""
    return size_of([len(message) for message in messages])


def size_of(lengths: Sequence[int]) -> int:
    """Bytes of the batch of messages of these lengths."""
    return len(_MAGIC) + _LENGTH.size * len(lengths) + sum(lengths)


def pack(messages: Sequence[bytes]) -> bytes:
    """The batch of some messages, in their order."""
    return _MAGIC + b"".join(_LENGTH.pack(len(message)) + message for message in messages)


def packed(messages: Sequence[bytes], most_bytes: int) -> Iterator[bytes]:
    """Batches of all the messages, in their order, each of at most ``most_bytes`` unless one message alone is more."""
    for part in parts([len(message) for message in messages], most_bytes):
        yield pack(messages[part])


def parts(lengths: Sequence[int], most_bytes: int) -> Iterator[slice]:
    """Which messages of these lengths go into each batch."""
    return runs([_LENGTH.size + length for length in lengths], most_bytes - len(_MAGIC))


def unpack(payload: bytes, layers: int = MOST_LAYERS) -> list[bytes]:
    """The messages of a batch.

    Args:
        payload: of the whole batch.
        layers: of the model; a batch holds two chunks of a layer at most, since more would not fit with one another.

    Raises:
        DecodeError: it is no batch, ends within a message, or holds too many.
    """
    if payload[: len(_MAGIC)] != _MAGIC:
        raise DecodeError(f"not a batch of values: it begins with {bytes(payload[:4])!r}")
    messages: list[bytes] = []
    start = len(_MAGIC)
    while start < len(payload):
        if start + _LENGTH.size > len(payload):
            raise DecodeError(f"a batch of {len(payload)} bytes ends within a length")
        (length,) = _LENGTH.unpack_from(payload, start)
        start += _LENGTH.size
        if start + length > len(payload):
            raise DecodeError(f"a batch of {len(payload)} bytes ends within a message of {length}")
        if len(messages) == 2 * layers:
            raise DecodeError(f"a batch of more than {len(messages)} messages, of a model of {layers} layers")
        messages.append(bytes(payload[start : start + length]))
        start += length
    return messages
